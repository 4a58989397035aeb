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


class MaskedAttention(nn.MultiheadAttention):
    """Multi-head attention that shows, and averages, the weights of some of its heads. Made by ``mask``."""

    kept_heads: list[int]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Shapes as in ``nn.MultiheadAttention.forward``."""
        output, weights = super().forward(
            query, key, value, key_padding_mask, need_weights, attn_mask, False, is_causal
        )
        if weights is not None:
            weights = weights[..., self.kept_heads, :, :]
            weights = weights.mean(-3) if average_attn_weights else weights
        return output, weights


def mask(model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the model that computes what the slim one computes, at the dense shape.

    The positions of the removed units hold their Slice's ``mask_value``; a LayerNorm whose width shrinks and an
    attention that loses heads are swapped for a ``MaskedLayerNorm`` and a ``MaskedAttention`` with the same parameter
    names; the softmax scale of an attention whose heads shrink, which is that of the kept width, is put into its query
    projection.

    Raises:
        StructureError: A kept unit does not exist, or a protected Group loses some.
    """
    check_groups(model, groups)
    kept = check_kept(groups, kept)
    old = tensors_of(model)
    new: dict[str, Tensor] = {}
    gone: dict[tuple[str, int], np.ndarray] = {}
    # finite values first: a softmax logit that gets -inf keeps it, whatever another Group writes there
    removed = {group.name: group.removed(kept[group.name]) for group in groups if group.name in kept}
    writes = [
        (part, part.positions(removed[group.name]))
        for group in groups
        if group.name in removed
        for part in group.slices
    ]
    for part, positions in sorted(writes, key=lambda write: not np.isfinite(write[0].mask_value)):
        if positions.size == 0:
            continue
        if part.tensor not in new:
            new[part.tensor] = old[part.tensor].detach().clone()
        index = torch.as_tensor(positions, device=new[part.tensor].device)
        new[part.tensor].index_fill_(part.dim, index, part.mask_value)
        place = part.tensor, part.dim
        gone[place] = np.union1d(gone.get(place, np.empty(0, np.int64)), positions)
    rows = {tensor: positions for (tensor, dim), positions in gone.items() if dim == 0}
    _scale_queries(model, rows, new)
    twin = copy_with(model, new)
    for name, module in twin.named_modules():
        start = f'{name}.' if name else ''
        if type(module) is nn.LayerNorm and (f'{start}weight', 0) in gone:
            module.__class__ = MaskedLayerNorm
            stay = np.setdiff1d(np.arange(module.weight.shape[0]), gone[f'{start}weight', 0])
            module.register_buffer('kept', torch.as_tensor(stay, device=module.weight.device), persistent=False)
        if type(module) is nn.MultiheadAttention and (f'{start}out_proj.weight', 1) in gone:
            module.__class__ = MaskedAttention
            stay = np.setdiff1d(np.arange(module.embed_dim), gone[f'{start}out_proj.weight', 1])
            module.kept_heads = np.unique(stay // module.head_dim).tolist()
    hide_units(twin, rows)
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
