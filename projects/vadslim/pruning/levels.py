"""Iterative pruning: how much of the whole ratio has left after each of several levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .allocation import Allocation, Uniform, best, removed_count, rounded
from .group import Group
from .rules import Rules

#: (ratio of the last level, part of the way in [0, 1]) -> ratio so far, both of the dense units
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # the same number of units at each level
    'linear': lambda ratio, way: ratio * way,
    # the same fraction of what is left at each level
    'geometric': lambda ratio, way: 1 - (1 - ratio) ** way,
    # most units first, while there are redundant ones (Zhu and Gupta, To Prune, or Not to Prune, 2017, equation 1)
    'cubic': lambda ratio, way: ratio * (1 - (1 - way) ** 3),
}


class Level:
    """One level's share of an allocation.

    After level k of n, a Group that is to lose the fraction R in the end has lost ``schedule(R, k / n)`` of the units
    that it had before the first level: counts are rounded once, not at each level anew. Where units of several Groups
    compete, the same fraction of all units that are left leaves.

    Args:
        allocation: What one level alone would do; called with the ratio of the last level.
        schedule: A name of SCHEDULES.
        number: This level, from 1.
        levels: How many there are.
        units: Group name -> units before the first level; Groups that it does not name still have all of theirs.
    """

    def __init__(
        self, allocation: Allocation, schedule: str, number: int, levels: int, units: Mapping[str, int] | None = None
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f'schedule {schedule!r} is not known; there are {", ".join(SCHEDULES)}')
        if not 1 <= number <= levels:
            raise ValueError(f'level {number} of {levels}: levels count from 1')
        self.allocation, self.schedule, self.number, self.levels = allocation, schedule, number, levels
        self.units = dict(units or {})

    def so_far(self, ratio: float, number: int | None = None) -> float:
        """The fraction that has left after a level (this one), where ``ratio`` has left after the last."""
        number = self.number if number is None else number
        return ratio if number == self.levels else SCHEDULES[self.schedule](ratio, number / self.levels)

    def __call__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, round_to: int = 1
    ) -> dict[str, list[int]]:
        if isinstance(self.allocation, Rules):
            ratios = self.allocation.ratios(groups, ratio)
        elif isinstance(self.allocation, Uniform):
            ratios = dict.fromkeys((group.name for group in groups), ratio)
        else:
            left = (1 - self.so_far(ratio)) / (1 - self.so_far(ratio, self.number - 1))
            return self.allocation(groups, scores, min(1 - left, math.nextafter(1, 0)), round_to)
        kept = {}
        for group in groups:
            units = self.units.get(group.name, group.num_units)
            count = units - removed_count(self.so_far(ratios[group.name]), units)
            kept[group.name] = best(scores[group.name], rounded(count, group, round_to))
        return kept
