"""Attentions of vision transformers: one linear layer ``qkv`` gives queries, keys and values of all heads.

timm's ``Attention`` and its many copies have no class in common. They are known by the names of their parts, and what
they compute is tried before it is believed.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import by_dim
from .borders import Borders, declares_borders
from .group import Attr, Group, Index, Place, Slice, blocks, declaration_of, declares_groups
from .proof import protect_wrong
from .slim import follows_tensors

PARTS = {'qkv', 'q_norm', 'k_norm', 'attn_drop', 'norm', 'proj', 'proj_drop'}


class SlimFusedAttention(nn.Module):
    """The forward of timm's Attention with heads of any number and width.

    Widths come from the tensors: ``proj.weight`` has as many columns as there are values, the other rows of
    ``qkv.weight`` are queries and keys, half and half. The softmax keeps the scale of the dense heads. A module becomes
    one by ``resize``: its class is swapped for a subclass of this one and its own.
    """

    qkv: nn.Linear
    proj: nn.Linear
    num_heads: int
    scale: float

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(batch, length, width) -> (batch, length, width of ``proj``); ``attn_mask`` as torch's attention takes it."""
        rows, values = _widths(self)
        parts = self.qkv(x).split((rows, rows, values), -1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        query, key = self._through('q_norm', query), self._through('k_norm', key)
        dropout = getattr(self._modules.get('attn_drop'), 'p', 0.0) if self.training else 0.0
        heads = functional.scaled_dot_product_attention(query, key, value, attn_mask, dropout, scale=self.scale)
        return self._through('proj_drop', self.proj(self._through('norm', heads.transpose(1, 2).flatten(2))))

    def _through(self, part: str, x: Tensor) -> Tensor:
        """What an optional part makes of ``x``."""
        module = self._modules.get(part)
        result: Tensor = x if module is None else module(x)
        return result


def is_fused_attention(module: nn.Module) -> bool:
    """Whether a module has the parts of timm's Attention: linear ``qkv`` and ``proj``, ``num_heads``, no others."""
    parts, heads = dict(module.named_children()), getattr(module, 'num_heads', None)
    if not {'qkv', 'proj'} <= set(parts) <= PARTS or module._parameters or module._buffers or type(heads) is not int:
        return False
    if not (isinstance(parts['qkv'], nn.Linear) and isinstance(parts['proj'], nn.Linear)):
        return False
    rows, values = _widths(module)  # no more than that: they may have been cut
    return heads > 0 and rows > 0 and rows % heads == 0 == values % heads


def _widths(module: nn.Module) -> tuple[int, int]:
    """Query rows (as many as key rows) and value rows of all heads together."""
    values = module.get_parameter('proj.weight').shape[1]
    return (module.get_parameter('qkv.weight').shape[0] - values) // 2, values


@declares_groups(is_fused_attention, owns_children=True)
def fused_groups(module: nn.Module, prefix: str) -> list[Group]:
    """Heads; and, off by default, dimensions that all heads lose alike (see ``attention_groups``)."""
    part: Any = module
    heads: int = part.num_heads
    rows, values = _widths(module)
    starts = {'q': (rows, 0), 'k': (rows, rows), 'v': (values, 2 * rows)}
    first = {name for name, _ in module.named_parameters()}

    def group(name: str, kind: str, count: int, of: str, attrs: tuple[Attr, ...] = ()) -> Group:
        def split(size: int, start: int = 0) -> Index:
            return blocks(heads, size // heads, (start,)) if kind == 'head' else by_dim(heads, size, start)

        packed = Index.of(np.concatenate(parts) for parts in zip(*(split(*starts[x]) for x in of)))
        places: list[tuple[str, int, Index]] = [('qkv.weight', 0, packed), ('qkv.bias', 0, packed)]
        if 'v' in of:
            places += [('norm.weight', 0, split(values)), ('norm.bias', 0, split(values))]
            places += [('proj.weight', 1, split(values))]
        if of == 'qk':
            one = blocks(rows // heads)
            places += [(f'{x}_norm.{part}', 0, one) for x in of for part in ('weight', 'bias')]
        slices = tuple(Slice(*place) for place in places if place[0] in first)
        return Group(name, kind, count, slices, attrs, on=kind == 'head')

    groups = [
        group('heads', 'head', heads, 'qkv', (Attr('', 'num_heads'),)),
        group('query_key_dims', 'query_key_dim', rows // heads, 'qk'),
        group('value_dims', 'value_dim', values // heads, 'v'),
    ]
    generator = torch.Generator().manual_seed(0)
    weight = part.qkv.weight
    tokens = torch.randn(2, 5, weight.shape[1], generator=generator).to(weight)
    return [group.prefixed(prefix) for group in protect_wrong(module, groups, lambda trial: trial(tokens))]


@declares_borders(is_fused_attention)
def fused_borders(module: nn.Module) -> Borders:
    """Tokens come in by the columns of ``qkv`` and leave by the rows of ``proj``."""
    outputs: list[Place] = [('proj.weight', 0)]
    if module.get_submodule('proj').bias is not None:
        outputs.append(('proj.bias', 0))
    tokens = list(inspect.signature(type(module).forward).parameters)[1]  # whatever it is called
    return Borders({tokens: ('qkv.weight', 1)}, tuple(outputs))


@follows_tensors(is_fused_attention)
def slim_fused_attention(module: nn.Module) -> None:
    """Swap the class of a module whose tensors were cut; not of one whose class declares Groups of its own."""
    found = declaration_of(module)
    if found is None or found[0] is not fused_groups:
        return
    cut: Any = module
    rows, values = _widths(module)
    if values % cut.num_heads or rows % cut.num_heads:
        raise ValueError(f'{cut.num_heads} heads cannot share {rows} query and {values} value rows')
    if not isinstance(module, SlimFusedAttention):
        size = getattr(cut, 'head_dim', rows // cut.num_heads)  # of the dense heads
        cut.scale = getattr(cut, 'scale', size**-0.5)
        cls = type(module)
        module.__class__ = type(f'Slim{cls.__name__}', (SlimFusedAttention, cls), {'__module__': cls.__module__})
    if hasattr(cut, 'head_dim'):
        cut.head_dim = rows // cut.num_heads
