"""Element-wise magnitude pruning: the smallest weights of a set of layers become zero, shapes stay.

This is what the command's predecessor wrote as ``vad_pruned.pth``: global L1 over the convolutions of
the backbone and neck and, apart from it, at half the ratio, over the linear layers of transformers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

CONVOLUTIONS_IN = re.compile(r'(^|\.)(img_)?(backbone|neck)(\.|$)')
LINEARS_IN = re.compile(r'(^|\.)transformer(\.|$)')


def element_sets(model: nn.Module) -> tuple[list[str], list[str]]:
    """(convolution weights of backbones and necks, linear weights of transformers), by first name."""
    convolutions, linears = [], []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and CONVOLUTIONS_IN.search(name):
            convolutions.append(f'{name}.weight')
        elif isinstance(module, nn.Linear) and LINEARS_IN.search(name):
            linears.append(f'{name}.weight')
    return convolutions, linears


def zero_smallest(weights: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Copies of weights in which the globally smallest magnitudes are zero.

    Args:
        weights: name -> tensor of any shape.
        ratio: fraction to zero, in [0, 1); exactly floor(ratio * all + 1e-6) elements become zero, of equal
            ones those that come first.
    """
    if not weights:
        return {}
    magnitudes = torch.cat([w.detach().abs().flatten().float() for w in weights.values()])
    smallest = torch.argsort(magnitudes, stable=True)[: math.floor(ratio * magnitudes.numel() + 1e-6)]
    keep = torch.ones_like(magnitudes, dtype=torch.bool)
    keep[smallest] = False
    parts = keep.split([w.numel() for w in weights.values()])
    return {
        name: torch.where(part.view_as(w), w.detach(), torch.zeros_like(w))
        for (name, w), part in zip(weights.items(), parts)
    }


def prune_elements(model: nn.Module, ratio: float) -> tuple[dict[str, Tensor], list[str]]:
    """The state_dict of a model with the small weights zero, and a line per set that says how many.

    Args:
        model: is left as it is.
        ratio: for the convolutions; the linear layers get half of it.
    """
    state = dict(model.state_dict())
    lines = []
    kinds = ('convolutions of backbone and neck', 'linear layers of transformers')
    for kind, names, part in zip(kinds, element_sets(model), (ratio, ratio / 2)):
        if not names:
            lines.append(f'no {kind}: nothing of them is zeroed')
            continue
        new = zero_smallest({name: state[name] for name in names}, part)
        state.update(new)
        zeros, total = sum(int((w == 0).sum()) for w in new.values()), sum(w.numel() for w in new.values())
        lines.append(f'{kind}: {zeros:,} of {total:,} weights are zero ({zeros / total:.1%})')
    return state, lines
