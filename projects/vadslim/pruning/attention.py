"""Multi-head attention that may be narrower inside than outside, and the heads and their widths as Groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .borders import Borders, declares_borders
from .group import Attr, Group, Index, Place, Slice, blocks, declares_groups


class SlimMultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with heads * head_dim != embed_dim.

    Parameter names, arguments and results are the stock module's. Widths come from the tensors: with
    ``out_proj.weight`` of shape (E, V), every head has V / num_heads value dimensions, and an equal share of
    the query and key rows, whose number gives the softmax scale. Made by ``slim_attention`` from a stock
    module, never from scratch. PyTorch's fused inference path, which assumes the stock shape, is off.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError('SlimMultiheadAttention is made from a dense module by vadslim.pruning.resize')

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
        """Shapes as in ``nn.MultiheadAttention.forward``; a 3-D ``attn_mask`` counts the kept heads."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        batch, length = query.shape[:2]

        q, k, v = self._project(query, key, value)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(batch, -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(batch, -1, -1)], 1)
        if self.add_zero_attn:
            k, v = (functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))

        mask = self._mask(attn_mask, key_padding_mask, q, key.shape[1], k.shape[2], is_causal)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            weights = (logits if mask is None else logits + mask).softmax(-1)
            weights = functional.dropout(weights, dropout, self.training)
            heads = weights @ v
        else:
            heads = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self.out_proj(heads.transpose(1, 2).reshape(batch, length, -1))

        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, length, query / key / value rows) each."""
        q, k, v = (functional.linear(x, *layer) for x, layer in zip((query, key, value), projections(self)))
        return q, k, v

    def _mask(
        self,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        q: Tensor,
        keys: int,
        all_keys: int,
        is_causal: bool,
    ) -> Tensor | None:
        """What is added to the logits, broadcastable to (batch, heads, queries, all keys), or None.

        ``keys`` counts the caller's keys; bias_k and the zero key come after them and are never masked.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError('is_causal is a hint about attn_mask and needs one')
        total: Tensor | None = None
        if attn_mask is not None:
            attn_mask = _additive(attn_mask, q)
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (q.shape[0], self.num_heads))
            total = attn_mask
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask, q)[:, None, None]
            total = padding if total is None else total + padding
        if total is not None and all_keys > keys:
            total = functional.pad(total, (0, all_keys - keys))
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A boolean mask (True: not allowed) as 0 / -inf; a float mask as it is."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float('-inf'))


def inner_widths(module: nn.MultiheadAttention) -> tuple[int, int]:
    """Query rows (as many as key rows) and value rows of all heads together."""
    values = module.out_proj.weight.shape[1]
    if module.in_proj_weight is None:
        return module.q_proj_weight.shape[0], values
    return (module.in_proj_weight.shape[0] - values) // 2, values


def projections(module: nn.MultiheadAttention) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """Weight and bias of the query, the key and the value projection, of a stock module and of a slim one."""
    rows, values = inner_widths(module)
    sizes = (rows, rows, values)
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.split(sizes)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.split(sizes)
    return tuple(zip(weights, biases))


def slim_attention(module: nn.MultiheadAttention) -> None:
    """Make a module whose tensors were cut hold their shape: numbers from the tensors, class swapped if need
    be.

    ``num_heads`` must be the new one already. Hooks, mode and parameters stay.
    """
    rows, width = inner_widths(module)
    weights = [weight for weight, _ in projections(module)]
    embed_dim = weights[0].shape[1]
    if width % module.num_heads or rows % module.num_heads:
        raise ValueError(f'{module.num_heads} heads cannot share {rows} query and {width} value rows')
    module.embed_dim, module.kdim, module.vdim = (int(weight.shape[1]) for weight in weights)
    module.head_dim = rows // module.num_heads
    if (rows, width, module.out_proj.weight.shape[0]) == (embed_dim,) * 3:
        return
    if type(module) not in (nn.MultiheadAttention, SlimMultiheadAttention):
        raise ValueError(f'{type(module).__name__}, a subclass of nn.MultiheadAttention, cannot be narrower inside')
    module.__class__ = SlimMultiheadAttention
    module._qkv_same_embed_dim = False  # also keeps nn.TransformerEncoderLayer from its fused path


