"""Allocation: how many units each Group keeps, and which."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

import numpy as np

from ..registry import ALLOCATIONS
from .group import Group

EPSILON = 1e-6  # 0.3 * 10 is 2.9999999999999996


class Allocation(Protocol):
    """Chooses the kept units from the scores; pure.

    Called with Groups (none of them protected), {name: scores}, the fraction to remove and ``round_to``, it
    returns {name: kept units, sorted}.
    """

    def __call__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, round_to: int = 1
    ) -> dict[str, list[int]]: ...


def removed_count(ratio: float, num_units: int) -> int:
    """How many of some units a ratio removes."""
    return int(np.floor(ratio * num_units + EPSILON))


def step(group: Group, round_to: int) -> int:
    """By how many units a kept count goes up for widths of ``round_to`` positions: by one head, if it has as many."""
    if round_to == 1:
        return 1
    sizes = {int(count) for part in group.slices for count in np.unique(np.diff(part.index.starts)) if count}
    return round_to // math.gcd(round_to, *(sizes or {1}))


def rounded(count: int, group: Group, round_to: int) -> int:
    """A kept count rounded up so that widths are multiples of ``round_to``, and to ``min_units``; at most all units."""
    units = step(group, round_to)
    return min(group.num_units, max(group.min_units, -(-count // units) * units))


def best(scores: np.ndarray, count: int) -> list[int]:
    """The ``count`` units with the largest scores, sorted; of equal ones the first."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind='stable')
    return sorted(order[:count].tolist())


@ALLOCATIONS.register_module(name='uniform')
class Uniform:
    """Every Group loses the same fraction of its units."""

    def __call__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, round_to: int = 1
    ) -> dict[str, list[int]]:
        kept = {}
        for group in groups:
            count = group.num_units - removed_count(ratio, group.num_units)
            kept[group.name] = best(scores[group.name], rounded(count, group, round_to))
        return kept


class _Competition:
    """Units of several Groups compete: those with the smallest scores leave, wherever they stand.

    Scores count in multiples of their Group's mean, so that wide and narrow layers can be compared.

    Args:
        max_ratio: No Group loses more than this fraction of its units, however small their scores are.
    """

    def __init__(self, max_ratio: float = 0.9) -> None:
        number = isinstance(max_ratio, int | float) and not isinstance(max_ratio, bool)
        if not number or not 0 < max_ratio < 1:
            raise ValueError(f'max_ratio is {max_ratio!r}; it is a fraction above 0 and below 1')
        self.max_ratio = float(max_ratio)

    def compares(self, group: Group) -> Hashable:
        """What is equal for Groups whose units compete."""
        raise NotImplementedError

    def __call__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, round_to: int = 1
    ) -> dict[str, list[int]]:
        classes: dict[Hashable, list[Group]] = defaultdict(list)
        for group in groups:
            classes[self.compares(group)].append(group)
        kept = {}
        for members in classes.values():
            for group, count in zip(members, self._counts(members, scores, ratio)):
                kept[group.name] = best(scores[group.name], rounded(count, group, round_to))
        return {group.name: kept[group.name] for group in groups}

    def _counts(self, members: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float) -> list[int]:
        """Kept units per Group of one class."""
        least = [max(g.min_units, g.num_units - removed_count(self.max_ratio, g.num_units)) for g in members]
        relative = []
        for group, count in zip(members, least):
            own = scores[group.name] / max(float(np.mean(scores[group.name])), 1e-12)
            own[best(own, count)] = np.inf  # so that others leave in place of a Group's last units
            relative.append(own)
        owner = np.repeat(np.arange(len(members)), [group.num_units for group in members])
        stay = len(owner) - removed_count(ratio, len(owner))
        counts = np.bincount(owner[best(np.concatenate(relative), stay)], minlength=len(members))
        return [int(count) for count in np.maximum(counts, least)]


@ALLOCATIONS.register_module(name='global')
class Global(_Competition):
    """The units of all Groups of a kind compete."""

    def compares(self, group: Group) -> Hashable:
        return group.kind


@ALLOCATIONS.register_module(name='isomorphic')
class Isomorphic(_Competition):
    """Only units of Groups of the same topology compete: scores of unlike structures are not comparable.

    Source: Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024. What they call a sub-structure's graph is
    read from the Group's data, see ``topology``.
    """

    def compares(self, group: Group) -> Hashable:
        return topology(group)


def topology(group: Group) -> Hashable:
    """What a Group's units consist of: equal for isomorphic Groups, whatever their widths and the layers' names.

    It is the kind, the numbers that fall with the units, and the multiset of layers. A layer is known by the tensors
    that the Group holds of it, and for each by the dimension, the positions per unit and the masked twin's value:
    a convolution that makes the units is (weight, dim 0), one that reads them (weight, dim 1), a batch norm has a
    running mean besides.
    """
    layers: dict[str, list[tuple[str, int, float, float]]] = defaultdict(list)
    for part in group.slices:
        module, _, tensor = part.tensor.rpartition('.')
        layers[module].append((tensor, part.dim, part.index.flat.size / group.num_units, part.mask_value))
    attrs = tuple(sorted((attr.name, attr.per_unit) for attr in group.attrs))
    return group.kind, attrs, tuple(sorted(tuple(sorted(layer)) for layer in layers.values()))
