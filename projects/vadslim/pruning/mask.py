"""Masking: the twin of a slim network that has the dense shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import inner_widths, query_scale
from .group import Group, check_groups, first_names, tensors_of
from .hiding import hide_units
from .slim import copy_with
from .structure import check_kept


class MaskedLayerNorm(nn.LayerNorm):
    """A LayerNorm over some of its positions; the others are zero in the result.

    Mean and variance of a LayerNorm change when channels leave, so the twin of a slim network takes them over
    the kept ones. Made by ``mask`` from a stock module. ``kept`` holds the positions (no part of the
    state_dict).
    """

    kept: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        weight = self.weight.index_select(0, self.kept)
        bias = None if self.bias is None else self.bias.index_select(0, self.kept)
        inner = functional.layer_norm(input.index_select(-1, self.kept), (len(self.kept),), weight, bias, self.eps)
        return torch.zeros_like(input).index_copy(-1, self.kept, inner)


def mask(model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the model that computes what the slim one computes, at the dense shape.

    The positions of the removed units hold their Slice's ``mask_value``; a LayerNorm whose width shrinks is
    swapped for a ``MaskedLayerNorm`` with the same parameter names; the softmax scale of an attention whose heads
    shrink, which is that of the kept width, is put into its query projection. (Attention weights averaged over heads,
    which some callers ask ``nn.MultiheadAttention`` for, are taken over all heads here, and over the kept
    ones in the slim model.)

    Raises:
        StructureError: A kept unit does not exist, or a protected Group loses some.
    """
    check_groups(model, groups)
    kept = check_kept(groups, kept)
    old = tensors_of(model)
    new: dict[str, Tensor] = {}
    gone: dict[str, np.ndarray] = {}
    # finite values first: a softmax logit that gets -inf keeps it, whatever another Group writes there
    writes = [
        (part, part.positions(group.removed(kept[group.name])))
        for group in groups
        if group.name in kept
        for part in group.slices
    ]
    for part, positions in sorted(writes, key=lambda write: not np.isfinite(write[0].mask_value)):
        if positions.size == 0:
            continue
        if part.tensor not in new:
            new[part.tensor] = old[part.tensor].detach().clone()
        index = torch.as_tensor(positions, device=new[part.tensor].device)
        new[part.tensor].index_fill_(part.dim, index, part.mask_value)
        if part.dim == 0:
            gone[part.tensor] = np.union1d(gone.get(part.tensor, np.empty(0, np.int64)), positions)
    _scale_queries(model, gone, new)
    twin = copy_with(model, new)
    for name, module in twin.named_modules():
        removed = gone.get(f'{name}.weight' if name else 'weight')
        if type(module) is nn.LayerNorm and removed is not None:
            module.__class__ = MaskedLayerNorm
            stay = np.setdiff1d(np.arange(module.weight.shape[0]), removed)
            module.register_buffer('kept', torch.as_tensor(stay, device=module.weight.device), persistent=False)
    hide_units(twin, gone)
    return twin


def _scale_queries(model: nn.Module, gone: Mapping[str, np.ndarray], new: dict[str, Tensor]) -> None:
    """Bring the scale of the kept width into the masked query projections of ``new``, in place."""
    first, done = first_names(model), set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        packed = 'q_proj_weight' if module.in_proj_weight is None else 'in_proj_weight'
        weight, bias = (first.get(f'{name}.{part}' if name else part, '') for part in (packed, 'in_proj_bias'))
        if weight not in gone or weight in done:
            continue
        done.add(weight)
        rows, _ = inner_widths(module)
        scale = query_scale(module, gone[weight])
        for tensor in (weight, bias):
            if tensor in new:
                new[tensor][:rows] *= scale
