"""Losses of map vectors as point sequences, after MapTR and VAD."""

from __future__ import annotations

import torch.nn.functional as F
from mmdet.models.losses.utils import weighted_loss
from mmdet3d.registry import MODELS
from torch import Tensor, nn


@weighted_loss
def _l1(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).abs()


@MODELS.register_module(name=['VADPtsL1Loss', 'PtsL1Loss'])
class PtsL1Loss(nn.Module):
    """L1 distance of point sequences.

    Args:
        reduction: 'none', 'mean' or 'sum'.
        loss_weight: factor of the loss.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None
    ) -> Tensor:
        """Points (N, P, 2), weight (N, P, 2); the sum is divided by ``avg_factor`` if there is one."""
        return self.loss_weight * _l1(pred, target, weight, reduction=self.reduction, avg_factor=avg_factor)


@MODELS.register_module(name=['VADPtsDirCosLoss', 'PtsDirCosLoss'])
class PtsDirCosLoss(nn.Module):
    """One minus the cosine between predicted and true directions; the arguments are :class:`PtsL1Loss`'s."""

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | None = None
    ) -> Tensor:
        """Directions (N, D, 2), weight (N, D); the sum is divided by ``avg_factor`` if there is one."""
        same = target.new_ones(target.shape[:-1].numel())
        loss = F.cosine_embedding_loss(pred.flatten(0, 1), target.flatten(0, 1), same, reduction='none')
        loss = loss.view(target.shape[:-1])
        if weight is not None:
            loss = loss * weight
        if self.reduction == 'none':
            return self.loss_weight * loss
        if avg_factor is not None:
            return self.loss_weight * loss.sum() / avg_factor
        return self.loss_weight * (loss.mean() if self.reduction == 'mean' else loss.sum())
