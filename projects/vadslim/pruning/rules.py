"""Allocation by rules: a ratio of its own for Groups of a name pattern or a kind."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..registry import ALLOCATIONS
from .allocation import best, removed_count, rounded
from .group import Group
from .pruner import match_groups

FILE_KEYS = ('rules', 'default', 'sensitivity')
KEYS = ('pattern', 'kind', 'ratio', 'scale')


class RuleError(ValueError):
    """A rule, or a file of rules, with a mistake; the message says where."""


@dataclass(frozen=True)
class Rule:
    """How much some Groups lose.

    Args:
        pattern: An fnmatch pattern over Group names, or ``kind:NAME``.
        ratio: The fraction that they lose, whatever the pruner's ratio.
        scale: In place of ``ratio``: they lose this many times the pruner's ratio, so that they take part in the
            search for a target.
    """

    pattern: str
    ratio: float | None = None
    scale: float | None = None

    def at(self, ratio: float) -> float:
        """The fraction that leaves when the pruner's is ``ratio``; always below 1."""
        if self.ratio is not None:
            return self.ratio
        return min(ratio * (self.scale if self.scale is not None else 1.0), math.nextafter(1, 0))


@ALLOCATIONS.register_module(name='rules')
class Rules:
    """Every Group loses the fraction that the first rule that matches it says.

    The first match wins, as in a routing table: exceptions stand before what they are exceptions from. (A rule that
    never applies, because rules before it match all its Groups, is an error.) ::

        rules=[dict(pattern='img_backbone.layer1.*', ratio=0.1), dict(kind='head', ratio=0.25)]

    Args:
        rules: Dicts of one of ``pattern`` (as in the pruner's targets) and ``kind``, and one of ``ratio`` (the
            fraction to remove) and ``scale`` (a multiple of the pruner's ratio).
        default: Fraction that Groups of no rule lose; by default the pruner's ratio.

    Raises:
        RuleError: A rule has a mistake.
    """

    def __init__(self, rules: Sequence[Mapping[str, Any]], default: float | None = None) -> None:
        self.rules = parse_rules(rules)
        self.default = None if default is None else _fraction(default, 'default')

    def __call__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, round_to: int = 1
    ) -> dict[str, list[int]]:
        ratios = self.ratios(groups, ratio)
        kept = {}
        for group in groups:
            count = group.num_units - removed_count(ratios[group.name], group.num_units)
            kept[group.name] = best(scores[group.name], rounded(count, group, round_to))
        return kept

    def ratios(self, groups: Sequence[Group], ratio: float) -> dict[str, float]:
        """The fraction that each Group loses when the pruner's is ``ratio``.

        Raises:
            PatternError: A pattern matches no Group that can be pruned.
            RuleError: A rule never applies.
        """
        taken: dict[str, float] = {}
        for number, rule in enumerate(self.rules, 1):
            hits = match_groups([rule.pattern], groups, 'rules')
            if all(name in taken for name in hits):
                raise RuleError(
                    f'rules: rule {number} ({rule.pattern}) never applies, for the first match wins and rules before '
                    f'it match all its {len(hits)} Groups: put it before them'
                )
            for name in hits:
                taken.setdefault(name, rule.at(ratio))
        rest = ratio if self.default is None else self.default
        return {group.name: taken.get(group.name, rest) for group in groups}


def parse_rules(data: Any) -> list[Rule]:
    """Rules from plain data; ``RuleError`` says which one has which mistake."""
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise RuleError(f'rules is {data!r:.60}, a list of dicts is needed')
    return [_rule(rule, f'rule {number}') for number, rule in enumerate(data, 1)]


def load_rules(path: str | Path) -> dict[str, Any]:
    """The allocation that a JSON or YAML file describes: a list of rules, or an object {rules, default}.

    The object may say what the rules were made from, ``sensitivity: {file, metrics}`` (``rules_origin``); the
    allocation does not depend on it.

    Returns:
        ``dict(type='rules', rules=[...], default=...)``, checked, for ``StructuredPruner(allocation=...)``.

    Raises:
        RuleError: The file is missing or is no list of rules.
    """
    content = _content(path)
    try:
        _origin(content.pop('sensitivity', None), Path(path))
        Rules(**content)
    except RuleError as error:
        raise RuleError(f'rules {path}: {error}') from None
    return {'type': 'rules', **content}


@dataclass(frozen=True)
class Origin:
    """What rules were made from.

    Args:
        file: The measurements, ``sensitivity.json``; it may be gone.
        metrics: Name -> whether larger values are better, of those that the rules hold to.
    """

    file: Path
    metrics: Mapping[str, bool]


def rules_origin(path: str | Path) -> Origin | None:
    """What the rules of a file were made from, None where it does not say; errors as of ``load_rules``."""
    return _origin(_content(path).get('sensitivity'), Path(path))


def _content(path: str | Path) -> dict[str, Any]:
    """What a file of rules holds, as an object with the key ``rules`` and no key that is not known."""
    try:
        text = Path(path).read_text(encoding='utf-8')
        data = json.loads(text) if Path(path).suffix.lower() == '.json' else yaml.safe_load(text)
    except OSError as error:
        raise RuleError(f'rules {path}: {error.strerror or error}') from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise RuleError(f'rules {path}: not a JSON or YAML file ({" ".join(str(error).split())[:120]})') from None
    content = dict(data) if isinstance(data, Mapping) else {'rules': data}
    try:
        _check_keys(content, FILE_KEYS, 'the file')
        if 'rules' not in content:
            raise RuleError('the file has no key rules')
    except RuleError as error:
        raise RuleError(f'rules {path}: {error}') from None
    return content


def _origin(data: Any, path: Path) -> Origin | None:
    if data is None:
        return None
    if not isinstance(data, Mapping) or not isinstance(data.get('file'), str):
        raise RuleError(f'sensitivity is {data!r:.60}; an object with the key file, a path, is needed')
    metrics = data.get('metrics') or {}
    if not isinstance(metrics, Mapping) or not all(isinstance(value, bool) for value in metrics.values()):
        raise RuleError(f'sensitivity: metrics is {metrics!r:.60}; names, and whether larger is better, are needed')
    return Origin(path.parent / data['file'], dict(metrics))


def _rule(data: Any, where: str) -> Rule:
    if not isinstance(data, Mapping):
        raise RuleError(f'{where} is {data!r:.60}, an object such as {{"kind": "head", "ratio": 0.25}} is needed')
    _check_keys(data, KEYS, where)
    for one, other in (('pattern', 'kind'), ('ratio', 'scale')):
        if (one in data) == (other in data):
            raise RuleError(f'{where} has {"both" if one in data else "neither"} {one} and {other}; one is needed')
    name = data.get('pattern', data.get('kind'))
    if not isinstance(name, str) or not name:
        raise RuleError(f'{where}: {name!r:.60} is not the name of a Group or a kind')
    pattern = name if 'pattern' in data else f'kind:{name}'
    if 'ratio' in data:
        return Rule(pattern, ratio=_fraction(data['ratio'], f'{where}: ratio'))
    return Rule(pattern, scale=_number(data['scale'], f'{where}: scale', math.inf, 'a number of at least 0'))


def _check_keys(data: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.0)[0]
            raise RuleError(f'{where} has the key {key!r}; the nearest is {near}, allowed are {", ".join(known)}')


def _fraction(value: Any, where: str) -> float:
    return _number(value, where, 1.0, 'the fraction to remove, from 0 up to but not including 1')


def _number(value: Any, where: str, below: float, allowed: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < below:
        raise RuleError(f'{where} is {value!r:.60}; it has to be {allowed}')
    return float(value)
