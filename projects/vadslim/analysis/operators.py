"""What one operator of torch costs: tables from the operators that reach its dispatcher to multiply-accumulates.

A product is a matrix product, convolution, attention or recurrent layer. Its activations are the elements of its
result, as fvcore counts them. What fuses several products (attention: scores and weighted values; a recurrent layer:
all gates of all steps) counts as if each were done by itself, so that no figure depends on the kernel that torch
chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch import ops as torch_ops
from torch.utils.flop_counter import flop_registry

aten = torch_ops.aten

#: MACs of one bilinear sample of one channel: four corners, and the weight deformable attention gives it.
SAMPLE_MACS = 5


class Cost(NamedTuple):
    """Multiply-accumulates, and elements of what comes out."""

    macs: int
    outputs: int


def is_product(packet: Any) -> bool:
    """Whether the tables know an operator as a product."""
    return packet in flop_registry or packet in _EXTRA


def is_sampling(packet: Any) -> bool:
    """Whether an operator samples a map."""
    return packet in _SAMPLING


def product_cost(packet: Any, args: Any, kwargs: Any, out: Any) -> Cost | None:
    """What a product costs; None for what is none."""
    if packet in _EXTRA:
        macs = _EXTRA[packet](*args, **kwargs)
    elif packet in flop_registry:
        macs = int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2
    else:
        return None
    result = out[0] if isinstance(out, tuple | list) else out
    outputs = result.numel()
    if packet is aten.mkldnn_rnn_layer:
        outputs = _positions(args[0]) * sum(weight.shape[0] for weight in args[1:3])
    elif 'attention' in str(packet):
        outputs += macs // (args[0].shape[-1] + args[2].shape[-1])  # one score for each width of a key and a value
    return Cost(macs, outputs)


def sampling_cost(args: Any, out: Tensor) -> Cost:
    """Of ``grid_sample``; one that takes the nearest element multiplies nothing."""
    bilinear = len(args) < 3 or args[2] == _BILINEAR
    return Cost(SAMPLE_MACS * out.numel() if bilinear else 0, out.numel())


def kernel_cost(name: str, args: Any) -> Cost | None:
    """Of an autograd Function that runs a compiled kernel which the dispatcher never sees, by its name."""
    samples = _KERNELS[name](*args) if name in _KERNELS else 0
    return Cost(SAMPLE_MACS * samples, samples) if name in _KERNELS else None


def is_unknown(func: Any) -> bool:
    """Whether an operator that is in no table may do work: a foreign one, or one of a kind that does."""
    name = func.__name__.split('.')[0]
    return func.namespace not in ('aten', 'prim', 'prims', 'profiler') or any(part in name for part in _HEAVY)


def is_plumbing(func: Any) -> bool:
    """Whether an operator is of those that a wrapper round a compiled kernel uses besides calling it."""
    return any(part in func.__name__ for part in _PLUMBING)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Fused attention on (batch, heads, length, width): scores and weighted values."""
    batch, heads, queries, width = query.shape
    return int(batch * heads * queries * key.shape[-2] * (width + value.shape[-1]))


def _positions(x: Tensor) -> int:
    """Steps times batch."""
    return math.prod(x.shape[:-1])


#: Products that torch's own table misses.
_EXTRA: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, *_, **__: matrix.numel(),
    aten.addmv: lambda _bias, matrix, *_, **__: matrix.numel(),
    aten.dot: lambda a, *_, **__: a.numel(),
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: _attention(q, k, v),
    aten.mkldnn_rnn_layer: lambda x, w_x, w_h, *_, **__: _positions(x) * (w_x.numel() + w_h.numel()),
}

_BILINEAR = 0
_SAMPLING = {aten.grid_sampler_2d, aten._grid_sampler_2d_cpu_fallback, aten.cudnn_grid_sampler}

_PLUMBING = ('empty', 'zeros', 'new_', 'view', 'alias', 'detach', 'clone', 'copy_', 'as_strided')

#: Parts of operator names that do multiply-accumulates of a kind nobody here counts.
_HEAVY = (
    'fft',
    'linalg_',
    'cdist',
    'lstm',
    'gru',
    'rnn',
    'grid_sampler_3d',
    'trilinear',
    'multi_head',
    'encoder_layer',
)


def _deformable(value: Tensor, _shapes: Any, _starts: Any, locations: Tensor, *_: Any) -> int:
    """value (B, keys, heads, width); locations (B, queries, heads, levels, points, 2)."""
    return (locations.numel() // 2) * value.shape[-1]


#: autograd Functions that run a compiled kernel: class name -> samples that it takes.
_KERNELS: dict[str, Callable[..., int]] = {'MultiScaleDeformableAttnFunction': _deformable}
