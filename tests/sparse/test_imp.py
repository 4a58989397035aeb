"""Iterative magnitude pruning: counts, ties, floors, scopes, rates."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from vadslim.sparse import SparseError, dense_masks, imp, layer_rates, progressive_rate, remain_weight

A = torch.tensor([[0.1, -0.5], [0.3, -0.2]])
B = torch.tensor([[4.0, -1.0, 0.4]])


def pruned(weights, rate, **options):
    return {name: mask.int().tolist() for name, mask in imp(weights, dense_masks(weights), rate, **options).items()}


def test_global_is_one_threshold():
    """3 of 7 go: 0.1, 0.2, 0.3."""
    assert pruned({'a': A, 'b': B}, 3 / 7) == {'a': [[0, 1], [0, 0]], 'b': [[1, 1, 1]]}


def test_layer_wise_rounds_within_each_layer():
    """Half of 4 and, since round(1.5) is 2, of 3."""
    assert pruned({'a': A, 'b': B}, 0.5, scope='layer-wise') == {'a': [[0, 1], [1, 0]], 'b': [[1, 0, 0]]}
    rates = {'a': 0.25, 'b': 0.0}
    assert pruned({'a': A, 'b': B}, rates, scope='layer-wise') == {'a': [[0, 1], [1, 1]], 'b': [[1, 1, 1]]}


def test_filter_wise_takes_whole_filters_of_those_left():
    weight = torch.tensor([1.0, 5, 2, 4, 3])[:, None, None, None] * torch.ones(5, 2, 1, 1)
    masks = {'w': torch.ones(5, 2, 1, 1, dtype=torch.bool)}
    masks['w'][1] = False  # its weights are large, but gone
    masks['w'][3, 0] = False  # 4 is left of 8
    first = imp({'w': weight}, masks, 0.5, 'filter-wise')['w']
    # norms 2, -, 4, 4, 6: floor(0.5 * 4) go, filter 0 and, of the equal 2 and 3, the later one
    assert first.flatten(1).int().tolist() == [[0, 0], [0, 0], [1, 1], [0, 0], [1, 1]]
    assert imp({'w': weight}, {'w': first}, 0.4, 'filter-wise')['w'].equal(first)  # floor(0.8) is none
    assert imp({'w': weight}, {'w': first}, 1.0, 'filter-wise')['w'].flatten(1).any(1).tolist() == [0, 0, 0, 0, 1]
    assert not imp({'w': weight}, {'w': first}, 1.0, 'filter-wise', floor=0)['w'].any()


def test_filters_are_counted_as_written():
    """0.29 * 100 is 28.999999999999996."""
    weight = {'w': torch.arange(100.0)[:, None] + 1}
    assert imp(weight, dense_masks(weight), 0.29, 'filter-wise')['w'].sum() == 71


def test_same_masks_as_torch_prune():
    """Three rounds of torch's own global pruning: an independent implementation of the same rule."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 1)]
    weights = {str(i): conv.weight.detach().clone() for i, conv in enumerate(convs)}
    masks = dense_masks(weights)
    for _ in range(3):
        masks = imp(weights, masks, 0.2, floor=0)
        prune.global_unstructured([(conv, 'weight') for conv in convs], prune.L1Unstructured, amount=0.2)
        assert all(torch.equal(masks[str(i)], conv.weight_mask.bool()) for i, conv in enumerate(convs))


def test_remaining_weights_over_twenty_levels():
    """(1 - rate)^k of the 267,264 weights of a CIFAR ResNet-20's convolutions."""
    weights = {'w': torch.randperm(267264).float()}
    masks = dense_masks(weights)
    remaining = []
    for _ in range(20):
        masks = imp(weights, masks, 0.2)
        remaining.append(round(remain_weight(masks), 2))
    assert remaining[:8] == [80.0, 64.0, 51.2, 40.96, 32.77, 26.21, 20.97, 16.78]
    assert remaining[-1] == 1.15


def test_pruned_stays_pruned_and_ties_are_settled():
    weights = {'a': torch.ones(4), 'b': torch.ones(4)}
    masks = imp(weights, dense_masks(weights), 0.25)
    assert [mask.int().tolist() for mask in masks.values()] == [[1, 1, 1, 1], [1, 1, 0, 0]]
    weights['b'][2:] = 9  # what was pruned does not count, however large it is
    masks = imp(weights, masks, 0.5)
    assert [mask.int().tolist() for mask in masks.values()] == [[1, 1, 0, 0], [1, 0, 0, 0]]  # one stays in b


