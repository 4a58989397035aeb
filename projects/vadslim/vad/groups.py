"""The units of VAD that can be removed: what its modules declare, and which part of it is traced.

Declared: neurons of feed-forward networks, branches and small perceptrons, points' features inside the map vector
encoder, heads of deformable attentions. (Heads of multi-head attentions are declared by ``vadslim.pruning`` for
``nn.MultiheadAttention``.) Traced: the image backbone and the neck.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import nn

from vadslim.pruning import Attr, Group, Slice, Trace, blocks, declares_groups, declares_traces

from .bev_encoder import SpatialCrossAttention
from .decoders import LaneNet
from .deformable_attention import DeformableAttention
from .detector import VAD
from .head import VADHead
from .transformer import VADPerceptionTransformer

# Layers that leave each feature at its place, between the two linear layers that share it.
_IN_PLACE = (nn.LayerNorm, nn.ReLU, nn.GELU, nn.Dropout, nn.Identity)


def perceptron_groups(net: nn.Sequential, prefix: str) -> list[Group]:
    """Hidden neurons of a perceptron: per pair of neighbouring linear layers, one Group named after the first.

    Args:
        net: Linear layers with LayerNorms, activations and dropouts between them; what stands before the first and
            after the last linear layer is left alone.
        prefix: Dotted path of ``net``.

    Raises:
        TypeError: Another kind of layer stands in between.
    """
    groups = []
    linears = [number for number, layer in enumerate(net) if isinstance(layer, nn.Linear)]
    names = list(net._modules)
    for first, second in zip(linears, linears[1:]):
        tensors = []
        for number in range(first, second):
            layer = net[number]
            if number > first and not isinstance(layer, _IN_PLACE):
                raise TypeError(f'{prefix}.{names[number]}: a {type(layer).__name__} is no layer of a perceptron')
            tensors += [f'{names[number]}.{name}' for name, _ in layer.named_parameters()]
        width = net[first].out_features
        slices = [Slice(tensor, 0, blocks(width)) for tensor in tensors]
        slices.append(Slice(f'{names[second]}.weight', 1, blocks(width)))
        groups.append(Group(names[first], 'neuron', width, tuple(slices)).prefixed(prefix))
    return groups


@declares_groups(FFN)
def ffn_neurons(module: FFN, prefix: str) -> list[Group]:
    """Hidden neurons; layers.0, ... are (linear, activation, dropout), the last linear layer stands bare."""
    linears = [f'{name}.0' for name, layer in module.layers.named_children() if isinstance(layer, nn.Sequential)]
    linears.append(str(len(linears)))
    groups = []
    for first, second in zip(linears, linears[1:]):
        width = module.layers.get_submodule(first).out_features
        slices = [Slice(f'{first}.{name}', 0, blocks(width)) for name in ('weight', 'bias')]
        slices.append(Slice(f'{second}.weight', 1, blocks(width)))
        groups.append(Group(first, 'neuron', width, tuple(slices)).prefixed(f'{prefix}.layers'))
    return groups


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


@declares_groups(DeformableAttention)
def deformable_heads(module: DeformableAttention, prefix: str) -> list[Group]:
    """Heads, of an attention with a projection of its own."""
    return [head_group(module, prefix, f'{prefix}.output_proj')]


@declares_groups(SpatialCrossAttention, owns_children=True)
def spatial_heads(module: SpatialCrossAttention, prefix: str) -> list[Group]:
    """Heads of the sampling inside; the projection belongs to the module around it."""
    return [head_group(module.deformable_attention, f'{prefix}.deformable_attention', f'{prefix}.output_proj')]


@declares_groups(LaneNet)
def lane_neurons(module: LaneNet, prefix: str) -> list[Group]:
    """Features of all layers but the last, whose output is the width of a map vector.

    A layer's output is [features | their maximum over the points]: the next one reads each feature at two places.
    """
    groups = []
    layers = list(module.layer_seq.named_children())
    for (name, layer), (following, _) in zip(layers, layers[1:]):
        width = layer.mlp[0].out_features
        both = tuple(np.array([unit, unit + width]) for unit in range(width))
        own = [f'{name}.mlp.{number}.{tensor}' for number in (0, 1) for tensor in ('weight', 'bias')]
        slices = [Slice(tensor, 0, blocks(width)) for tensor in own]
        slices.append(Slice(f'{following}.mlp.0.weight', 1, both))
        groups.append(Group(f'{name}.mlp.0', 'neuron', width, tuple(slices)).prefixed(f'{prefix}.layer_seq'))
    return groups


def head_perceptrons(head: VADHead) -> Iterator[tuple[str, nn.Sequential]]:
    """The branches and small perceptrons of the head by their dotted path."""
    for name, child in head.named_children():
        if isinstance(child, nn.Sequential):
            yield name, child
        elif name.endswith('_branches'):
            yield from ((f'{name}.{number}', net) for number, net in enumerate(child))


@declares_groups(VADHead)
def branch_neurons(module: VADHead, prefix: str) -> list[Group]:
    """Hidden neurons of the branches, ``ego_fut_decoder`` and ``agent_fus_mlp``."""
    start = f'{prefix}.' if prefix else ''
    return [group for name, net in head_perceptrons(module) for group in perceptron_groups(net, start + name)]


@declares_groups(VADPerceptionTransformer)
def can_bus_neurons(module: VADPerceptionTransformer, prefix: str) -> list[Group]:
    """Hidden neurons of the perceptron that reads the car's motion."""
    return perceptron_groups(module.can_bus_mlp, f'{prefix}.can_bus_mlp' if prefix else 'can_bus_mlp')


@declares_traces(VAD)
def image_traces(model: VAD, example: Any) -> list[Trace]:
    """Backbone and neck, with one small image. The neck's output is read by ``cams_embeds`` and the encoder."""

    def run(child: VAD) -> Any:
        like = next(child.img_backbone.parameters())  # not passed to an operation: its channels would be tied to it
        image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        return child.img_neck(child.img_backbone(image.to(like.device, like.dtype)))

    return [Trace('', run)]
