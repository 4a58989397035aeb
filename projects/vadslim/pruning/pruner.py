"""The structured pruner: which units of which Groups stay."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..registry import ALLOCATIONS, IMPORTANCES, PRUNERS
from .group import Group
from .slim import resize
from .structure import make_structure
from .target import Cost, Solution, search


class PatternError(ValueError):
    """A pattern of targets or protect that matches no Group."""


@dataclass(frozen=True)
class PlanRow:
    """What a plan does with one Group.

    ``reason`` says why it keeps all its units, '' when it loses some. ``params_saved`` counts the parameters
    that leave when this Group alone is slimmed as planned.
    """

    name: str
    kind: str
    num_units: int
    kept: int
    reason: str
    params_saved: int


@PRUNERS.register_module()
class StructuredPruner:
    """Remove a fraction of the units of every Group, or as many as it takes to reach a goal.

    Args:
        ratio: Fraction to remove, 0 <= ratio < 1; ``search`` does without.
        importance: A name or config of IMPORTANCES, or a criterion.
        allocation: A name or config of ALLOCATIONS ('uniform', 'global', 'isomorphic', 'rules'), or an allocation.
        targets: fnmatch patterns over Group names, ``kind:NAME``, or ``default``, which matches all Groups that
            are on by default; only these Groups are pruned. None is ``default``, ``*`` is all.
        protect: The same; these are not pruned.
        round_to: Widths stay multiples of it: kept counts are rounded up, those of wide units (heads) as far as needed.
    """

    def __init__(
        self,
        ratio: float | None = None,
        importance: Any = 'L2',
        allocation: Any = 'uniform',
        targets: Sequence[str] | str | None = None,
        protect: Sequence[str] | str | None = None,
        round_to: int = 1,
    ) -> None:
        number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
        if ratio is not None and not (number and 0 <= ratio < 1):
            raise ValueError(f'ratio is {ratio!r}; it is the fraction to remove, from 0 up to but not including 1')
        if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
            raise ValueError(f'round_to is {round_to!r}, a positive integer is needed')
        self.ratio, self.round_to = None if ratio is None else float(ratio), round_to
        self.importance = _build(importance, IMPORTANCES, 'importance')
        self.allocation = _build(allocation, ALLOCATIONS, 'allocation')
        self.targets = None if targets is None else _patterns(targets)
        self.protect = [] if protect is None else _patterns(protect)

    def plan(
        self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None
    ) -> dict[str, list[int]]:
        """{Group name: kept units} for every Group, in their order; pure.

        Args:
            model: The network that the Groups were found on, with its weights.
            groups: Its Groups.
            batches: Data for importances that need it.

        Raises:
            PatternError: A pattern matches no Group.
            ValueError: The pruner was made without a ratio.
        """
        if self.ratio is None:
            raise ValueError('ratio is None: say which fraction to remove, or search for the one that reaches a goal')
        return self._plans(model, groups, batches)(self.ratio)

    def search(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        cost: Cost,
        goal: float | int | str,
        batches: Iterable[Any] | None = None,
        whole: float | None = None,
    ) -> Solution:
        """The plan of the smallest ratio at which the slim network costs at most ``goal``.

        To halve the MACs of any model::

            groups = find_groups(model, images)
            cost = vadslim.analysis.Macs(model, lambda m: m(images))
            found = StructuredPruner().search(model, groups, cost, 0.5)
            slim = resize(model, make_structure(model, groups, found.kept))

        Args:
            model: The network that the Groups were found on, with its weights.
            groups: Its Groups.
            cost: Of ``vadslim.analysis`` (``Params``, ``Macs``, ``LayerTimes``), made for this network.
            goal: A fraction of what the network costs now (0.5, '50%'), or a number with a unit ('80G', '33ms').
            batches: Data for importances that need it.
            whole: What a fraction is of; None is ``cost.dense``.

        Raises:
            PatternError: A pattern matches no Group.
            TargetError: The goal cannot be read, or no ratio reaches it.
        """
        plan_at = self._plans(model, groups, batches)

        def slim_of(kept: Mapping[str, Sequence[int]]) -> nn.Module:
            return resize(model, make_structure(model, groups, kept))

        return search(plan_at, groups, cost, goal, slim_of, whole=whole)

    def _plans(
        self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None
    ) -> Callable[[float], dict[str, list[int]]]:
        """ratio -> kept units of every Group; the scores are taken once."""
        reasons = self._reasons(groups)
        chosen = [group for group in groups if not reasons[group.name]]
        scores = self.importance(model, chosen, batches)

        def plan_at(ratio: float) -> dict[str, list[int]]:
            kept = self.allocation(chosen, scores, ratio, self.round_to)
            return {group.name: kept.get(group.name, list(range(group.num_units))) for group in groups}

        return plan_at

    def report(self, model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> list[PlanRow]:
        """One row per Group, those that are not pruned included, with the reason."""
        reasons = self._reasons(groups)
        sizes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        rows = []
        for group in groups:
            stay = len(kept.get(group.name, range(group.num_units)))
            reason = reasons[group.name]
            if not reason and stay == group.num_units:
                reason = self._nothing_leaves(group)
            saved = params_saved(group, kept.get(group.name, range(group.num_units)), sizes)
            rows.append(PlanRow(group.name, group.kind, group.num_units, stay, reason, saved))
        return rows

    def _nothing_leaves(self, group: Group) -> str:
        if self.ratio is not None and self.ratio * group.num_units < 1 and type(self.allocation).__name__ == 'Uniform':
            return f'ratio {self.ratio:g} of {group.num_units} units is less than one'
        return f'all units stay (round_to {self.round_to}, min_units {group.min_units}, scores)'

    def _reasons(self, groups: Sequence[Group]) -> dict[str, str]:
        """Why each Group is left alone, '' for those that are pruned."""
        targets = None if self.targets is None else match_groups(self.targets, groups, 'targets')
        protect = match_groups(self.protect, groups, 'protect')
        reasons = {}
        for group in groups:
            reason = group.protected
            if not reason and group.num_units <= group.min_units:
                reason = f'{group.num_units} units, min_units is {group.min_units}'
            if not reason and targets is None and not group.on:
                reason = 'off by default: name it in targets'
            if not reason and targets is not None and group.name not in targets:
                reason = 'not among the targets'
            if not reason and group.name in protect:
                reason = f'protected by the pattern {protect[group.name]}'
            reasons[group.name] = reason
        return reasons


def match_groups(patterns: Sequence[str], groups: Sequence[Group], argument: str) -> dict[str, str]:
    """{Group name: first pattern that matches}; one that matches none is an error naming the nearest."""
    matched: dict[str, str] = {}
    for pattern in patterns:
        of_kind = pattern.startswith('kind:')
        hits = [group.name for group in groups if _matches(pattern, group)]
        if not hits:
            known = sorted({f'kind:{group.kind}' for group in groups} if of_kind else {g.name for g in groups})
            near = difflib.get_close_matches(pattern, known, 1, 0.0)
            hint = f'; the nearest is {near[0]}' if near else '; there are no Groups'
            raise PatternError(f'{argument}: {pattern!r} matches none of {len(groups)} Groups{hint}')
        for name in hits:
            matched.setdefault(name, pattern)
    return matched


def _matches(pattern: str, group: Group) -> bool:
    if pattern.startswith('kind:'):
        return group.kind == pattern[5:]
    return group.on if pattern == 'default' else fnmatchcase(group.name, pattern)


def params_saved(group: Group, kept: Sequence[int], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Parameters that leave when one Group alone keeps the given units."""
    removed = group.removed(kept)
    left: dict[str, dict[int, int]] = {}
    for part in group.slices:
        if part.tensor in shapes:
            dims = left.setdefault(part.tensor, dict(enumerate(shapes[part.tensor])))
            dims[part.dim] -= int(part.positions(removed).size)
    return sum(math.prod(shapes[name]) - math.prod(dims.values()) for name, dims in left.items())


def _patterns(value: Sequence[str] | str) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _build(value: Any, registry: Any, argument: str) -> Any:
    """An object from its name, its config, or itself."""
    if callable(value) and not isinstance(value, type):
        return value
    config = {'type': value} if isinstance(value, str) else value
    if not isinstance(config, Mapping) or 'type' not in config:
        raise ValueError(f'{argument} is {value!r}; a name, a dict with the key type, or a callable is needed')
    name = str(config['type']).removeprefix('vadslim.')
    known = sorted(registry.module_dict)
    if name not in known:
        raise ValueError(f'{argument} {name!r} is not known; there are {", ".join(known)}')
    return registry.build(dict(config))
