"""RSST: weights that refilling would cut are driven to zero while the level trains, not cut at once.

Source: the cases are those of the growing regularisation of Wang et al., Neural Pruning via Growing Regularization,
ICLR 2021 (GReg-1), between the element-wise masks of ``imp`` and the structured ones of ``refill``.

A level of RSST::

    current = imp(trained, masks, rate)             element-wise
    refilled = refill(current, row_sums(trained, current))
    case = cases(current, refilled)
    weights = start(rewind, case)                   then train with HardMask(case.active), Penalty(case.penalised)
    weights, masks = finish(weights, case)          then evaluate; the next level starts from these masks
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .masks import Masks, Weights, check_masks, masked


@dataclass(frozen=True)
class Cases:
    """What becomes of each prunable weight during a level: it is True in exactly one of four mask sets.

    Attributes:
        kept: current 1, refill 1: trains.
        refilled: current 0, refill 1: comes back from where it is rewound to, and trains.
        penalised: current 1, refill 0: trains under a growing L2 penalty, and is zero when the level ends.
        removed: current 0, refill 0: is zero all along.
    """

    kept: Masks
    refilled: Masks
    penalised: Masks
    removed: Masks

    @property
    def active(self) -> Masks:
        """What trains during the level; the rest is hard-masked."""
        return {name: ~mask for name, mask in self.removed.items()}

    @property
    def final(self) -> Masks:
        """What is left when the level has ended: the refill masks."""
        return {name: kept | self.refilled[name] for name, kept in self.kept.items()}


def cases(current: Mapping[str, Tensor], refill: Mapping[str, Tensor]) -> Cases:
    """Compare element-wise masks with the ones regrouped from them.

    Raises:
        SparseError: They are not of the same layers and shapes.
    """
    check_masks(current, refill)
    check_masks(refill, current)  # current is of bool as well
    pairs = {name: (mask, refill[name].to(mask.device)) for name, mask in current.items()}
    return Cases(
        kept={name: now & then for name, (now, then) in pairs.items()},
        refilled={name: ~now & then for name, (now, then) in pairs.items()},
        penalised={name: now & ~then for name, (now, then) in pairs.items()},
        removed={name: ~now & ~then for name, (now, then) in pairs.items()},
    )


def start(rewind: Weights, case: Cases) -> dict[str, Tensor]:
    """The prunable weights that a level starts from: those rewound to, zero where removed."""
    return masked(rewind, case.active)


def finish(weights: Weights, case: Cases) -> tuple[dict[str, Tensor], Masks]:
    """The end of a level: the penalised weights are zero now, and the masks are the refill masks.

    The network with these weights is the one to evaluate.
    """
    masks = case.final
    return masked(weights, masks), masks