def query_scale(module: nn.MultiheadAttention, removed: np.ndarray) -> float:
    """What the queries of a masked module are multiplied by, since the slim one's scale is that of its own width.

    Args:
        module: The dense module.
        removed: Rows of the query projection that are masked.
    """
    rows, _ = inner_widths(module)
    size = rows // module.num_heads
    left = np.setdiff1d(np.arange(rows), removed) // size
    return float(np.sqrt(size / np.bincount(left, minlength=1).max(initial=1)))


@declares_groups(nn.MultiheadAttention)
def attention_groups(module: nn.Module, prefix: str) -> list[Group]:
    """Heads; and, off by default, dimensions that all heads lose alike.

    A query-key dimension is one number in each head's queries and keys, whose width gives the softmax scale; a value
    dimension one in each head's values and so in its columns of the output projection.
    """
    assert isinstance(module, nn.MultiheadAttention)
    rows, values = inner_widths(module)
    heads = module.num_heads
    protected = ''
    if type(module) not in (nn.MultiheadAttention, SlimMultiheadAttention):
        protected = f'{type(module).__name__} is a subclass of nn.MultiheadAttention that declares no Groups'
    return [
        Group(name, kind, count, _slices(module, split, of), attrs, protected=protected, on=kind == 'head').prefixed(
            prefix
        )
        for name, kind, count, split, of, attrs in (
            ('heads', 'head', heads, _by_head, 'qkv', (Attr('', 'num_heads'),)),
            ('query_key_dims', 'query_key_dim', rows // heads, by_dim, 'qk', ()),
            ('value_dims', 'value_dim', values // heads, by_dim, 'v', ()),
        )
    ]


@declares_borders(nn.MultiheadAttention)
def attention_borders(module: nn.Module) -> Borders:
    """Query, key and value come in by the columns of their projections, the output leaves by the last one's rows."""
    assert isinstance(module, nn.MultiheadAttention)
    packed = module.in_proj_weight is not None
    inputs = {x: ('in_proj_weight' if packed else f'{x[0]}_proj_weight', 1) for x in ('query', 'key', 'value')}
    outputs: tuple[Place, ...] = (('out_proj.weight', 0),)
    return Borders(inputs, outputs if module.out_proj.bias is None else (*outputs, ('out_proj.bias', 0)))


def _by_head(heads: int, width: int, start: int = 0) -> Index:
    """Unit h is head h, of ``width`` positions from ``start``."""
    return blocks(heads, width // heads, (start,))


def by_dim(heads: int, width: int, start: int = 0) -> Index:
    """Unit d is position d of every head, of ``width`` positions from ``start``."""
    size = width // heads
    return blocks(size, 1, range(start, start + width, size))


def _slices(module: nn.MultiheadAttention, split: Callable[..., Index], of: str) -> tuple[Slice, ...]:
    """Where units stand that belong to the queries, keys and values named by ``of``."""
    rows, values = inner_widths(module)
    heads = module.num_heads
    places = {'q': (rows, 0), 'k': (rows, rows), 'v': (values, 2 * rows)}
    packed = Index.of(np.concatenate(parts) for parts in zip(*(split(heads, *places[x]) for x in of)))
    slices = []
    if module.in_proj_weight is not None:
        slices.append(Slice('in_proj_weight', 0, packed))
    else:
        slices += [Slice(f'{x}_proj_weight', 0, split(heads, places[x][0])) for x in of]
    if module.in_proj_bias is not None:
        slices.append(Slice('in_proj_bias', 0, packed))
    if module.bias_k is not None:
        slices += [Slice(f'bias_{x}', 2, split(heads, places[x][0])) for x in of if x != 'q']
    if 'v' in of:
        slices.append(Slice('out_proj.weight', 1, split(heads, values)))
    return tuple(slices)
