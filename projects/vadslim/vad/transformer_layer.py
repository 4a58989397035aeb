"""Blocks that all of VAD's transformers are made of: multi-head attention, a layer and a stack of layers.

Everything is batch-first: queries are (batch, number of queries, width). No width is stored for the forward pass;
each is read from the tensors, so that a slimmed layer runs through the same code.
"""

import copy
from collections.abc import Sequence
from typing import Any

from mmcv.cnn.bricks.transformer import FFN
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn


@MODELS.register_module()
class VADMultiheadAttention(BaseModule):
    """Multi-head attention with a residual; the positions are added to queries and keys only.

    Attention goes through the call of ``self.attn``, hence any ``nn.MultiheadAttention`` with the same parameter names
    may stand there, also one whose heads together are narrower than the embedding.

    Args:
        embed_dims: Width of queries, keys and values.
        num_heads: Number of heads.
        dropout: Dropout rate, applied to the attention weights and to the output.
    """

    def __init__(self, embed_dims: int, num_heads: int, dropout: float = 0.0, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, dropout, batch_first=True)
        self.dropout_layer = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, D).
            key: (B, K, D).
            value: (B, K, D).
            query_pos: Position encoding added to the queries, (B, Q, D).
            key_pos: Position encoding added to the keys, (B, K, D).
            key_padding_mask: Keys that nobody may see are True, (B, K).
            attn_mask: Added to the logits, (B * heads, Q, K).

        Returns:
            Queries with what was attended to added, (B, Q, D).
        """
        out, _ = self.attn(
            query if query_pos is None else query + query_pos,
            key if key_pos is None else key + key_pos,
            value,
            key_padding_mask=key_padding_mask,
            attn_mask=attn_mask,
            need_weights=False,
        )
        return query + self.dropout_layer(out)


@MODELS.register_module()
class VADTransformerLayer(BaseModule):
    """A post-norm transformer layer whose steps are named by ``operation_order``.

    Args:
        attn_cfgs: One config per attention, in the order of ``operation_order``.
        feedforward_channels: Hidden width of the feed-forward networks.
        operation_order: Steps out of ``self_attn``, ``cross_attn``, ``ffn`` and ``norm``, not beginning with ``norm``.
        ffn_dropout: Dropout rate of the feed-forward networks.
    """

    STEPS = ('self_attn', 'cross_attn', 'ffn', 'norm')

    def __init__(
        self,
        attn_cfgs: Sequence[dict],
        feedforward_channels: int,
        operation_order: Sequence[str],
        ffn_dropout: float = 0.0,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        unknown = set(operation_order) - set(self.STEPS)
        if unknown or operation_order[0] == 'norm':
            raise ValueError(
                f'operation_order={tuple(operation_order)}: allowed are {self.STEPS}, not beginning with norm'
            )
        num_attn = sum(step.endswith('_attn') for step in operation_order)
        if len(attn_cfgs) != num_attn:
            raise ValueError(f'attn_cfgs has {len(attn_cfgs)} entries, operation_order names {num_attn} attentions')
        self.operation_order = tuple(operation_order)
        self.attentions = ModuleList(MODELS.build(cfg) for cfg in attn_cfgs)
        width = self.attentions[0].embed_dims
        count = self.operation_order.count
        self.ffns = ModuleList(FFN(width, feedforward_channels, ffn_drop=ffn_dropout) for _ in range(count('ffn')))
        self.norms = ModuleList(nn.LayerNorm(width) for _ in range(count('norm')))

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        **cross: Any,
    ) -> Tensor:
        """Run the steps.

        Args:
            query: (B, Q, D).
            key: Keys of the cross attention, (B, K, D).
            value: Values of the cross attention, (B, K, D).
            query_pos: (B, Q, D).
            key_pos: (B, K, D).
            **cross: Further arguments of the cross attention.

        Returns:
            (B, Q, D).
        """
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        for step in self.operation_order:
            if step == 'self_attn':
                query = next(attentions)(query, query, query, query_pos, query_pos)
            elif step == 'cross_attn':
                query = next(attentions)(query, key, value, query_pos, key_pos, **cross)
            elif step == 'ffn':
                query = next(ffns)(query)
            else:
                query = next(norms)(query)
        return query


class LayerStack(BaseModule):
    """``num_layers`` layers built from the same config.

    Args:
        transformerlayers: Config of a layer.
        num_layers: How many of them.
        return_intermediate: Whether a decoder returns the queries after each layer, or only after the last.
    """

    def __init__(
        self,
        transformerlayers: dict,
        num_layers: int,
        return_intermediate: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if num_layers < 1:
            raise ValueError(f'num_layers={num_layers}: at least 1 is needed')
        self.return_intermediate = return_intermediate
        self.layers = ModuleList(MODELS.build(copy.deepcopy(transformerlayers)) for _ in range(num_layers))
