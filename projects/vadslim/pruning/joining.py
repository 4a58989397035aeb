"""The meeting point: Groups of different sources that touch the same positions become one Group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from .group import OPEN, Attr, Group, GroupError, Index, Slice


def components(size: int, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The sets that pairs of the integers 0 .. size-1 form: for each its set's smallest member."""
    roots = np.arange(size)
    while True:
        low = np.minimum(roots[ones], roots[others])
        lower = roots.copy()
        for members in (ones, others):
            np.minimum.at(lower, members, low)
            np.minimum.at(lower, roots[members], low)
        while not np.array_equal(lower[lower], lower):
            lower = lower[lower]
        if np.array_equal(lower, roots):
            return roots
        roots = lower


def merge_reasons(reasons: Sequence[str], closed: bool = False) -> str:
    """Distinct reasons in one line; when the open side is declared, the reasons about it are left out."""
    parts = dict.fromkeys(part for reason in reasons for part in reason.split('; ') if part)
    return '; '.join(part for part in parts if not (closed and part.startswith(OPEN)))


def join_groups(sources: Sequence[Sequence[Group]]) -> list[Group]:
    """Join the Groups of different sources that touch the same position of the same (tensor, dim).

    Units that touch a common position become one unit: a source that speaks of heads of 32 rows and one that
    speaks of the rows give heads. Groups of one source are never joined by themselves, since one declaration
    may cut the same tensor along two axes (heads x value dimensions). What cannot be joined is kept apart and
    protected.

    Args:
        sources: One list per declaration, and one for everything traced; of joined Groups the first gives
            name and kind, and one that is off by default turns all off.

    Returns:
        The Groups in the order of their first parts.
    """
    groups = [group for source in sources for group in source]
    source_of = [number for number, source in enumerate(sources) for _ in source]
    starts = np.concatenate([[0], np.cumsum([group.num_units for group in groups])]).astype(int)
    touching: dict[tuple[str, int], list[tuple[int, Slice]]] = defaultdict(list)
    for number, group in enumerate(groups):
        for part in group.slices:
            touching[part.tensor, part.dim].append((number, part))
    unit_pairs, group_pairs = [(0, 0)], [(0, 0)]
    for parts in touching.values():
        if len({source_of[number] for number, _ in parts}) < 2:
            continue
        owners: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, part in parts:
            for position, unit in zip(part.index.flat.tolist(), part.index.units.tolist()):
                owners[position].append((number, int(starts[number]) + unit))
        for meeting in owners.values():
            for (one, unit), (other, other_unit) in combinations(meeting, 2):
                if source_of[one] != source_of[other]:
                    group_pairs.append((one, other))
                    unit_pairs.append((unit, other_unit))
    units = components(int(starts[-1]), *np.array(unit_pairs).T) if groups else starts
    together = components(len(groups), *np.array(group_pairs).T) if groups else starts

    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(groups)):
        members[int(together[number])].append(number)
    result = []
    for numbers in members.values():
        if len(numbers) == 1:
            result.append(groups[numbers[0]])
            continue
        names = ', '.join(groups[number].name for number in numbers)
        try:
            result.append(_merge([groups[n] for n in numbers], [int(starts[n]) for n in numbers], units))
        except GroupError as error:
            reason = f'the Groups {names} share positions but do not fit together ({error})'
            result += [replace(groups[n], protected=merge_reasons([groups[n].protected, reason])) for n in numbers]
    return result


def _merge(groups: list[Group], starts: list[int], units: np.ndarray) -> Group:
    """One Group whose units are the sets of units that were found to be one."""
    ranges = [units[start : start + group.num_units] for group, start in zip(groups, starts)]
    roots = np.unique(np.concatenate(ranges))
    new_unit = [np.searchsorted(roots, found).tolist() for found in ranges]
    places: dict[tuple[str, int], list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)  # units and their positions
    masks: dict[tuple[str, int], float] = {}
    for group, renumbered in zip(groups, new_unit):
        for part in group.slices:
            places[part.tensor, part.dim].append((np.asarray(renumbered)[part.index.units], part.index.flat))
            masks[part.tensor, part.dim] = masks.get((part.tensor, part.dim), 0.0) or part.mask_value
    slices = []
    for (tensor, dim), parts in places.items():
        owners, positions = (np.concatenate(side) for side in zip(*parts))
        size = int(positions.max(initial=0)) + 1
        owners, positions = np.divmod(np.unique(owners * size + positions), size)
        index = Index(positions, np.bincount(owners, minlength=len(roots)))
        slices.append(Slice(tensor, dim, index, masks[tensor, dim]))
    attrs, min_units = _merge_numbers(groups, new_unit, len(roots))
    reasons = [group.protected for group in groups]
    return replace(
        groups[0],
        num_units=len(roots),
        slices=tuple(slices),
        attrs=attrs,
        min_units=min_units,
        protected=merge_reasons(reasons, closed=any(group.closes for group in groups)),
        on=all(group.on for group in groups),
    )


def _merge_numbers(groups: list[Group], new_unit: list[list[int]], count: int) -> tuple[tuple[Attr, ...], int]:
    """Attributes and min_units of a merged Group; an attribute has to fall equally with every unit."""
    falls: dict[tuple[str, str], np.ndarray] = {}
    min_units = 1
    for group, renumbered in zip(groups, new_unit):
        held = np.bincount(renumbered, minlength=count)
        min_units = max(min_units, -(-group.min_units // int(held.max())))
        for attr in group.attrs:
            fall = held * attr.per_unit
            falls[attr.module, attr.name] = np.maximum(falls.get((attr.module, attr.name), 0), fall)
    attrs = []
    for (module, name), fall in falls.items():
        if np.unique(fall).size != 1:
            raise GroupError(f'{module}.{name} would fall by {fall.min()} to {fall.max()} per unit')
        attrs.append(Attr(module, name, int(fall[0])))
    return tuple(attrs), min(min_units, count)
