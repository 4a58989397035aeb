"""How strong the penalty of RSST is at each step of a level.

Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021 (a factor that grows in equal
steps up to a ceiling); the other curves are those of RSST's public code, over the whole level in place of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .masks import SparseError

ALPHA = 5.0  # steepness of ``exp``: a hundredth of the way up after a fifth of the level

#: (progress p in [0, 1], exponents E) -> [0, 1], from 0 at the level's start to 1 at its end; E counts in the last only
SCHEDULES: dict[str, Callable[..., float]] = {
    'x': lambda p, exponents=4: p,
    'x^2': lambda p, exponents=4: p**2,
    'x^3': lambda p, exponents=4: p**3,
    'exp': lambda p, exponents=4: math.expm1(ALPHA * p) / math.expm1(ALPHA),
    'exp_custom': lambda p, exponents=4: math.expm1(p) / math.expm1(1),
    'exp_custom_exponents': lambda p, exponents=4: math.expm1(p**exponents) / math.expm1(1),
}


def level_progress(epoch: int, batch: int, epochs: int, batches: int) -> float:
    """How much of a level is done after a batch: (epoch * batches + batch + 1) / (epochs * batches).

    Args:
        epoch: Of this level, from 0.
        batch: Of this epoch, from 0.
        epochs: How many epochs the level has.
        batches: How many batches an epoch has.
    """
    return (epoch * batches + batch + 1) / (epochs * batches)


def penalty_factor(
    schedule: str, progress: float, granularity: float = 1.0, exponents: float = 4, ceiling: float = 1.0
) -> float:
    """Lambda after a part of the level: min(granularity * schedule(progress), ceiling).

    Args:
        schedule: A name of SCHEDULES.
        progress: The part of the level that is done, in [0, 1], see ``level_progress``.
        granularity: What lambda grows to; above the ceiling it gets there before the level ends.
        exponents: E of ``exp_custom_exponents``, above 0: the larger, the flatter the start.
        ceiling: Lambda never exceeds it.

    Raises:
        SparseError: A setting that cannot be.
    """
    _check(schedule, granularity, exponents)
    if not 0 <= ceiling < math.inf:
        raise SparseError(f'the ceiling of lambda is {ceiling}; it is a finite number, 0 or more')
    if not 0 <= progress <= 1:
        raise SparseError(f'progress is {progress}; it is a fraction from 0 to 1')
    return min(granularity * SCHEDULES[schedule](progress, exponents), ceiling)


def upstream_factor(
    schedule: str, epoch: int, batch: int, batches: int, granularity: float = 1.0, exponents: float = 4
) -> float:
    """Lambda after a batch in RSST's public code, for comparisons with it.

    It is updated in the first batches of each epoch only, while g * batch < 1 (with g = 1 in the first alone), and
    keeps its value until the next update. After t updates in this level, the last one at batch i of J:

    ==================== =======================================
    x, x^2, x^3          g t, (g t)^2, (g t)^3
    exp                  e^(g t), no ceiling
    exp_custom           g / (e - 1) * (e^((i + 1) / J) - 1)
    exp_custom_exponents g / (e - 1) * (e^(((i + 1) / J)^E) - 1)
    ==================== =======================================

    Args:
        schedule: A name of SCHEDULES.
        epoch: Of this level, from 0.
        batch: Of this epoch, from 0.
        batches: J.
        granularity: g, above 0.
        exponents: E, above 0.

    Returns:
        Lambda; infinite where e^(g t) is beyond floating point.
    """
    _check(schedule, granularity, exponents)
    per_epoch = sum(granularity * i < 1 for i in range(batches))  # by floating point's word: 49 * (1 / 49) < 1
    last = min(batch, per_epoch - 1)
    grown = granularity * (epoch * per_epoch + last + 1)
    if schedule == 'exp':
        return math.exp(grown) if grown < 709 else math.inf
    if schedule in ('x', 'x^2', 'x^3'):
        return float(SCHEDULES[schedule](grown))
    return granularity * float(SCHEDULES[schedule]((last + 1) / batches, exponents))


def dynamic_scale(scale: float, accuracy: float, target: float) -> float:
    """Dynamic lambda: what lambda is multiplied by from now on, half as much if the accuracy is below its target."""
    return scale / 2 if accuracy < target else scale


def check_stable(
    factor: float, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> None:
    """Refuse a lambda under which SGD would drive penalised weights away from zero, not to it.

    On the quadratic (lambda + weight decay) / 2 * w^2, gradient descent with (heavy-ball) momentum mu converges if and
    only if lr * (lambda + weight decay) < 2 * (1 + mu); with Nesterov's, 2 * (1 + mu) / (1 + 2 mu). Source: Polyak,
    Some Methods of Speeding up the Convergence of Iteration Methods, 1964; the second is the like for the roots of
    z^2 - (1 + mu) (1 - a) z + mu (1 - a), a = lr * (lambda + weight decay).

    Args:
        factor: The largest lambda.
        lr: The largest learning rate.
        momentum: mu of SGD.
        weight_decay: Of SGD.
        nesterov: Of SGD.

    Raises:
        SparseError: It would diverge.
    """
    bound = 2 * (1 + momentum) / (1 + 2 * momentum * nesterov)
    highest = bound / lr - weight_decay if lr > 0 else math.inf
    if not factor < highest:
        raise SparseError(
            f'lambda grows to {factor:g}; with a learning rate of {lr:g} and a momentum of {momentum:g} SGD diverges '
            f'from {highest:g} on'
        )


def _check(schedule: str, granularity: float, exponents: float) -> None:
    if schedule not in SCHEDULES:
        raise SparseError(f'schedule {schedule!r} is not known; there are {", ".join(SCHEDULES)}')
    if not 0 < granularity < math.inf:
        raise SparseError(f'granularity is {granularity}; it is a finite number above 0')
    if not 0 < exponents < math.inf:
        raise SparseError(f'exponents is {exponents}; it is a finite number above 0')
