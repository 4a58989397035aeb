"""Masks of sparse training: which weights may be pruned, which are left, and how many.

A mask set is {parameter name: bool tensor of the parameter's shape}, True where the weight stays. Nothing here, nor
in ``imp``, ``refill`` and ``rsst``, edits what it is given, and no result shares storage with an argument.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]
Weights = Mapping[str, Tensor]

#: Module patterns of a ViT's layers whose heads and neurons are units
VIT_LAYERS = ('*.attn.qkv', '*.attn.proj', '*.mlp.fc1', '*.mlp.fc2')


class SparseError(ValueError):
    """A setting of sparse training that cannot be, or masks that do not fit the weights; the message is one line."""


def prunable_weights(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d,),
    include: Sequence[str] = ('*',),
    exclude: Sequence[str] | None = None,
) -> dict[str, nn.Parameter]:
    """The weights that a mask may remove: those of all convolutions but the stem, in the model's order.

    For a ViT: ``prunable_weights(model, (nn.Linear,), VIT_LAYERS, ())``. Frozen and computed (reparametrised)
    weights are left out: no optimizer can set them to zero. A weight that several layers share comes once, under the
    name that ``named_parameters`` gives it, and not at all if one of them is excluded.

    Args:
        model: Only read; its weights are returned, not copied.
        kinds: Classes of the layers, subclasses included; the first dim of their ``weight`` counts outputs.
        include: fnmatch patterns over module names.
        exclude: More of them, of layers that stay dense. None is ``conv1``, the stem of a ResNet, where there is one.

    Raises:
        SparseError: A pattern matches no layer of these kinds.
    """
    layers = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, kinds)}
    for pattern in (*include, *(exclude or ())):
        if pattern != '*' and not _matches(layers, [pattern]):
            near = difflib.get_close_matches(pattern, layers, 1, 0.0)
            hint = f'the nearest is {near[0]}' if near else 'there are none'
            raise SparseError(f'{pattern!r} matches none of {len(layers)} prunable layers; {hint}')
    excluded = _matches(layers, ('conv1',) if exclude is None else exclude)
    chosen = {id(layers[name].weight) for name in _matches(layers, include)}
    chosen -= {id(layers[name].weight) for name in excluded}
    return {name: p for name, p in model.named_parameters() if id(p) in chosen and p.requires_grad}


def _matches(names: Mapping[str, object], patterns: Sequence[str]) -> set[str]:
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def dense_masks(weights: Weights) -> Masks:
    """Masks that keep everything."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def masked(weights: Weights, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies of the weights with zeros where the mask is False, even in place of NaN."""
    check_masks(weights, masks)
    return {name: w.detach().masked_fill(~masks[name].to(w.device), 0) for name, w in weights.items()}


def density(masks: Mapping[str, Tensor]) -> float:
    """The fraction of the prunable weights that is left, all layers together; 1.0 if there are no weights."""
    total = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / total if total else 1.0


def densities(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """The fraction of each layer's weights that is left."""
    return {name: density({name: mask}) for name, mask in masks.items()}


def remain_weight(masks: Mapping[str, Tensor]) -> float:
    """Percent of the prunable weights that are left.

    Of the masks that a level ends with (``refill``'s) it is what is logged as ``remain_weight``; of the element-wise
    ones of ``imp`` from which these came, ``remain_weight_element``.
    """
    return 100 * density(masks)


def rows(tensor: Tensor) -> Tensor:
    """One row per output channel: (C, ...) -> (C, n)."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]


def row_sums(weights: Weights, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The L1 norm of what is left of each output channel: sum |mask * weight| -> (C,) float64 per layer."""
    left = masked(weights, masks)
    return {name: rows(weight).abs().sum(1, dtype=torch.float64) for name, weight in left.items()}


def largest(scores: Tensor, count: int) -> Tensor:
    """Which are the ``count`` largest scores; of equal ones the first.

    Args:
        scores: (n,) numbers, no NaN.
        count: 0 or less takes none, n or more takes all.

    Returns:
        (n,) bool. The same on each device: torch's own selections promise no order of equal ones, and on GPUs some
        are refused under ``use_deterministic_algorithms``.
    """
    if not 0 < count < len(scores):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    values = scores.detach().cpu().numpy()
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above, equal = values > threshold, values == threshold
    above |= equal & (np.cumsum(equal) <= count - above.sum())
    return torch.from_numpy(above).to(scores.device)


def check_masks(weights: Weights, masks: Mapping[str, Tensor]) -> None:
    """Raise a SparseError unless there is a bool mask of the right shape for each weight, and no other mask."""
    if weights.keys() != masks.keys():
        odd = sorted(weights.keys() ^ masks.keys())
        raise SparseError(f'masks and weights are not of the same layers: only one of them has {", ".join(odd[:5])}')
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise SparseError(f'the mask of {name} is of {mask.dtype}; masks are of torch.bool')
        if mask.shape != weights[name].shape:
            raise SparseError(f'the mask of {name} is {tuple(mask.shape)}, the weight {tuple(weights[name].shape)}')
