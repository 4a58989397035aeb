"""Refill: whole channels in place of the scattered weights that magnitude pruning leaves.

Source: Chen, Chen, Ma, Wang, Wang, Coarsening the Granularity: Towards Structurally Sparse Lottery Tickets, ICML 2022
(Refill and Refill+).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .masks import Masks, SparseError, largest, rows


def refill(masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], fillback_rate: float = 0.0) -> Masks:
    """Regroup: as many whole channels as the weights left would fill, those with the largest scores.

    Each channel of the result is all True or all False; of equal scores the first stay. A layer that has lost all of
    its weights gets its best channel back; a layer without any weights stays as it is.

    Args:
        masks: Element-wise masks, (C, ...) each.
        scores: How important each output channel is, (C,) per layer, finite.
        fillback_rate: f in ``kept_channels``: 0 is Refill, above 0 is Refill+, 1 is dense.

    Returns:
        New masks, on the devices of the old ones.

    Raises:
        SparseError: Scores that are missing, of another shape or not finite; a rate out of [0, 1].
    """
    regrouped = {}
    for name, mask in masks.items():
        if name not in scores:
            raise SparseError(f'there are no channel scores for {name}')
        score = scores[name].detach()
        if score.shape != mask.shape[:1]:
            raise SparseError(f'{name} has {len(mask)} channels; its scores are {tuple(score.shape)}')
        if not bool(torch.isfinite(score).all()):
            raise SparseError(f'channel scores of {name} are not finite')
        kept = largest(score.double(), kept_channels(mask, fillback_rate)).to(mask.device)
        regrouped[name] = kept.reshape(-1, *[1] * (mask.dim() - 1)).expand_as(mask).clone()
    return regrouped


def kept_channels(mask: Tensor, fillback_rate: float = 0.0) -> int:
    """How many of a layer's C channels ``refill`` keeps: ceil(m + (C - m) * f), at least 1, at most C.

    m, the weights that are left over the weights of one channel, is the number of channels that they would fill; f is
    the fraction of the others that comes back.
    """
    if not 0 <= fillback_rate <= 1:
        raise SparseError(f'fillback_rate is {fillback_rate}; it is a fraction from 0 to 1')
    channels, size = rows(mask).shape
    if not channels * size:
        return channels
    full = int(mask.sum()) / size
    return min(channels, max(1, math.ceil(full + (channels - full) * fillback_rate - 1e-9)))
