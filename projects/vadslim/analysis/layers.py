"""The layers whose times are tabulated: what is recorded of a call, and a stand-in of any width to time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = {
    'conv1d': nn.Conv1d,
    'conv2d': nn.Conv2d,
    'conv3d': nn.Conv3d,
    'deconv1d': nn.ConvTranspose1d,
    'deconv2d': nn.ConvTranspose2d,
    'deconv3d': nn.ConvTranspose3d,
}
NORMS = {'norm1d': nn.BatchNorm1d, 'norm2d': nn.BatchNorm2d, 'norm3d': nn.BatchNorm3d}


@dataclass(frozen=True)
class Call:
    """One call of a layer: all that its time depends on.

    Attributes:
        kind: 'conv2d', 'linear', 'norm2d', 'layer_norm', 'attention', ...
        sizes: everything but the two widths (pixels, rows, kernel, stride, ...), as sorted JSON.
        width_in, width_out: channels or features read and made. Of an attention: its embedding, and the values of all
            heads side by side. Norms and grouped convolutions have one width: both are the same, or proportional.
        step: the width made (and the one read, if they are proportional) is a multiple of it.
    """

    kind: str
    sizes: str
    width_in: int
    width_out: int
    step: int = 1

    @property
    def coupled(self) -> bool:
        """Whether one width tells the other."""
        return self.kind.startswith(('norm', 'layer_norm')) or bool(json.loads(self.sizes).get('per_group'))


@dataclass(frozen=True)
class Widths:
    """Where the widths of a layer can be read: names of its tensors, and dimensions."""

    tensor_in: str
    dim_in: int
    tensor_out: str
    dim_out: int


def is_layer(module: nn.Module) -> bool:
    """Whether calls of a module are layers: convolutions, linear layers, batch and layer norms, attentions."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    kind = _kind(module)
    return kind is not None and getattr(module, 'weight', None) is not None


def widths_of(module: nn.Module) -> Widths:
    """Where the widths of a layer stand."""
    if isinstance(module, nn.MultiheadAttention):
        return Widths('out_proj.weight', 0, 'out_proj.weight', 1)
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
        return Widths('weight', 0, 'weight', 0)
    if getattr(module, 'groups', 1) > 1:
        return Widths('weight', 0, 'weight', 0)
    reads, makes = (0, 1) if getattr(module, 'transposed', False) else (1, 0)
    return Widths('weight', reads, 'weight', makes)


def read_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """What a layer was called with; None when that was not a tensor (then it is no layer)."""
    if isinstance(module, nn.MultiheadAttention):
        return _read_attention(module, args, kwargs)
    x = args[0] if args else next(iter(kwargs.values()), None)
    kind = _kind(module)
    if kind is None or not isinstance(x, Tensor):
        return None
    if isinstance(module, nn.Linear):
        width = x.shape[-1]
        return _call(kind, width, len(module.weight), rows=x.numel() // width, bias=module.bias is not None)
    if isinstance(module, nn.LayerNorm):
        width = module.weight.numel()
        return _call(kind, width, width, rows=x.numel() // width)
    around = [x.shape[0], *x.shape[2:]]
    if kind in NORMS:
        return _call(kind, x.shape[1], x.shape[1], around=around, training=module.training)
    assert isinstance(module, nn.modules.conv._ConvNd)
    per_group = module.in_channels // module.groups if module.groups > 1 else 0
    settings: dict[str, Any] = {name: list(getattr(module, name)) for name in ('kernel_size', 'stride', 'dilation')}
    settings['padding'] = module.padding if isinstance(module.padding, str) else list(module.padding)
    return _call(
        kind,
        module.in_channels,
        module.out_channels,
        step=per_group or 1,
        around=around,
        bias=module.bias is not None,
        per_group=per_group,
        channels_last=x.dim() == 4 and not x.is_contiguous(),
        **settings,
    )


def stand_in(call: Call, width_in: int, width_out: int) -> tuple[nn.Module, Tensor]:
    """A layer like the one that was called, of other widths, and what to call it with (on the CPU, float32)."""
    sizes = json.loads(call.sizes)
    if call.kind == 'attention':
        return _Attention(width_in, width_out, **sizes).eval(), torch.randn(sizes['batch'], sizes['queries'], width_in)
    if call.kind == 'linear':
        return nn.Linear(width_in, width_out, sizes['bias']).eval(), torch.randn(sizes['rows'], width_in)
    if call.kind == 'layer_norm':
        return nn.LayerNorm(width_in).eval(), torch.randn(sizes['rows'], width_in)
    x = torch.randn(sizes['around'][0], width_in, *sizes['around'][1:])
    if call.kind in NORMS:
        return NORMS[call.kind](width_in).train(sizes['training']), x
    layer = CONVOLUTIONS[call.kind](
        width_in,
        width_out,
        groups=width_in // sizes['per_group'] if sizes['per_group'] else 1,
        **{name: sizes[name] for name in ('kernel_size', 'stride', 'padding', 'dilation', 'bias')},
    )
    if sizes['channels_last']:
        x = x.contiguous(memory_format=torch.channels_last)
    return layer.eval(), x


class _Attention(nn.Module):
    """Multi-head attention of one width outside and another inside, as a block of plain operations."""

    def __init__(
        self, width: int, inner: int, batch: int, queries: int, keys: int, head_width: int, weights: bool
    ) -> None:
        super().__init__()
        self.heads, self.weights = max(1, inner // head_width), weights
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.output = nn.Linear(inner, width)
        self.register_buffer('memory', torch.randn(batch, keys, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.query, x), (self.key, self.memory), (self.value, self.memory))
        )
        if self.weights:
            out = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            out = functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.output(out.transpose(1, 2).flatten(2))
        return result


def _read_attention(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    query, key = (args[place] if len(args) > place else kwargs.get(name) for place, name in enumerate(('query', 'key')))
    if not isinstance(query, Tensor) or not isinstance(key, Tensor):
        return None
    embed, inner = module.out_proj.weight.shape
    length = -2 if module.batch_first or query.dim() == 2 else 0
    queries, keys = query.shape[length], key.shape[length]
    weights = args[4] if len(args) > 4 else kwargs.get('need_weights', True)
    head = inner // module.num_heads
    batch = query.numel() // (queries * query.shape[-1])
    sizes = dict(batch=batch, queries=queries, keys=keys, head_width=head, weights=bool(weights))
    return Call('attention', json.dumps(sizes, sort_keys=True), embed, inner, head)


def _kind(module: nn.Module) -> str | None:
    """The class that a stand-in is made of; subclasses that compute something else look the same here."""
    if isinstance(module, nn.Linear):
        return 'linear'
    if isinstance(module, nn.LayerNorm):
        return 'layer_norm'
    known = {**CONVOLUTIONS, **NORMS}
    return next((kind for kind, cls in known.items() if isinstance(module, cls)), None)


def _call(kind: str, width_in: int, width_out: int, step: int = 1, **sizes: Any) -> Call:
    return Call(kind, json.dumps(sizes, sort_keys=True), width_in, width_out, step)
