"""What the places of a Group do with its units: make them, read them, let a softmax see them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from .group import Group, Place, Slice, first_names

_PROJECTIONS = {'in_proj_weight': 'qkv', 'q_proj_weight': 'q', 'k_proj_weight': 'k', 'v_proj_weight': 'v'}


def reading(model: nn.Module) -> dict[Place, list[str]]:
    """The dims of weights that run over a layer's inputs -> the names of the layers.

    These are the columns of linear layers and of the input projections of ``nn.MultiheadAttention``, and the input
    channels of convolutions. (In a grouped convolution they are the channels within a group.)
    """
    first = first_names(model)
    found: dict[Place, list[str]] = {}
    for name, module in model.named_modules():
        for tensor, dim in _inputs(module):
            found.setdefault((first[f'{name}.{tensor}' if name else tensor], dim), []).append(name)
    return found


def _inputs(module: nn.Module) -> list[Place]:
    if isinstance(module, nn.MultiheadAttention):
        return [(name, 1) for name in _PROJECTIONS if getattr(module, name) is not None]
    weight = module._parameters.get('weight')
    if weight is None or weight.dim() < 2 or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return []
    if getattr(module, 'transposed', False):
        return [('weight', 0)]
    kernel = weight.dim() > 2  # whatever its class, it convolves
    return [('weight', 1)] if kernel or isinstance(module, nn.Linear) else []


def makers(parts: Sequence[Slice], reads: Container[Place]) -> list[Slice]:
    """The Slices in which no layer reads the units."""
    return [part for part in parts if (part.tensor, part.dim) not in reads]


def gate(group: Group, tensors: Mapping[str, torch.Tensor], reads: Container[Place]) -> list[Slice]:
    """Slices of parameters at which a unit's whole effect passes, once.

    A unit whose readers no longer see it is gone, and so is one that is no longer made; to count both is to count its
    effect twice (and to count a convolution and the batch norm behind it is to count neither right). So these are

    - the logits of a softmax that forgets the unit (``mask_value`` -inf), where there are any; else
    - the weights of the layers that read the unit, whatever nonlinear came before them; else
    - everything that makes it (an embedding that is used as a tensor, say). What is multiplied with its like, as
      queries are with keys, then counts twice.
    """
    parameters = [
        part
        for part in group.slices
        if isinstance(tensors[part.tensor], nn.Parameter)
        and tensors[part.tensor].is_floating_point()
        and part.index.flat.size
    ]
    logits = [part for part in parameters if part.mask_value == -np.inf]
    readers = [part for part in parameters if (part.tensor, part.dim) in reads]
    return logits or readers or parameters
