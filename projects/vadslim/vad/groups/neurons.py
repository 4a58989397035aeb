"""Neurons: of feed-forward networks, branches and small perceptrons, and points' features in the map vector encoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mmcv.cnn.bricks.transformer import FFN
from torch import nn

from vadslim.pruning import Group, Slice, blocks, declares_groups

from ..decoders import LaneNet
from ..head import VADHead
from ..transformer import VADPerceptionTransformer
from .queries import query_groups

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
    """Hidden neurons of the branches, ``ego_fut_decoder`` and ``agent_fus_mlp``; and the queries."""
    start = f'{prefix}.' if prefix else ''
    neurons = [group for name, net in head_perceptrons(module) for group in perceptron_groups(net, start + name)]
    return neurons + query_groups(module, prefix)


@declares_groups(VADPerceptionTransformer)
def can_bus_neurons(module: VADPerceptionTransformer, prefix: str) -> list[Group]:
    """Hidden neurons of the perceptron that reads the car's motion."""
    return perceptron_groups(module.can_bus_mlp, f'{prefix}.can_bus_mlp' if prefix else 'can_bus_mlp')
