"""RSST over Groups: which parameters fade with the units that leave, and the norms whose statistics fade with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..pruning.group import Group, check_groups
from ..pruning.structure import check_kept
from .masks import Masks


def leaving(model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> tuple[Masks, Masks]:
    """Where the units that leave stand in the parameters that train.

    Buffers (the running statistics of batch norms) have no optimizer and need none: a channel whose scale and shift
    are zero says nothing, whatever its statistics. Frozen parameters (of norms and biases: a frozen matrix protects its
    Group) stay as they are until the units are cut off.

    Args:
        model: The network that the Groups were found on.
        groups: Its Groups.
        kept: Group name -> kept units; a Group that is not named stays whole.

    Returns:
        Two times {parameter name: mask}, of those that have any True. The first: where the masked twin holds zero, the
        weights to penalise. The second: where it holds -inf, biases of softmax logits, which go another way
        (``lower_logits``).

    Raises:
        GroupError, StructureError: Groups or units that the model does not have.
    """
    check_groups(model, groups)
    kept = check_kept(groups, kept)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[float, Masks] = {0.0: {}, -math.inf: {}}
    for group in groups:
        removed = group.removed(kept[group.name]) if group.name in kept else []
        for part in group.slices:
            positions, masks = part.positions(removed), found.get(part.mask_value)
            if part.tensor not in parameters or masks is None or not positions.size:
                continue
            weight = parameters[part.tensor]
            mask = masks.setdefault(part.tensor, torch.zeros_like(weight, dtype=torch.bool, requires_grad=False))
            mask.index_fill_(part.dim, torch.as_tensor(positions, device=weight.device), True)
    zeros, logits = found[0.0], found[-math.inf]
    for name in zeros.keys() & logits.keys():  # the twin's -inf stands, whatever another Group writes there
        zeros[name] &= ~logits[name]
    return zeros, logits


@torch.no_grad()
def lower_logits(biases: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor], shrink: float) -> None:
    """Take the biases of logits further down: what they say in a softmax, exp(bias), shrinks as weights do.

    Args:
        biases: Changed in place.
        masks: True at the logits that leave; of the same names.
        shrink: The fraction of exp(bias) that goes. All of it is taken as 99 %, so that biases stay finite.
    """
    for name, mask in masks.items():
        biases[name].add_(mask.to(biases[name]), alpha=math.log1p(-min(shrink, 0.99)))


class FadingLayerNorm(nn.LayerNorm):
    """A LayerNorm in whose statistics some positions count less and less.

    Mean and variance of a slim LayerNorm are those of the kept width. If zeros of units that have faded counted in
    them up to the end, all that comes after would be scaled differently once these are cut off. With all counting it
    is the stock module, with ``left`` 0 the masked twin's. Made by ``fade_norms``; names of parameters are the same.

    Attributes:
        gone: (width,) bool, the positions that leave.
        left: How much each of these counts, from 1 to 0.
    """

    gone: Tensor
    left: float

    def forward(self, input: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        share = 1 - (1 - self.left) * self.gone.to(x)
        share = share / share.sum()
        centred = x - (x * share).sum(-1, keepdim=True)
        variance = (centred.square() * share).sum(-1, keepdim=True)
        result = centred * (variance + self.eps).rsqrt() * self.weight
        return (result if self.bias is None else result + self.bias).to(self.weight.dtype)


def fade_norms(model: nn.Module, masks: Mapping[str, Tensor]) -> list[FadingLayerNorm]:
    """Turn the stock LayerNorms that lose positions into fading ones, in place; ``stock_norms`` undoes it."""
    norms = []
    for name, module in model.named_modules():
        gone = masks.get(f'{name}.weight' if name else 'weight')
        if type(module) is nn.LayerNorm and gone is not None and gone.dim() == 1:
            module.__class__ = FadingLayerNorm
            norm = cast(FadingLayerNorm, module)
            norm.gone, norm.left = gone.to(norm.weight.device), 1.0
            norms.append(norm)
    return norms


def stock_norms(norms: Sequence[nn.LayerNorm]) -> None:
    """Make fading norms stock ones again, in place."""
    for norm in norms:
        norm.__class__ = nn.LayerNorm


def magnitudes(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[float, float]:
    """Mean |w| of what is penalised and of what stays in the same tensors; NaN if there is none."""
    sums = torch.zeros(4, dtype=torch.float64)
    for name, mask in masks.items():
        size, mask = weights[name].detach().abs().double(), mask.to(weights[name].device)
        sums += torch.stack([size[mask].sum(), mask.sum(), size[~mask].sum(), (~mask).sum()]).cpu()
    penalised, number, rest, others = sums.tolist()
    return penalised / number if number else math.nan, rest / others if others else math.nan
