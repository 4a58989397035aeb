"""Scores computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.pruning import L1, L2, BNScale, Group, Random, Slice, blocks, find_groups
from vadslim.registry import IMPORTANCES


def net():
    """Units of the hidden layer: rows (1, 2), (-3, 0), columns (1, 0), (2, -1); one scale each."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([100.0, 100.0]))
        model[1].weight.copy_(torch.tensor([-0.5, 0.25]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
    return model, find_groups(model, torch.randn(3, 2))[:1]


def test_norms_take_rows_and_columns_and_no_vectors():
    model, groups = net()
    assert L1()(model, groups)['0.neurons'].tolist() == [1 + 2 + 1 + 0, 3 + 0 + 2 + 1]
    np.testing.assert_allclose(L2()(model, groups)['0.neurons'], [6**0.5, 14**0.5])


def test_vectors_count_where_there_is_nothing_else():
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor([-2.0, 1.0, 0.5]))
    model.register_buffer('seen', torch.ones(3))
    group = Group('g', 'x', 3, [Slice('scale', 0, blocks(3)), Slice('seen', 0, blocks(3))])
    assert L1()(model, [group])['g'].tolist() == [2, 1, 0.5]


def test_blocks_and_kernels_are_summed():
    model = nn.Conv2d(1, 4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(16.0).view(4, 1, 2, 2))
    group = Group('g', 'x', 2, [Slice('weight', 0, [[0, 3], [1, 2]])])
    assert L1()(model, [group])['g'].tolist() == [6 + 54, 22 + 38]


def test_batch_norm_scale():
    model, groups = net()
    assert BNScale()(model, groups)['0.neurons'].tolist() == [0.5, 0.25]
    plain = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    groups = find_groups(plain, torch.randn(3, 2))[:1]
    assert np.array_equal(BNScale()(plain, groups)['0.neurons'], L2()(plain, groups)['0.neurons'])


def test_random_depends_on_seed_and_name_only():
    one, two = (Group(name, 'x', 5, []) for name in ('one', 'two'))
    model = nn.Identity()
    scores = Random(3)(model, [one, two])
    assert np.array_equal(scores['two'], Random(3)(model, [two])['two'])
    assert not np.array_equal(scores['one'], scores['two'])
    assert not np.array_equal(scores['one'], Random(4)(model, [one])['one'])


@pytest.mark.parametrize('name', ['L1', 'vadslim.L2', 'BNScale', 'Random'])
def test_registry(name):
    assert type(IMPORTANCES.build({'type': name})).__name__ == name.removeprefix('vadslim.')


def test_scoring_leaves_the_model_alone():
    model, groups = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for importance in (L1(), L2(), BNScale(), Random()):
        importance(model, groups)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
