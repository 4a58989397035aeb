"""Heads, value dimensions and sampling points of deformable attentions.

(Those of multi-head attentions are declared by ``vadslim.pruning`` for ``nn.MultiheadAttention``.)
"""

from __future__ import annotations

import numpy as np

from vadslim.pruning import Attr, Group, Index, Slice, blocks, by_dim, declares_groups

from ..bev_encoder import SpatialCrossAttention
from ..deformable_attention import DeformableAttention


def head_group(module: DeformableAttention, prefix: str, output: str) -> Group:
    """Heads of a deformable attention.

    A head has its rows of ``value_proj``, its block [queue, level, point(, xy)] of rows of ``attention_weights``
    (and ``sampling_offsets``), and its columns of the projection that reads the result.

    Args:
        module: The attention.
        prefix: Its dotted path.
        output: Dotted path of the projection of its output.
    """
    heads = module.num_heads
    width = module.value_proj.out_features // heads
    samples = module.num_queue * module.num_levels * module.num_points
    rows = {'value_proj': width, 'sampling_offsets': 2 * samples, 'attention_weights': samples}
    slices = [
        Slice(f'{prefix}.{layer}.{name}', 0, blocks(heads, size))
        for layer, size in rows.items()
        for name in ('weight', 'bias')
    ]
    slices.append(Slice(f'{output}.weight', 1, blocks(heads, width)))
    return Group(f'{prefix}.heads', 'head', heads, tuple(slices), (Attr(prefix, 'num_heads'),))


def value_group(module: DeformableAttention, prefix: str, output: str) -> Group:
    """Value dimensions, which all heads lose alike. Arguments as of :func:`head_group`."""
    heads, width = module.num_heads, module.value_proj.out_features
    index = by_dim(heads, width)
    slices = [Slice(f'{prefix}.value_proj.{name}', 0, index) for name in ('weight', 'bias')]
    slices.append(Slice(f'{output}.weight', 1, index))
    return Group(f'{prefix}.value_dims', 'value_dim', width // heads, tuple(slices), on=False)


def point_group(module: DeformableAttention, prefix: str, heights: int = 1) -> Group:
    """Sampling points, which all heads, queues and levels lose alike; a removed one has a logit of -inf.

    Args:
        module: The attention.
        prefix: Its dotted path.
        heights: How many neighbouring points are one unit: those of a pillar's heights.
    """
    units = module.num_points // heights
    groups = module.num_heads * module.num_queue * module.num_levels

    def rows(size: int) -> Index:
        grid = np.arange(groups * module.num_points * size).reshape(groups, units, heights * size)
        return Index.of(grid.transpose(1, 0, 2).reshape(units, -1))

    slices = (
        Slice(f'{prefix}.sampling_offsets.weight', 0, rows(2)),
        Slice(f'{prefix}.sampling_offsets.bias', 0, rows(2)),
        Slice(f'{prefix}.attention_weights.weight', 0, rows(1)),
        Slice(f'{prefix}.attention_weights.bias', 0, rows(1), mask_value=float('-inf')),
    )
    return Group(f'{prefix}.points', 'point', units, slices, (Attr(prefix, 'num_points', heights),), on=False)


@declares_groups(DeformableAttention)
def deformable_groups(module: DeformableAttention, prefix: str) -> list[Group]:
    """Of an attention with a projection of its own."""
    output = f'{prefix}.output_proj'
    return [head_group(module, prefix, output), value_group(module, prefix, output), point_group(module, prefix)]


@declares_groups(SpatialCrossAttention, owns_children=True)
def spatial_groups(module: SpatialCrossAttention, prefix: str) -> list[Group]:
    """Of the sampling inside, whose points belong to heights; the projection belongs to the module around it."""
    inner, path, output = module.deformable_attention, f'{prefix}.deformable_attention', f'{prefix}.output_proj'
    points = point_group(inner, path, module.num_heights)
    return [head_group(inner, path, output), value_group(inner, path, output), points]
