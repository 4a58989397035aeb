"""Allocation: how many units each Group keeps, and which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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


def rounded(count: int, group: Group, round_to: int) -> int:
    """A kept count rounded up to a multiple of ``round_to`` and to ``min_units``, at most all units."""
    return min(group.num_units, max(group.min_units, -(-count // round_to) * round_to))


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


@ALLOCATIONS.register_module(name='global')
class Global:
    """The units of all Groups of a kind compete; scores count in multiples of their Group's mean."""

    def __call__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, round_to: int = 1
    ) -> dict[str, list[int]]:
        kinds: dict[str, list[Group]] = defaultdict(list)
        for group in groups:
            kinds[group.kind].append(group)
        kept = {}
        for members in kinds.values():
            relative = [scores[group.name] / max(float(np.mean(scores[group.name])), 1e-12) for group in members]
            owner = np.repeat(np.arange(len(members)), [group.num_units for group in members])
            stay = len(owner) - removed_count(ratio, len(owner))
            counts = np.bincount(owner[best(np.concatenate(relative), stay)], minlength=len(members))
            for group, count in zip(members, counts.tolist()):
                kept[group.name] = best(scores[group.name], rounded(count, group, round_to))
        return {group.name: kept[group.name] for group in groups}
