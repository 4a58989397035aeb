"""Targets: the ratio at which a network costs what it may cost (parameters, MACs, milliseconds)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from .group import Group
from .structure import check_kept, removed_positions

Kept = Mapping[str, Sequence[int]]
Removed = Mapping[str, Mapping[int, np.ndarray]]

STEPS = 10_000  # ratios are multiples of 1 / STEPS
LEAST_SAVED = 1e-3  # of the dense cost; a slim network that takes no less than the dense one saves so much


class TargetError(ValueError):
    """A target that cannot be read, or cannot be reached."""


class OutOfReachError(TargetError):
    """Not even the plan of the largest ratio costs so little.

    Args:
        goal: What was asked for.
        ratio: The largest ratio.
        least: Its cost.
    """

    def __init__(self, goal: float, ratio: float, least: float) -> None:
        super().__init__(f'{goal:g} cannot be reached: a ratio of {ratio:g} leaves {least:g}')
        self.ratio, self.least = ratio, least


class Cost(Protocol):
    """What a network costs, predicted for slim ones from what they have lost. ``vadslim.analysis`` has some.

    Attributes:
        name: 'MACs', 'params', 'latency'.
        dense: cost of the network as it is.
        units: The units that a goal may be given in, and what each is in the unit of ``dense``.
        tolerance: By which fraction ``check`` may differ from the prediction; None where there is nothing to check.
    """

    name: str
    dense: float
    units: Mapping[str, float]
    tolerance: float | None

    def __call__(self, removed: Removed) -> float:
        """The predicted cost.

        Args:
            removed: tensor -> {dim: positions that leave}, as of ``removed_positions``.
        """
        ...

    def check(self, slim: nn.Module) -> float:
        """The cost of the slim network itself."""
        ...

    def show(self, value: float) -> str:
        """A cost for people, with its unit."""
        ...


@dataclass(frozen=True)
class Solution:
    """The plan that reaches a target.

    Args:
        name, dense: Of the cost; ``whole`` where that was given.
        goal: What the network may cost at most.
        ratio: The smallest ratio that reaches it, a multiple of 0.0001.
        kept: Kept units per Group at that ratio.
        predicted: The cost predicted for it.
        counted: The cost of the slim network itself, if it was counted or measured.
        scale: What predicted savings were multiplied by, because a slim network saved more or less than predicted.
    """

    name: str
    dense: float
    goal: float
    ratio: float
    kept: dict[str, list[int]]
    predicted: float
    counted: float | None = None
    scale: float = 1.0


def parse_goal(goal: float | int | str, dense: float, units: Mapping[str, float]) -> float:
    """A goal in the unit of ``dense``: a fraction of it (0.5, '50%'), or a number with a unit ('80G', '33ms').

    Raises:
        TargetError: It is neither.
    """
    examples = ', '.join(f'80{unit}' for unit in units)
    allowed = f'a fraction of what it is now (0.5, 50%), or a number with a unit ({examples})'
    text = str(goal).strip()
    found = re.fullmatch(r'(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*([a-zA-Zµ%]*)', text)
    if isinstance(goal, bool) or not found:
        raise TargetError(f'{text!r} is no target; write {allowed}')
    number, unit = float(found[1] + (found[2] or '')), found[3]
    if unit in units:
        value = number * units[unit]
    elif unit == '%' and number <= 100:
        value = dense * number / 100
    elif not unit and number <= 1:
        value = dense * number
    else:
        raise TargetError(f'{text!r} is no target; write {allowed}')
    if value <= 0:
        raise TargetError(f'{text!r} is no target: nothing would be left')
    return value


def solve(
    plan_at: Callable[[float], dict[str, list[int]]], cost_of: Callable[[Kept], float], goal: float
) -> tuple[float, dict[str, list[int]]]:
    """The smallest ratio at which a network costs at most ``goal``, by bisection; deterministic.

    Args:
        plan_at: ratio -> kept units; the larger the ratio, the fewer (rounding makes it a staircase: the ratio is
            that of the first step that is low enough).
        cost_of: Kept units -> cost.
        goal: In the unit of ``cost_of``.

    Returns:
        The ratio, a multiple of 0.0001, and its plan.

    Raises:
        OutOfReachError: Not even the largest ratio reaches it.
    """
    plans: dict[int, dict[str, list[int]]] = {}

    def reached(step: int) -> bool:
        plans[step] = plan_at(step / STEPS)
        return cost_of(plans[step]) <= goal

    if reached(0):
        return 0.0, plans[0]
    low, high = 0, STEPS - 1
    if not reached(high):
        raise OutOfReachError(goal, high / STEPS, cost_of(plans[high]))
    while high - low > 1:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle
    return high / STEPS, plans[high]


def search(
    plan_at: Callable[[float], dict[str, list[int]]],
    groups: Sequence[Group],
    cost: Cost,
    goal: float | int | str,
    slim_of: Callable[[Kept], nn.Module] | None = None,
    corrections: int = 2,
    whole: float | None = None,
) -> Solution:
    """The plan that reaches a goal by a predicted cost, checked against the slim network where that is possible.

    Where the check differs from the prediction by more than the cost's tolerance, the predicted saving is scaled to it,
    and the search done again.

    Args:
        plan_at: ratio -> kept units, monotone as for ``solve``.
        groups: All Groups of the plan.
        cost: Predicts.
        goal: See ``parse_goal``.
        slim_of: Kept units -> slim network, for ``cost.check``; None does without.
        corrections: How often at most the prediction is scaled.
        whole: What fractions are of, where the network has lost something else before; None is ``cost.dense``.

    Raises:
        TargetError: The goal cannot be read or reached; it says the range.
    """
    whole = cost.dense if whole is None else whole
    try:
        limit = parse_goal(goal, whole, cost.units)
    except TargetError as error:
        raise TargetError(f'target {cost.name}: {error}') from None

    scale = 1.0

    def cost_of(kept: Kept) -> float:
        return cost.dense - scale * (cost.dense - cost(removed_positions(groups, check_kept(groups, kept))))

    for turn in range(corrections + 1):
        try:
            ratio, kept = solve(plan_at, cost_of, limit)
        except OutOfReachError as error:
            raise TargetError(
                f'target {cost.name}: {goal} cannot be reached: ratios from 0 to {error.ratio:g} give '
                f'{cost.show(cost.dense)} to {cost.show(error.least)}, with these Groups and this allocation'
            ) from None
        predicted = cost_of(kept)
        if slim_of is None or cost.tolerance is None:
            counted = None
            break
        counted = cost.check(slim_of(kept))
        exact = predicted == cost.dense or abs(counted / predicted - 1) <= cost.tolerance
        if exact or turn == corrections:
            break
        scale *= max(cost.dense - counted, LEAST_SAVED * cost.dense) / (cost.dense - predicted)
    return Solution(cost.name, whole, limit, ratio, kept, predicted, counted, scale)


def savings(groups: Sequence[Group], kept: Kept, cost: Cost) -> dict[str, float]:
    """What each Group would save if it alone kept the given units, in the unit of ``cost.dense``."""
    return {
        group.name: cost.dense - cost(removed_positions([group], check_kept([group], {group.name: kept[group.name]})))
        for group in groups
        if group.name in kept
    }
