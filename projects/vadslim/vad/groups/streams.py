"""The widths of the network: four streams of features, each a Group of its own, off by default.

A stream is what residual sums, position encodings and norms hold together. Streams meet in projections only, whose
columns belong to the stream that is read and whose rows to the one that is made:

- ``streams.image``: the neck's output, the embeddings of cameras and levels. Read by the encoder's cross attentions.
- ``streams.bev``: cells of the bird's-eye view, their position encoding, the previous view. Read by both decoders.
- ``streams.map``: map point queries. Read by the map branches and the map vector encoder.
- ``streams.agents``: object queries, modes of motion, map vectors, the car.

Why the last is not four: map vectors are the keys that modes of motion and the car attend to. A packed
``in_proj_weight`` has columns of the queries' stream in its upper third and of the keys' stream below; being one
tensor, it keeps the same columns in all rows. ``pos_mlp`` and ``ego_map_pos_mlp`` encode positions of queries and of
keys with the same rows. Objects become modes of motion by a sum. So all that map vectors join is one stream; and since
such a vector is [features | their maximum over the points], its units are pairs (u, u + half).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.necks import FPN
from torch import nn

from vadslim.pruning import Group, Slice, Trace, blocks, declares_groups, declares_traces

from ..bev_encoder import SpatialCrossAttention, TemporalSelfAttention
from ..deformable_attention import DeformableAttention
from ..detector import VAD
from ..head import VADHead
from ..transformer_layer import VADMultiheadAttention, VADTransformerLayer

# A tensor, its dim, and how many copies of the stream stand there one after the other.
Place = tuple[str, int, int]


def stream(name: str, width: int, places: Iterable[Place], parts: int = 1, closes: bool = False) -> Group:
    """A Group of kind ``stream``.

    Args:
        name: Its name.
        width: Features of the stream.
        places: Where it stands.
        parts: A unit is feature u of every part of the stream: 2 for pairs (u, u + width / 2).
        closes: As of a Group.
    """
    units = width // parts
    slices = tuple(
        Slice(tensor, dim, blocks(units, 1, range(0, copies * width, units))) for tensor, dim, copies in places
    )
    return Group(name, 'stream', units, slices, closes=closes, on=False)


def reads(name: str, copies: int = 1) -> Iterator[Place]:
    """A linear layer or convolution whose input is the stream."""
    yield f'{name}.weight', 1, copies


def makes(name: str) -> Iterator[Place]:
    """A linear layer, a convolution or a norm whose output is the stream."""
    yield f'{name}.weight', 0, 1
    yield f'{name}.bias', 0, 1


def within_layer(layer: VADTransformerLayer, prefix: str) -> Iterator[Place]:
    """Places of the stream that a transformer layer passes on: its queries and, in a multi-head attention, keys.

    The values of a deformable cross attention are another stream's; see :func:`values_of`.
    """
    for number, attention in enumerate(layer.attentions):
        path = f'{prefix}.attentions.{number}'
        if isinstance(attention, VADMultiheadAttention):
            yield from reads_packed(f'{path}.attn')
            yield from makes(f'{path}.attn.out_proj')
            continue
        inner = f'{path}.deformable_attention' if isinstance(attention, SpatialCrossAttention) else path
        copies = 2 if isinstance(attention, TemporalSelfAttention) else 1  # [previous view | queries]
        yield from reads(f'{inner}.sampling_offsets', copies)
        yield from reads(f'{inner}.attention_weights', copies)
        if isinstance(attention, TemporalSelfAttention):
            yield from reads(f'{path}.value_proj')
        yield from makes(f'{path}.output_proj')
    for number, ffn in enumerate(layer.ffns):
        first, last = ends_of(ffn)
        yield from reads(f'{prefix}.ffns.{number}.layers.{first}')
        yield from makes(f'{prefix}.ffns.{number}.layers.{last}')
    for number in range(len(layer.norms)):
        yield from makes(f'{prefix}.norms.{number}')


def reads_packed(path: str) -> Iterator[Place]:
    """The packed query, key and value projection of a multi-head attention."""
    yield f'{path}.in_proj_weight', 1, 1


def ends_of(ffn: FFN) -> tuple[str, str]:
    """First and last linear layer."""
    linears = [name for name, layer in ffn.layers.named_modules() if isinstance(layer, nn.Linear)]
    return linears[0], linears[-1]


def within(stack: nn.Module, prefix: str) -> Iterator[Place]:
    """Places of the stream that all layers of a stack pass on."""
    for number, layer in enumerate(stack.layers):
        yield from within_layer(layer, f'{prefix}.layers.{number}')


def values_of(stack: nn.Module, prefix: str) -> Iterator[Place]:
    """Where the deformable cross attentions of a stack read the features that they sample."""
    for name, module in stack.named_modules(prefix=prefix):
        if isinstance(module, DeformableAttention) and not isinstance(module, TemporalSelfAttention):
            yield from reads(f'{name}.value_proj')


def image_stream(model: VAD, head: str) -> Iterator[Group]:
    """Image features; nothing for a neck that is not known, whose output then stays protected."""
    neck, transformer = model.img_neck, model.pts_bbox_head.transformer
    if not isinstance(neck, FPN) or any(conv.with_norm for conv in neck.fpn_convs):
        return
    places = [
        (f'{head}.transformer.level_embeds', 1, 1),
        (f'{head}.transformer.cams_embeds', 1, 1),
        *values_of(transformer.encoder, f'{head}.transformer.encoder'),
    ]
    used = len(neck.lateral_convs)
    for number in range(len(neck.fpn_convs)):
        places += makes(f'img_neck.fpn_convs.{number}.conv')
        if number > used or (number == used and neck.add_extra_convs == 'on_output'):  # reads the map above it
            places += reads(f'img_neck.fpn_convs.{number}.conv')
    yield stream('streams.image', transformer.level_embeds.shape[1], places, closes=True)


def bev_stream(head: VADHead, prefix: str) -> Group:
    """Cells of the bird's-eye view. The encoding's columns come first: they are [of the column | of the row]."""
    transformer, path = head.transformer, f'{prefix}.transformer'
    width = head.bev_embedding.embedding_dim
    places = [
        (f'{prefix}.bev_embedding.weight', 1, 1),
        *makes(f'{path}.can_bus_mlp.2'),
        *within(transformer.encoder, f'{path}.encoder'),
        *values_of(transformer.decoder, f'{path}.decoder'),
        *values_of(transformer.map_decoder, f'{path}.map_decoder'),
    ]
    if hasattr(transformer.can_bus_mlp, 'norm'):
        places += makes(f'{path}.can_bus_mlp.norm')
    group = stream('streams.bev', width, places)
    halves, start = [], 0
    for axis in ('col', 'row'):
        size = getattr(head.positional_encoding, f'{axis}_embed').embedding_dim
        index = [[unit - start] if start <= unit < start + size else [] for unit in range(width)]
        halves.append(Slice(f'{prefix}.positional_encoding.{axis}_embed.weight', 1, index))
        start += size
    return Group(group.name, group.kind, width, (*group.slices, *halves), on=group.on)


def map_stream(head: VADHead, prefix: str) -> Group:
    """Map point queries; embeddings are [position | content]."""
    path = f'{prefix}.transformer'
    embeddings = ('map_query_embedding',)
    if head.map_query_embedding is None:
        embeddings = ('map_instance_embedding', 'map_pts_embedding')
    places = [
        *((f'{prefix}.{name}.weight', 1, 2) for name in embeddings),
        *reads(f'{path}.map_reference_points'),
        *within(head.transformer.map_decoder, f'{path}.map_decoder'),
        *reads_branches(head, prefix, ('map_cls_branches', 'map_reg_branches')),
        *reads(f'{prefix}.lane_encoder.layer_seq.lmlp_0.mlp.0'),
    ]
    return stream('streams.map', head.transformer.map_reference_points.in_features, places)


def agents_stream(head: VADHead, prefix: str) -> Group:
    """Objects, modes of motion, map vectors and the car, in pairs of features."""
    path, modes = f'{prefix}.transformer', head.motion_mode_query.num_embeddings
    places = [
        (f'{prefix}.query_embedding.weight', 1, 2),
        (f'{prefix}.motion_mode_query.weight', 1, 1),
        *reads(f'{path}.reference_points'),
        *within(head.transformer.decoder, f'{path}.decoder'),
        *reads_branches(head, prefix, ('cls_branches', 'reg_branches')),
        *reads_branches(head, prefix, ('traj_branches', 'traj_cls_branches'), 2),  # [of agents | of the map]
        *reads(f'{prefix}.agent_fus_mlp.0', 2 * modes),
        *makes(f'{prefix}.agent_fus_mlp.{len(head.agent_fus_mlp) - 1}'),
        *reads(f'{prefix}.ego_fut_decoder.0', 2),
    ]
    for name in ('motion_decoder', 'motion_map_decoder', 'ego_agent_decoder', 'ego_map_decoder'):
        places += within(getattr(head, name), f'{prefix}.{name}')
    for name in ('pos_mlp_sa', 'pos_mlp', 'ego_agent_pos_mlp', 'ego_map_pos_mlp'):
        if getattr(head, name) is not None:
            places += makes(f'{prefix}.{name}')
    if head.ego_query is not None:
        places.append((f'{prefix}.ego_query.weight', 1, 1))
    width = head.motion_mode_query.embedding_dim
    group = stream('streams.agents', width, places, parts=2)
    slices = list(group.slices)
    for name in ('lane_encoder', 'ego_his_encoder'):
        encoder = getattr(head, name)
        if encoder is not None:
            last = f'{prefix}.{name}.layer_seq.lmlp_{len(encoder.layer_seq) - 1}.mlp'
            places = [*makes(f'{last}.0'), *makes(f'{last}.1')]
            slices += stream(name, width // 2, places).slices  # the other half is their maximum
    return Group(group.name, group.kind, group.num_units, tuple(slices), on=group.on)


def reads_branches(head: VADHead, prefix: str, names: Iterable[str], copies: int = 1) -> Iterator[Place]:
    """First layers of some branches."""
    for name in names:
        for number in range(len(getattr(head, name))):
            yield from reads(f'{prefix}.{name}.{number}.0', copies)


@declares_groups(VAD)
def streams(module: VAD, prefix: str) -> list[Group]:
    """All streams; off by default."""
    head = module.pts_bbox_head
    groups = [*image_stream(module, 'pts_bbox_head')]
    groups += [build(head, 'pts_bbox_head') for build in (bev_stream, map_stream, agents_stream)]
    return [group.prefixed(prefix) for group in groups]


@declares_traces(VAD)
def image_traces(model: VAD, example: Any) -> list[Trace]:
    """Backbone and neck, with one small image; the declared image stream reads the neck's output."""

    def run(child: VAD) -> Any:
        like = next(child.img_backbone.parameters())  # not passed to an operation: its channels would be tied to it
        image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        return child.img_neck(child.img_backbone(image.to(like.device, like.dtype)))

    return [Trace('', run)]
