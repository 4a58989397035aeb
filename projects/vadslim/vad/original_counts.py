"""What the original code of VAD (hustvl/VAD, commit 1688c4b) multiplies for the same outputs, from what ours does.

The two differ where ours was rearranged: the outputs are the same, the work is not. All sizes are read from the network
and from its counts, so that this holds for slim networks as well. Batch 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from vadslim.analysis import Change, Complexity
from vadslim.analysis.complexity import Product
from vadslim.pruning.attention import inner_widths

from .bev_encoder import SpatialCrossAttention, find_visibility, pillar_points, project_points
from .head import VADHead


def hits_per_camera(head: VADHead, meta: Mapping[str, Any]) -> list[int]:
    """How many pillars of the bird's-eye view each camera sees.

    Args:
        head: of the network, dense or slim.
        meta: ``lidar2img`` and ``img_shape`` of one sample.
    """
    encoder, like = head.transformer.encoder, head.bev_embedding.weight
    points = pillar_points(head.bev_h, head.bev_w, encoder.num_points_in_pillar, encoder.pc_range, like)
    return find_visibility(*project_points(points, [meta])).counts


def original_changes(
    model: nn.Module, counted: Complexity, hits: Sequence[int], vectors: int | None = None
) -> list[Change]:
    """What the original does more, or less.

    Args:
        model: a VAD, dense or slim.
        counted: its operations, for one frame and batch 1.
        hits: of :func:`hits_per_camera`.
        vectors: map vectors that pass the original's threshold and are within reach of some agent; it depends on the
            picture, and ours always takes all. None: all.
    """
    name, head = next((n, m) for n, m in model.named_modules() if isinstance(m, VADHead))
    return [
        *_spatial_attention(model, head, counted, hits),
        *_projection(f'{name}.transformer.encoder', counted),
        *_twice(name, counted),
        *_map_attention(name, head, counted, vectors),
    ]


def _below(counted: Complexity, *names: str) -> Iterator[tuple[int, Product]]:
    """Number and product of all products in modules and below them."""
    for number, product in enumerate(counted.products):
        if any(f'{product.module}.'.startswith(f'{name}.') for name in names):
            yield number, product


def _spatial_attention(model: nn.Module, head: VADHead, counted: Complexity, hits: Sequence[int]) -> Iterator[Change]:
    """Ours predicts the points of each pillar once, and samples where a camera sees it."""
    padded, cells = len(hits) * max(hits), head.bev_embedding.weight.shape[0]
    why = f'points predicted and sampled for {len(hits)} x {max(hits)} padded places, not {cells} and {sum(hits)}'
    for name, module in model.named_modules():
        if isinstance(module, SpatialCrossAttention):
            inner = f'{name}.deformable_attention'
            for _, product in _below(counted, f'{inner}.sampling_offsets', f'{inner}.attention_weights'):
                yield Change(product.module, why, product.macs * padded // cells - product.macs)
            macs = sum(sampling.macs for sampling in counted.samplings if sampling.module == inner)
            yield Change(inner, why, sampling_macs=macs * padded // sum(hits) - macs)


def _projection(encoder: str, counted: Complexity) -> Iterator[Change]:
    """Ours multiplies by the three rows of a camera's matrix that matter."""
    for _, product in _below(counted, encoder):
        if product.module == encoder:
            yield Change(encoder, 'all four rows of the camera matrices', product.macs // 3)


def _twice(head: str, counted: Complexity) -> Iterator[Change]:
    """What ours does once and uses twice."""
    for why, names in (
        ('regression of each layer in the decoder and again in the head', ('reg_branches', 'map_reg_branches')),
        ('map vectors encoded for the agents and again for the car', ('lane_encoder',)),
    ):
        for _, product in _below(counted, *(f'{head}.{name}' for name in names)):
            yield Change(product.module, why, product.macs)


def _map_attention(name: str, head: VADHead, counted: Complexity, vectors: int | None) -> Iterator[Change]:
    """Ours projects the map vectors once, and moves the logits by what their place relative to an agent does to them.

    The original encodes and projects the vectors and one empty one for each mode of each agent, relative to it.
    """
    queries = head.query_embedding.weight.shape[0] * head.motion_mode_query.weight.shape[0]
    total = head.map_embedding().shape[0] // head.map_num_pts_per_vec
    seen = total if vectors is None else vectors
    each = f'for each of {queries} modes of agents'
    encoded = sum(product.macs for _, product in _below(counted, f'{name}.pos_mlp'))
    macs = encoded // (total + 2) * (seen + 2) * queries  # vectors, the empty one, and the query's own place
    yield Change(f'{name}.pos_mlp', f'positions of map vectors encoded {each}', macs - encoded)
    for i, layer in enumerate(head.motion_map_decoder.layers):
        attention = f'{name}.motion_map_decoder.layers.{i}.attentions.0.attn'
        rows, _ = inner_widths(layer.attentions[0].attn)
        for _, product in _below(counted, attention):
            macs = product.macs // (total + 1) * (seen + 1)
            if not product.weight:
                yield Change(attention, f'{seen} map vectors selected of {total}', macs - product.macs)
            elif _is_key_or_value(product, rows):
                yield Change(attention, f'keys and values of the map projected {each}', macs * queries - product.macs)
    motion = max(number for number, _ in _below(counted, f'{name}.motion_decoder'))
    for number, product in _below(counted, name):
        if product.module == name and number > motion:
            yield Change(name, 'no logits moved by positions', -product.macs)


def _is_key_or_value(product: Product, query_rows: int) -> bool:
    packed = product.weight.endswith('.in_proj_weight')
    return (packed and product.start >= query_rows) or product.weight.endswith(('.k_proj_weight', '.v_proj_weight'))
