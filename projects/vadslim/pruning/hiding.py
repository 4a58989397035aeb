"""What a masked twin needs besides zeros: removed units that others look at (keys of attentions) are hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Hider = Callable[[Any, Mapping[str, np.ndarray]], None]
_HIDERS: dict[type[nn.Module], Hider] = {}


def hides_units(module_class: type[nn.Module]) -> Callable[[Hider], Hider]:
    """Register a function (module, gone) that hides removed units in the twin, in place.

    ``gone``: name of a tensor below the module -> the positions of its first dim that are masked. It is called where
    there are any; the nearest class in the MRO wins.
    """

    def register(hider: Hider) -> Hider:
        _HIDERS[module_class] = hider
        return hider

    return register


def hide_units(twin: nn.Module, gone: Mapping[str, np.ndarray]) -> None:
    """Call what is registered, for every module of a twin; ``gone`` as in ``hides_units``, seen from the twin."""
    for name, module in twin.named_modules():
        hider = next((_HIDERS[cls] for cls in type(module).__mro__ if cls in _HIDERS), None)
        if hider is None:
            continue
        start = f'{name}.' if name else ''
        inside = {tensor[len(start) :]: rows for tensor, rows in gone.items() if tensor.startswith(start)}
        if inside:
            hider(module, inside)


def hide_keys(attention: nn.MultiheadAttention, positions: Sequence[int] | np.ndarray) -> None:
    """Let nobody see the keys at some positions, in place; the caller's own masks still count."""
    index = torch.as_tensor(np.asarray(positions, np.int64))

    def hook(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        query, key, value, *rest = args
        named = {**kwargs, **dict(zip(('key_padding_mask', 'need_weights', 'attn_mask'), rest))}
        batch, length = (key.shape[0], key.shape[1]) if module.batch_first else (key.shape[1], key.shape[0])
        hidden = torch.zeros(batch, length, dtype=torch.bool, device=key.device)
        hidden.index_fill_(1, index.to(key.device), True)
        given: Tensor | None = named.get('key_padding_mask')
        if given is not None and given.dtype == torch.bool:
            hidden, given = hidden | given, None
        others = named.get('attn_mask')
        if given is not None or (others is not None and others.dtype != torch.bool):  # torch wants both alike
            hidden = key.new_zeros(batch, length).masked_fill(hidden, float('-inf'))
            hidden = hidden if given is None else hidden + given
        return (query, key, value), {**named, 'key_padding_mask': hidden}

    attention.register_forward_pre_hook(hook, with_kwargs=True)