@pytest.mark.parametrize('scope', ['global', 'layer-wise', 'filter-wise'])
def test_floors_and_empty_layers(scope):
    weights = {
        'small': torch.full((4, 1), 1e-3),
        'none': torch.zeros(0, 3),
        'flat': torch.zeros(2, 0),
        'w': torch.ones(6, 1),
    }
    masks = dense_masks(weights) | {'gone': torch.zeros(3, 1, dtype=torch.bool)}
    weights['gone'] = torch.ones(3, 1)
    left = imp(weights, masks, 1.0, scope, floor=2)
    assert {name: int(mask.sum()) for name, mask in left.items()} == {
        'small': 2,
        'none': 0,
        'flat': 0,
        'w': 2,
        'gone': 0,
    }
    assert {name: mask.shape for name, mask in left.items()} == {name: w.shape for name, w in weights.items()}
    assert not any(mask.any() for mask in imp(weights, masks, 1.0, scope, floor=0).values())
    same = imp(weights, masks, 0.0, scope)
    assert all(torch.equal(same[name], masks[name]) for name in masks)
    assert not any(same[name].data_ptr() == masks[name].data_ptr() for name in masks if masks[name].numel())
    assert imp({}, {}, 0.5, scope) == {}


def test_a_floor_is_paid_for_by_other_layers():
    """6 of 10 leave whatever happens; without the floor all of 'a' would go."""
    weights = {'a': torch.arange(1, 5) / 100, 'b': torch.arange(1.0, 7)}
    assert pruned(weights, 0.6, floor=0) == {'a': [0, 0, 0, 0], 'b': [0, 0, 1, 1, 1, 1]}
    assert pruned(weights, 0.6, floor=2) == {'a': [0, 0, 1, 1], 'b': [0, 0, 0, 0, 1, 1]}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_layouts(dtype):
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 3, 3).to(dtype)
    expected = imp({'w': weight.double()}, {'w': weight == weight}, 0.3)['w']
    strided = weight.to(memory_format=torch.channels_last)
    for layout in (weight, strided):
        mask = imp({'w': layout, 'x': torch.full((2,), 9.0)}, dense_masks({'w': layout, 'x': torch.ones(2)}), 65 / 218)
        assert torch.equal(mask['w'], expected)  # 65 of 216 + 2, all of them from 'w'


def test_arguments_are_left_alone():
    weights, masks = {'a': A.clone()}, {'a': torch.ones(2, 2, dtype=torch.bool)}
    for scope in ('global', 'layer-wise', 'filter-wise'):
        imp(weights, masks, 0.5, scope)
    assert masks['a'].all() and torch.equal(weights['a'], A)


def test_settings_that_cannot_be():
    for rate in (-0.1, 1.1, float('nan')):
        with pytest.raises(SparseError, match='it is a fraction from 0 to 1'):
            pruned({'a': A}, rate)
    with pytest.raises(SparseError, match="scope 'layer' is not known; there are global, layer-wise, filter-wise"):
        pruned({'a': A}, 0.1, scope='layer')
    with pytest.raises(SparseError, match='a global threshold has one rate'):
        pruned({'a': A}, {'a': 0.1})
    with pytest.raises(SparseError, match='there is no rate for b'):
        pruned({'a': A, 'b': B}, {'a': 0.1}, scope='layer-wise')
    with pytest.raises(SparseError, match='floor is -1'):
        pruned({'a': A}, 0.1, floor=-1)
    with pytest.raises(SparseError, match='a holds weights that are not finite'):
        pruned({'a': A / 0}, 0.1)


def test_rates():
    assert [progressive_rate(0.5, level) for level in (0, 4, 5, 9, 10, 14, 15, 40)] == [
        0.5,
        0.5,
        0.4,
        0.4,
        0.3,
        0.3,
        0.2,
        0.2,
    ]
    names = ['layer1.0.weight', 'layer2.0.weight', 'layer3.0.weight']
    rates = layer_rates(names, 0.2, {'layer1.*': 0.5, 'layer3.*': 1.5, 'layer*': 1})
    assert rates == pytest.approx(dict(zip(names, [0.1, 0.2, 0.3])))
    assert layer_rates(names, 0.2, {}) == dict.fromkeys(names, 0.2)
    with pytest.raises(SparseError, match="'layer4' matches none of 3 weights; the nearest is layer"):
        layer_rates(names, 0.2, {'layer4': 1})
    with pytest.raises(SparseError, match=r'the rate of layer3.0.weight is 1.2'):
        layer_rates(names, 0.8, {'layer3.*': 1.5})
