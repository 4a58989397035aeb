"""Motion of other agents and the plan of the own car, from object and map queries."""

import torch
from torch import Tensor, nn

from vadslim.pruning import projections

from .decoders import CustomTransformerDecoder


def nearest_point(points: Tensor) -> Tensor:
    """The point of each vector that is nearest to (0, 0), (B, V, points, 2) -> (B, V, 2).

    The coordinates are those in [0, 1], so this is the point nearest to the corner of the map, not to the car; as
    published.
    """
    distance = torch.sqrt(points[..., 0] ** 2 + points[..., 1] ** 2)
    index = distance.argmin(-1)[..., None, None].expand(-1, -1, 1, 2)
    return points.gather(2, index).squeeze(2)


def relative_position_bias(attn: nn.MultiheadAttention, query: Tensor, pos_mlp: nn.Linear, origin: Tensor) -> Tensor:
    """What an attention logit changes by when a key's position encoding is taken relative to ``origin``.

    The encoding is linear, so a key at p seen from o is ``key + pos_mlp(p) - W o``, and its logit that of the
    absolute key minus ``scale * q . (W_k W o)``: the same for all keys of a query. Hence keys are projected once,
    not once per agent and mode.

    Args:
        attn: The attention.
        query: Its queries, positions added, (B, Q, D).
        pos_mlp: Linear(2, D) that encodes the keys' positions.
        origin: (B, Q, 2).

    Returns:
        (B * heads, Q, 1).
    """
    heads = attn.num_heads
    (w_q, b_q), (w_k, _), _ = projections(attn)
    head_dim = w_q.shape[0] // heads
    key = (w_k @ pos_mlp.weight).view(heads, head_dim, 2)  # what one unit of position does to each head's key
    w_q, b_q = w_q.view(heads, head_dim, -1), b_q.view(heads, head_dim)
    slope = torch.einsum('bqd,hxd->bhqx', query, torch.einsum('hcd,hcx->hxd', w_q, key))
    slope = slope + torch.einsum('hc,hcx->hx', b_q, key)[:, None]
    return (slope * origin[:, None]).sum(-1, keepdim=True).flatten(0, 1) * head_dim**-0.5


def attend_map(
    decoder: CustomTransformerDecoder,
    pos_mlp: nn.Linear | None,
    query: Tensor,
    origin: Tensor,
    vectors: Tensor,
    positions: Tensor,
    visible: Tensor,
    dis_thresh: float,
    pe_normalization: bool,
) -> Tensor:
    """Each mode of each agent attends to the map vectors near it, and to one empty vector that is always there.

    Masking takes the place of the original's selection, so sizes do not depend on the data; a softmax over masked
    keys is the same.

    Args:
        decoder: Cross attention layers.
        pos_mlp: Position encoding, or None.
        query: (B, Q, D).
        origin: Position of the queries' agents in [0, 1], (B, Q, 2).
        vectors: (B, V, D).
        positions: (B, V, 2), in [0, 1].
        visible: Vectors of sufficient score, (B, V).
        dis_thresh: Greatest distance of a vector from an agent, in units of ``positions``.
        pe_normalization: Whether vector positions are encoded relative to the agent; the empty vector's never is.

    Returns:
        (B, Q, D).
    """
    batch, num_query = query.shape[:2]
    offset = positions[:, None] - origin[:, :, None]  # B, Q, V, 2
    near = torch.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2) <= dis_thresh
    blocked = ~(near & visible[:, None])
    mask = torch.zeros_like(blocked, dtype=query.dtype).masked_fill(blocked, float('-inf'))
    keys = torch.cat([vectors, vectors.new_zeros(batch, 1, vectors.shape[2])], 1)
    pos = query_pos = None
    if pos_mlp is not None:
        pos = pos_mlp(torch.cat([positions, positions.new_ones(batch, 1, 2)], 1))
        query_pos = pos_mlp(origin.new_zeros(1, 1, 2)).expand_as(query)
    for layer in decoder.layers:
        attn = layer.attentions[0].attn
        bias = query.new_zeros(batch * attn.num_heads, num_query, 1)
        if pos_mlp is not None and pe_normalization:
            # Logits may be shifted by one number per query: instead of lowering all vectors, the empty one is raised.
            bias = relative_position_bias(attn, query + query_pos, pos_mlp, origin)
        logits = torch.cat([mask.repeat_interleave(attn.num_heads, 0), bias], -1)
        query = layer(query, keys, keys, query_pos, pos, attn_mask=logits)
    return query


def attend_all(
    decoder: CustomTransformerDecoder,
    pos_mlp: nn.Linear | None,
    query: Tensor,
    keys: Tensor,
    positions: Tensor,
    scores: Tensor,
    score_thresh: float | None,
    fix_pad: bool,
) -> Tensor:
    """The car, at (0, 0), attends to all agents or vectors of sufficient score.

    Args:
        decoder: Cross attention layers.
        pos_mlp: Position encoding, or None.
        query: (B, 1, D).
        keys: (B, K, D).
        positions: (B, K, 2), in [0, 1].
        scores: Logits, (B, K, classes).
        score_thresh: Lowest score (exclusive).
        fix_pad: Whether an empty key at (1, 1) is added.

    Returns:
        (B, 1, D).
    """
    blocked = scores.sigmoid().amax(-1) <= score_thresh
    if fix_pad:
        keys = torch.cat([keys, torch.zeros_like(keys[:, :1])], 1)
        positions = torch.cat([positions, torch.ones_like(positions[:, :1])], 1)
        blocked = torch.cat([blocked, torch.zeros_like(blocked[:, :1])], 1)
    pos = query_pos = None
    if pos_mlp is not None:
        pos = pos_mlp(positions)
        query_pos = pos_mlp(positions.new_zeros(1, 1, 2)).expand_as(query)
    return decoder(query, keys, query_pos, pos, key_padding_mask=blocked)
