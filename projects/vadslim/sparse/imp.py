"""Iterative magnitude pruning: the masks of the next level, from the trained weights.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; Li, Kadav et al., Pruning Filters for Efficient
ConvNets, ICLR 2017, section 3.1 (filter-wise).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from .masks import Masks, SparseError, Weights, check_masks, largest, row_sums, rows

SCOPES = ('global', 'layer-wise', 'filter-wise')


def imp(
    weights: Weights,
    masks: Mapping[str, Tensor],
    rate: float | Mapping[str, float],
    scope: str = 'global',
    floor: int = 1,
) -> Masks:
    """Prune a fraction of what is left, the smallest magnitudes first.

    After k levels (1 - rate)^k is left. What was pruned stays pruned; of equal magnitudes the first in the model's
    order stay.

    Args:
        weights: Prunable weights, **trained**: {name: (C, ...)} of any floating type.
        masks: What is left of them.
        rate: The fraction of the remaining weights (filter-wise: filters) to prune, in [0, 1], or one per layer.
        scope: ``global``: one threshold on |w| for all layers; round(rate * n) of n weights go. ``layer-wise``: the
            same within each layer. ``filter-wise``: floor(rate * n) of a layer's n filters go, with the smallest
            L1 norms; those that stay keep their masks.
        floor: So many weights (filters) stay in each layer that still has them.

    Returns:
        New masks, on the weights' devices.

    Raises:
        SparseError: A setting that cannot be, or weights that are not finite.
    """
    check_masks(weights, masks)
    if scope not in SCOPES:
        raise SparseError(f'scope {scope!r} is not known; there are {", ".join(SCOPES)}')
    if floor < 0:
        raise SparseError(f'floor is {floor}; it is 0 or more')
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise SparseError(f'{name} holds weights that are not finite: the training has diverged')
    masks = {name: mask.to(weights[name].device) for name, mask in masks.items()}
    if not isinstance(rate, Mapping):
        if scope == 'global':
            return _prune_elements(weights, masks, _checked(rate), floor)
        rate = dict.fromkeys(weights, rate)
    if scope == 'global':
        raise SparseError('rates per layer need the scope layer-wise or filter-wise: a global threshold has one rate')
    if missing := [name for name in weights if name not in rate]:
        raise SparseError(f'there is no rate for {", ".join(missing[:5])}')
    rates = {name: _checked(rate[name], f' of {name}') for name in weights}
    if scope == 'filter-wise':
        norms = row_sums(weights, masks)
        return {name: _prune_filters(norms[name], masks[name], rates[name], floor) for name in weights}
    pruned: Masks = {}
    for name, weight in weights.items():
        pruned |= _prune_elements({name: weight}, {name: masks[name]}, rates[name], floor)
    return pruned


def _checked(rate: float, of: str = '') -> float:
    if not 0 <= rate <= 1:
        raise SparseError(f'the rate{of} is {rate}; it is a fraction from 0 to 1')
    return float(rate)


def _prune_elements(weights: Weights, masks: Mapping[str, Tensor], rate: float, floor: int) -> Masks:
    """One threshold for all of these weights."""
    scores, least = [], 0
    for name, weight in weights.items():
        score = weight.detach()[masks[name]].abs()
        score = score if score.dtype == torch.float64 else score.float()  # exact, and numpy has no bfloat16
        own = largest(score, floor)
        least += int(own.sum())
        scores.append(score.masked_fill(own, torch.inf))  # so that others leave in place of a layer's last weights
    if not scores:
        return {}
    sizes = [len(score) for score in scores]
    everything = torch.cat([score.to(scores[0].device) for score in scores])
    kept = largest(everything, max(least, len(everything) - round(rate * len(everything))))
    pruned = {}
    for (name, mask), own in zip(masks.items(), kept.split(sizes)):
        pruned[name] = torch.zeros_like(mask).masked_scatter(mask, own.to(mask.device))
    return pruned


def _prune_filters(norms: Tensor, mask: Tensor, rate: float, floor: int) -> Tensor:
    """(C,) norms and the mask of one layer -> its new mask."""
    left = rows(mask).any(1)
    scores = norms[left]
    count = len(scores)
    keep = max(min(floor, count), count - int(rate * count + 1e-6))  # 0.29 * 100 is 28.999999999999996
    kept = torch.zeros_like(left).masked_scatter(left, largest(scores, keep))
    return mask & kept.reshape(-1, *[1] * (mask.dim() - 1))


def progressive_rate(rate: float, level: int) -> float:
    """A rate that falls as less is left: in full for levels 0 to 4, 0.8 of it to 9, 0.6 to 14, then 0.4."""
    return rate * (1.0, 0.8, 0.6, 0.4)[min(level // 5, 3)]


def layer_rates(names: Iterable[str], rate: float, factors: Mapping[str, float]) -> dict[str, float]:
    """A rate per layer: ``rate`` times the factor of the first pattern that matches the name, else times 1.

    Args:
        names: Parameter names, such as ``layer1.0.conv1.weight``.
        rate: The rate of layers without a factor.
        factors: fnmatch pattern -> factor, such as {'layer1.*': 0.5, 'layer3.*': 1.5}.

    Raises:
        SparseError: A pattern matches no name, or a product is no fraction.
    """
    names = list(names)
    for pattern in factors:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 1, 0.0)
            hint = f'the nearest is {near[0]}' if near else 'there are none'
            raise SparseError(f'layer rates: {pattern!r} matches none of {len(names)} weights; {hint}')
    rates = {}
    for name in names:
        factor = next((factor for pattern, factor in factors.items() if fnmatchcase(name, pattern)), 1.0)
        rates[name] = _checked(rate * factor, f' of {name}')
    return rates
