"""Which weights may be pruned, and how many are left."""

import pytest
import torch
from torch import nn

from vadslim.sparse import (
    VIT_LAYERS,
    SparseError,
    dense_masks,
    densities,
    density,
    largest,
    masked,
    prunable_weights,
    remain_weight,
    row_sums,
)


class Net(nn.Module):
    """A stem, a block with a convolution that is called as the stem is, and a classifier."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.block = nn.ModuleDict({'conv1': nn.Conv2d(4, 4, 3), 'down': nn.Conv2d(4, 8, 1)})
        self.fc = nn.Linear(8, 2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.mlp = nn.ModuleDict({'fc1': nn.Linear(4, 8), 'fc2': nn.Linear(8, 4)})


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed, self.head = nn.Conv2d(3, 4, 2), nn.Linear(4, 2)
        self.blocks = nn.ModuleList([Block(), Block()])


def test_convolutions_but_the_stem():
    net = Net()
    weights = prunable_weights(net)
    assert list(weights) == ['block.conv1.weight', 'block.down.weight']
    assert weights['block.down.weight'] is net.block.down.weight
    assert list(prunable_weights(net, exclude=()))[0] == 'conv1.weight'
    assert list(prunable_weights(net, (nn.Conv2d, nn.Linear), exclude=['conv1', 'block.*'])) == ['fc.weight']


def test_layers_of_a_vit():
    names = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2']
    weights = prunable_weights(ViT(), (nn.Linear,), VIT_LAYERS, ())
    assert list(weights) == [f'blocks.{block}.{name}.weight' for block in (0, 1) for name in names]
    assert all(isinstance(weight, nn.Parameter) for weight in weights.values())


@pytest.mark.parametrize('where', ['include', 'exclude'])
def test_a_pattern_that_matches_nothing(where):
    with pytest.raises(SparseError, match=r"'block.dwn' matches none of 3 prunable layers; the nearest is block.down"):
        prunable_weights(Net(), **{where: ['block.dwn']})


def test_frozen_and_computed_weights_are_not_prunable():
    net = Net()
    net.block.down.weight.requires_grad_(False)
    nn.utils.parametrizations.weight_norm(net.block.conv1)
    assert prunable_weights(net) == {}
    assert (density({}), remain_weight({}), densities({})) == (1.0, 100.0, {})


def test_a_shared_weight_comes_once_under_its_first_name():
    net = nn.ModuleDict({'embed': nn.Embedding(5, 4), 'a': nn.Linear(4, 5), 'b': nn.Linear(4, 5)})
    net.a.weight = net.b.weight = net.embed.weight
    assert list(prunable_weights(net, (nn.Linear,))) == ['embed.weight']
    assert list(prunable_weights(net, (nn.Linear,), exclude=['b'])) == []
    net = nn.ModuleDict({'a': nn.Conv2d(1, 2, 1)})
    net['again'] = net.a
    assert list(prunable_weights(net)) == ['a.weight']


def test_densities():
    masks = {'a': torch.tensor([[True, False], [True, True]]), 'b': torch.zeros(2, 3, dtype=torch.bool)}
    assert density(masks) == 0.3
    assert remain_weight(masks) == pytest.approx(30)
    assert densities(masks | {'c': torch.ones(0, 3, dtype=torch.bool)}) == {'a': 0.75, 'b': 0.0, 'c': 1.0}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_masked_copies(dtype):
    weight = torch.tensor([[1.0, -2.0], [float('nan'), 3.0]], dtype=dtype, requires_grad=True)
    mask = {'w': torch.tensor([[True, True], [False, True]])}
    out = masked({'w': weight}, mask)['w']
    assert torch.equal(out, torch.tensor([[1.0, -2], [0, 3]], dtype=dtype))
    assert not out.requires_grad and out.data_ptr() != weight.data_ptr()
    whole = masked({'w': weight}, dense_masks({'w': weight}))['w']
    assert whole.data_ptr() != weight.data_ptr()
    assert row_sums({'w': weight}, mask)['w'].tolist() == [3, 3]


def test_row_sums_do_not_overflow_in_half_precision():
    weight = torch.full((2, 3, 1, 1), 6e4, dtype=torch.float16)
    assert row_sums({'w': weight}, dense_masks({'w': weight}))['w'].tolist() == [180000, 180000]


def test_largest_prefers_the_first_of_equal_ones():
    scores = torch.tensor([1.0, 3, 1, 2, 1])
    expected = {0: [], 1: [1], 2: [1, 3], 3: [0, 1, 3], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 4]}
    assert {count: largest(scores, count).nonzero().flatten().tolist() for count in expected} == expected
    assert largest(scores, -1).sum() == 0 and largest(scores, 9).sum() == 5
    assert largest(torch.zeros(0), 1).shape == (0,)
    assert largest(torch.tensor([torch.inf, 1, torch.inf]), 1).tolist() == [True, False, False]


def test_masks_that_do_not_fit():
    weights = {'a': torch.zeros(2, 2)}
    with pytest.raises(SparseError, match='only one of them has b'):
        masked(weights, {'a': torch.ones(2, 2).bool(), 'b': torch.ones(1).bool()})
    with pytest.raises(SparseError, match=r'torch.float32; masks are of torch.bool'):
        masked(weights, {'a': torch.ones(2, 2)})
    with pytest.raises(SparseError, match=r'the mask of a is \(2,\), the weight \(2, 2\)'):
        masked(weights, {'a': torch.ones(2).bool()})
