"""How many units go where, when they compete."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.pruning import Attr, Global, Group, Isomorphic, Slice, StructuredPruner, blocks, find_groups, topology
from vadslim.registry import ALLOCATIONS


def conv_group(name, width, readers=1, norm=True):
    """Channels of a convolution NAME, a norm, and convolutions that read them."""
    slices = [Slice(f'{name}.conv.weight', 0, blocks(width))]
    if norm:
        slices += [Slice(f'{name}.bn.{tensor}', 0, blocks(width)) for tensor in ('weight', 'bias', 'running_mean')]
    slices += [Slice(f'{name}.reader{number}.weight', 1, blocks(width)) for number in range(readers)]
    return Group(name, 'channel', width, slices)


def test_topology_knows_layers_not_widths_nor_names():
    reference = topology(conv_group('layer1.0', 64))
    assert topology(conv_group('layer4.2', 512)) == reference
    assert topology(conv_group('a', 64, readers=2)) != reference
    assert topology(conv_group('a', 64, norm=False)) != reference
    ffn = [Slice('0.weight', 0, blocks(8)), Slice('0.bias', 0, blocks(8)), Slice('1.weight', 1, blocks(8))]
    other = [*ffn[:2], Slice('1.weight', 0, blocks(8))]
    assert topology(Group('x', 'neuron', 8, ffn)) == topology(Group('y', 'neuron', 8, ffn[::-1]))
    assert topology(Group('x', 'neuron', 8, ffn)) != topology(Group('x', 'channel', 8, ffn))
    assert topology(Group('x', 'neuron', 8, ffn)) != topology(Group('x', 'neuron', 8, other))
    wide, narrow = ([Slice('v.weight', 0, blocks(4, size))] for size in (32, 16))
    assert topology(Group('x', 'head', 4, wide)) != topology(Group('x', 'head', 4, narrow))
    counted = Group('x', 'head', 4, wide, [Attr('', 'num_heads')])
    assert topology(counted) != topology(Group('x', 'head', 4, wide))


def test_only_isomorphic_groups_compete():
    """The residual Group is unimportant as a whole: globally it pays for all, isomorphically for itself."""
    groups = [conv_group('a', 4), conv_group('b', 4), conv_group('stream', 8, readers=3)]
    scores = {
        'a': np.array([1.0, 1, 1, 1]),
        'b': np.array([0.1, 0.1, 1.9, 1.9]),
        'stream': np.array([0.01, 0.01, 0.01, 0.01, 1.99, 1.99, 1.99, 1.99]),
    }
    counts = {name: len(kept) for name, kept in Global()(groups, scores, 0.25).items()}
    assert counts == {'a': 4, 'b': 4, 'stream': 4}
    kept = Isomorphic()(groups, scores, 0.25)
    assert kept == {'a': [0, 1, 2, 3], 'b': [2, 3], 'stream': [0, 1, 4, 5, 6, 7]}
    assert list(kept) == ['a', 'b', 'stream']


def test_resnet_blocks_are_isomorphic_across_widths():
    def block(width):
        return nn.Sequential(
            nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 1), nn.BatchNorm2d(3)
        )

    model = nn.Sequential(block(4), block(16))
    groups = {g.name: g for g in find_groups(model, torch.randn(1, 3, 4, 4))}
    assert topology(groups['0.0.channels']) == topology(groups['1.0.channels'])
    assert topology(groups['0.0.channels']) != topology(groups['1.3.channels'])


@pytest.mark.parametrize('allocation', ['global', 'isomorphic'])
def test_no_group_is_emptied(allocation):
    groups = [Group('a', 'neuron', 10, []), Group('b', 'neuron', 10, [])]
    scores = {'a': np.ones(10), 'b': np.array([1.0, *[1e-9] * 9])}  # b: one unit of 10 means, the rest nothing
    scores['b'][3] = 2e-9
    kept = ALLOCATIONS.build({'type': allocation, 'max_ratio': 0.8})(groups, scores, 0.5)
    assert kept['b'] == [0, 3] and len(kept['a']) == 8  # what b may not lose, a does
    everything = ALLOCATIONS.build({'type': allocation})(groups, scores, 0.999)
    assert [len(units) for units in everything.values()] == [1, 1]
    guarded = [Group('a', 'neuron', 10, []), Group('b', 'neuron', 10, [], min_units=6)]
    assert len(ALLOCATIONS.build({'type': allocation})(guarded, scores, 0.5)['b']) == 6


@pytest.mark.parametrize('max_ratio', [0, 1, -0.5, 2, True, '0.9', None, float('nan')])
def test_max_ratio_is_checked(max_ratio):
    with pytest.raises(ValueError, match='max_ratio is'):
        StructuredPruner(0.5, allocation={'type': 'global', 'max_ratio': max_ratio})


@pytest.mark.parametrize('allocation', ['uniform', 'global', 'isomorphic'])
@pytest.mark.parametrize('round_to', [1, 8])
def test_a_larger_ratio_never_keeps_more(allocation, round_to):
    """What the search for a target stands on."""
    rng = np.random.default_rng(0)
    groups = [conv_group(f'g{number}', int(width)) for number, width in enumerate(rng.integers(3, 40, 6))]
    groups.append(Group('heads', 'head', 8, []))
    scores = {group.name: rng.random(group.num_units) for group in groups}
    allocate = ALLOCATIONS.build({'type': allocation})
    before = None
    for ratio in np.linspace(0, 0.999, 101):
        kept = {name: set(units) for name, units in allocate(groups, scores, float(ratio), round_to).items()}
        assert before is None or all(kept[name] <= before[name] for name in kept)
        before = kept
