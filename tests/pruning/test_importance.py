"""Scores computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.pruning import FPGM, L1, L2, LAMP, BNScale, Group, Random, Slice, blocks, find_groups
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


def test_coupled_batch_norms_are_averaged():
    """Two channels per unit, and two norms."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -2.0, 3.0, 4.0]))
        model[1].weight.copy_(torch.tensor([0.0, 1.0, -1.0, 0.0]))
    group = Group('g', 'x', 2, [Slice(f'{number}.weight', 0, [[0, 1], [2, 3]]) for number in (0, 1)])
    assert BNScale()(model, [group])['g'].tolist() == [(1 + 2 + 0 + 1) / 4, (3 + 4 + 1 + 0) / 4]


def test_lamp_is_the_formula_of_the_paper():
    """On a vector, units are weights: their squares, each by the sum of those from its rank on."""
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor([3.0, -1.0, 2.0, 0.5]))
    group = Group('g', 'x', 4, [Slice('scale', 0, blocks(4))])
    expected = [9 / 9, 1 / (1 + 4 + 9), 4 / (4 + 9), 0.25 / (0.25 + 1 + 4 + 9)]
    np.testing.assert_allclose(LAMP()(model, [group])['g'], expected, rtol=1e-12)


def test_lamp_of_units_of_equal_size_and_of_none():
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor([2.0, -2.0, 1.0, 0.0]))
    group = Group('g', 'x', 4, [Slice('scale', 0, blocks(4))])
    np.testing.assert_allclose(LAMP()(model, [group])['g'], [0.5, 0.5, 1 / 9, 0])
    with torch.no_grad():
        model.scale.zero_()
    assert LAMP()(model, [group])['g'].tolist() == [0, 0, 0, 0]


def test_lamp_sums_the_weights_of_a_unit():
    model, groups = net()
    np.testing.assert_allclose(LAMP()(model, groups)['0.neurons'], [6 / 20, 1])


def test_fpgm_is_the_distance_from_the_others():
    """Brute force over the rows of two coupled layers; who reads the units does not count."""
    torch.manual_seed(0)
    model = nn.ModuleDict({'a': nn.Linear(3, 5), 'b': nn.Conv2d(2, 5, 3), 'reader': nn.Linear(5, 2)})
    places = [('a.weight', 0), ('a.bias', 0), ('b.weight', 0), ('reader.weight', 1)]
    group = Group('g', 'x', 5, [Slice(tensor, dim, blocks(5)) for tensor, dim in places])
    rows = torch.cat([model['a'].weight, model['b'].weight.flatten(1)], 1).detach().double().numpy()
    expected = [sum(np.linalg.norm(row - other) for other in rows) for row in rows]
    np.testing.assert_allclose(FPGM()(model, [group])['g'], expected, rtol=1e-5)


def test_fpgm_finds_the_unit_that_others_replace():
    model = nn.Linear(2, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0, 5.0], [5.0, 6.0], [0.1, 0.1], [9.0, 1.0]]))
    group = Group('g', 'x', 4, [Slice('weight', 0, blocks(4))])
    assert FPGM()(model, [group])['g'].argmin() == 0  # near the geometric median
    assert L2()(model, [group])['g'].argmin() == 2  # the smallest


def test_fpgm_of_unequal_units_and_of_columns_alone():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0, 1.0, 0.0]]))
    group = Group('g', 'x', 3, [Slice('weight', 1, [[0, 1], [2], []])])  # (3, 4), (1, 0), (0, 0)
    one, two, three = 20**0.5, 5.0, 1.0
    np.testing.assert_allclose(FPGM()(model, [group])['g'], [one + two, one + three, two + three], rtol=1e-6)


@pytest.mark.parametrize('criterion', [L1, L2, LAMP, FPGM, BNScale, Random])
def test_protected_groups_and_empty_ones(criterion):
    model = nn.Linear(2, 2)
    protected = Group('a', 'x', 2, [Slice('weight', 0, blocks(2))], protected='because')
    empty = Group('b', 'x', 2, [Slice('weight', 0, [[], []])])
    scores = criterion()(model, [protected, empty])
    assert list(scores) == ['b']
    assert scores['b'].shape == (2,) and scores['b'].dtype == np.float64
    if criterion is not Random:
        assert scores['b'].tolist() == [0, 0]


@pytest.mark.parametrize('name', ['L1', 'vadslim.L2', 'BNScale', 'Random', 'LAMP', 'vadslim.FPGM'])
def test_registry(name):
    assert type(IMPORTANCES.build({'type': name})).__name__ == name.removeprefix('vadslim.')


def test_scoring_leaves_the_model_alone():
    model, groups = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for importance in (L1(), L2(), BNScale(), Random(), LAMP(), FPGM()):
        importance(model, groups)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
