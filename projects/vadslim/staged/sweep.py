"""Grids of settings: ``training.lr=1e-3,5e-4`` and more, each combination in a folder of its own.

A folder's name says the values that differ, ``lr=0.0005_batch_size=32``. It depends on the combination alone: a grid
that grows keeps the names of what is finished. Fractions are written without exponents, so that names sort as the
numbers do in a listing as well as in TensorBoard.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vadslim.cli import UserError

from .flags import split_setting
from .yaml_files import read_scalar

MAX_NAME, MAX_RUNS = 100, 1000


@dataclass(frozen=True)
class Point:
    """One combination.

    Args:
        name: of its folder.
        overrides: dotted key -> text, for :func:`vadslim.staged.settings.resolve`.
    """

    name: str
    overrides: dict[str, str]


def grid(texts: Sequence[str]) -> list[Point]:
    """All combinations, the last key's values changing fastest.

    Args:
        texts: ``KEY=VALUE,VALUE``; commas in brackets and quotes are part of a value.

    Raises:
        UserError: a key or a value is given twice, a value is empty, or there are too many combinations.
    """
    values: dict[str, list[str]] = {}
    for text in texts:
        key, listed = split_setting(text)
        if key in values:
            raise UserError(f'--set {text}: {key} is given twice; list its values: {key}=A,B')
        values[key] = _split(listed)
        seen: set[str] = set()
        for value in values[key]:
            if not value:
                raise UserError(f'--set {text}: a value is empty')
            if (shown := _show(value)) in seen:
                raise UserError(f'--set {text}: {value} stands twice')
            seen.add(shown)
    count = 1
    for listed_values in values.values():
        count *= len(listed_values)
    if count > MAX_RUNS:
        raise UserError(f'--set: {count} combinations; at most {MAX_RUNS} are run')
    names = labels(list(values))
    points = []
    for combination in itertools.product(*values.values()):
        overrides = dict(zip(values, combination))
        points.append(Point(_name({names[key]: _show(value) for key, value in overrides.items()}), overrides))
    return points


def _split(text: str) -> list[str]:
    """Texts between commas that stand in no brackets and no quotes."""
    parts, depth, quote = [''], 0, ''
    for letter in text:
        if quote:
            quote = '' if letter == quote else quote
        elif letter in '"\'':
            quote = letter
        else:
            depth += (letter in '[{(') - (letter in ']})')
        if letter == ',' and depth <= 0 and not quote:
            parts.append('')
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def labels(keys: Sequence[str]) -> dict[str, str]:
    """The shortest endings of dotted keys that tell them apart; a stage's keys begin with its name."""
    scoped = {key: key.split('.')[2 if key.startswith('stages.') else 0 :] for key in keys}
    stages = {key: f'{key.split(".")[1]}.' if key.startswith('stages.') else '' for key in keys}
    found = {}
    for key, parts in scoped.items():
        others = [scoped[other] for other in keys if other != key and stages[other] == stages[key]]
        length = next(
            (length for length in range(1, len(parts)) if all(other[-length:] != parts[-length:] for other in others)),
            len(parts),
        )
        found[key] = stages[key] + '.'.join(parts[-length:])
    return found


def _show(text: str) -> str:
    """A value as it stands in a name: numbers in one spelling each."""
    try:
        value = read_scalar(text)
    except ValueError:
        return text
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        plain = f'{value:.10f}'.rstrip('0').rstrip('.')
        same = 1e-8 <= abs(value) < 1e9 and float(plain) == value
        return plain if same or value == 0 else f'{value:g}' if float(f'{value:g}') == value else repr(value)
    return str(value)


def _name(shown: dict[str, str]) -> str:
    """A folder's name; where letters had to go, a short hash keeps it apart from others."""
    whole = '_'.join(f'{label}={value}' for label, value in shown.items())
    safe = re.sub(r'[^A-Za-z0-9_=.+-]+', '-', whole)
    if safe == whole and len(safe) <= MAX_NAME:
        return safe
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f'{safe[: MAX_NAME - len(digest) - 1]}_{digest}'
