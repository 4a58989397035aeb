"""Criteria from gradients: against the loss that is really lost, exact Hessians, and sums written out."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.pruning import (
    Fisher,
    Group,
    Hessian,
    PatternError,
    PlanningTaylor,
    Slice,
    StructuredPruner,
    Taylor,
    blocks,
    find_groups,
    mask,
)
from vadslim.registry import IMPORTANCES

CRITERIA = (Taylor, Fisher, Hessian)


def linear_loss(inputs, targets):
    """A batch whose loss is a linear function of the network's outputs."""
    return lambda model: {'loss': (model(inputs) * targets).sum()}


def change(model, groups, name, unit, batch):
    """By how much a batch's loss changes when a unit is gone."""
    group = next(group for group in groups if group.name == name)
    kept = {name: [other for other in range(group.num_units) if other != unit]}
    with torch.no_grad():
        after, before = (batch(network)['loss'].item() for network in (mask(model, groups, kept), model))
    return after - before


def perceptron():
    return nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)), torch.randn(4, 3), '0.neurons'


def convolutions():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 3, 3))
    model(torch.randn(8, 2, 7, 7) + 1)  # statistics that are not 0 and 1
    return model, torch.randn(2, 2, 7, 7), '0.channels'


def attention():
    model = nn.TransformerEncoderLayer(8, 4, 12, activation='gelu', batch_first=True, norm_first=True)
    model.linear2.weight.data.zero_()  # or what the FFN makes of the heads is not linear
    return model, torch.randn(2, 3, 8), 'self_attn.heads'


@pytest.mark.parametrize('case', [perceptron, convolutions, attention])
def test_taylor_is_the_change_of_a_loss_that_is_linear(case):
    """Whatever nonlinear stands inside a unit: the weights of its readers tell what it is worth."""
    torch.manual_seed(0)
    model, inputs, name = case()
    model = model.double().eval()
    groups = find_groups(model, inputs.double())
    target = next(group for group in groups if group.name == name)
    batches = [linear_loss(inputs.double(), torch.randn_like(model(inputs.double()))) for _ in range(2)]
    changes = [[change(model, groups, name, unit, batch) for unit in range(target.num_units)] for batch in batches]
    expected = np.sqrt(np.mean(np.square(changes), 0))
    assert expected.min() > 1e-4
    np.testing.assert_allclose(Taylor()(model, groups, batches)[name], expected, rtol=1e-9)


def test_taylor_does_not_count_a_unit_at_both_ends():
    """Without a nonlinearity both ends say the same; with one the makers are wrong, and so is the sum of the ends."""
    torch.manual_seed(0)
    model, inputs, name = convolutions()
    model.eval()
    groups = find_groups(model, inputs)
    batch = linear_loss(inputs, torch.randn_like(model(inputs)))
    changes = np.abs([change(model, groups, name, unit, batch) for unit in range(6)])
    batch(model)['loss'].backward()
    products = {key: (p * p.grad).flatten(1).sum(1) for key, p in model.named_parameters() if p.dim() > 1}
    makers = products['0.weight'].abs().tolist()
    assert (np.abs(makers - changes) / changes).max() > 0.1


def softmax_of_points():
    """Three points per sample share a softmax; the second layer's logits are theirs."""

    class Points(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits, self.values = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return (self.logits(x).softmax(-1) * self.values(x).detach()).sum(-1, keepdim=True)

    slices = [
        Slice('logits.weight', 0, blocks(3)),
        Slice('logits.bias', 0, blocks(3), mask_value=-np.inf),
    ]
    return Points().double(), [Group('points', 'point', 3, slices)]


def test_taylor_of_points_that_a_softmax_forgets():
    """To remove a point with attention a changes the output by (output - value) a / (1 - a): dL/dlogit / (1 - a)."""
    torch.manual_seed(0)
    model, groups = softmax_of_points()
    inputs = torch.randn(1, 4).double()
    batch = linear_loss(inputs, torch.ones(1, 1).double())
    scores = Taylor()(model, groups, [batch])['points']
    attention = model.logits(inputs).softmax(-1)[0].tolist()
    changes = [change(model, groups, 'points', unit, batch) for unit in range(3)]
    np.testing.assert_allclose(scores / (1 - np.array(attention)), np.abs(changes), rtol=1e-9)


def plain_weights(*values):
    """A module with a vector of weights, and every weight a unit."""
    model = nn.Module()
    model.weights = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    return model, [Group('g', 'x', len(values), [Slice('weights', 0, blocks(len(values)))])]


def test_hessian_of_a_quadratic():
    """One probe is exact for a diagonal Hessian, and more of them come near one that is not."""
    model, groups = plain_weights(1.0, -2.0, 0.5, 3.0)
    diagonal = torch.tensor([4.0, 1.0, 0.0, 2.0]).double()
    batch = lambda model: (diagonal * model.weights**2).sum() / 2 + model.weights.sum()  # noqa: E731
    scores = Hessian(probes=1)(model, groups, [batch])['g']
    np.testing.assert_allclose(scores, [0.5 * 4 * 1, 0.5 * 1 * 4, 0, 0.5 * 2 * 9], rtol=1e-9, atol=1e-12)

    torch.manual_seed(0)
    root = torch.randn(4, 4).double()
    full = root @ root.T + 3 * torch.eye(4)
    batch = lambda model: model.weights @ full @ model.weights / 2  # noqa: E731
    expected = (full.diagonal() * model.weights.detach() ** 2 / 2).numpy()
    error = [np.abs(Hessian(probes=n)(model, groups, [batch])['g'] / expected - 1).max() for n in (2, 80)]
    assert error[1] < 0.2 < error[0]
    one, same, other = (Hessian(seed=seed)(model, groups, [batch])['g'] for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_hessian_of_a_network():
    """Squared error of a linear layer: blocks of the inputs' second moments, by autograd."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    batch = lambda model: {'loss': (model(inputs) - targets) ** 2}  # noqa: E731
    groups = find_groups(model, inputs)[:1]

    def loss(weight):
        return ((nn.functional.linear(model[0](inputs), weight, model[1].bias) - targets) ** 2).mean()

    weight = model[1].weight.detach()
    hessian = torch.autograd.functional.hessian(loss, weight).reshape(8, 8)
    expected = (hessian.diagonal().view(2, 4) * weight**2 / 2).sum(0)
    np.testing.assert_allclose(Hessian(probes=80)(model, groups, [batch])['0.neurons'], expected, rtol=0.2)


def test_fisher_is_the_mean_of_squared_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    inputs = torch.randn(5, 3).double()
    batches = [lambda model, row=row: model(row[None]).square() for row in inputs]
    groups = find_groups(model, inputs)[:1]
    expected = torch.zeros(4)
    for batch in batches:
        (gradient,) = torch.autograd.grad(batch(model).sum(), model[2].weight)
        expected = expected + gradient[0] ** 2 * model[2].weight[0] ** 2 / 2 / len(batches)
    np.testing.assert_allclose(Fisher()(model, groups, batches)['0.neurons'], expected.detach(), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize('criterion', CRITERIA)
def test_tied_weights_get_both_gradients(criterion):
    """A matrix that is used twice: as in one network with the sum of both losses."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    model = nn.ModuleList([first, second]).double()
    group = Group('g', 'x', 3, [Slice('0.weight', 0, blocks(3)), Slice('0.weight', 1, [[0], [2], []])])
    inputs = torch.randn(4, 3).double()
    scores = criterion()(model, [group], [lambda model: model[1](model[0](inputs)).square()])['g']
    other = nn.ModuleList([copy.deepcopy(first)])
    expected = criterion()(other, [group], [lambda model: model[0](model[0](inputs)).square()])['g']
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert scores[0] > 1e-9 > scores[2]  # the last unit is read nowhere


def test_groups_that_overlap_are_scored_as_if_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    one = Group('one', 'x', 4, [Slice('0.weight', 0, blocks(4)), Slice('1.weight', 1, blocks(4))])
    two = Group('two', 'x', 2, [Slice('1.weight', 1, blocks(2, 2)), Slice('1.weight', 0, blocks(2, 2))])
    batches = [linear_loss(torch.randn(3, 4).double(), torch.randn(3, 4).double())]
    for criterion in (Taylor(), Fisher(), Hessian()):
        together = criterion(model, [one, two], batches)
        for group in (one, two):
            np.testing.assert_allclose(criterion(model, [group], batches)[group.name], together[group.name], rtol=1e-6)
    together = Taylor()(model, [one, two], batches)
    gradient = torch.autograd.grad(batches[0](model)['loss'], model[1].weight)[0]
    both = (gradient * model[1].weight).sum(0).view(2, 2).sum(1).abs()
    np.testing.assert_allclose(together['two'], both.detach(), rtol=1e-12)


@pytest.mark.parametrize('criterion', CRITERIA)
def test_the_model_is_left_alone(criterion):
    """Frozen weights, a batch norm and dropout in training mode, random numbers drawn in a batch."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    model[3].requires_grad_(False)
    model[0].weight.grad = torch.ones(4, 3)
    groups = find_groups(model, torch.randn(5, 3), allow_frozen=True)[:1]
    before = copy.deepcopy(model.state_dict())
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()

    def batch(network):
        noise = random.random() + np.random.rand() + torch.rand(())
        return network(torch.ones(5, 3) + noise).square()

    scores = criterion()(model, groups, [batch, batch])[groups[0].name]
    assert np.array_equal(scores, criterion()(model, groups, [batch, batch])[groups[0].name])
    assert (scores > 0).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(4, 3))
    assert all(p.grad is None for name, p in model.named_parameters() if name != '0.weight')
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] * 2
    assert all(module.training for module in model.modules())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def two_losses():
    """Units 0 and 1 serve the plan, 2 and 3 the rest; unit 0 more than 1."""
    model, groups = plain_weights(2.0, 1.0, 5.0, 4.0)

    def batch(model):
        plan, rest = model.weights[:2].sum(), model.weights[2:].sum()
        return {'loss_plan_reg': [plan, plan], 'd0.loss_cls': rest, 'accuracy': rest * 100}

    return model, groups, [batch]


def test_losses_are_chosen_by_name():
    model, groups, batches = two_losses()
    np.testing.assert_allclose(Taylor()(model, groups, batches)['g'], [4, 2, 5, 4])
    np.testing.assert_allclose(Taylor('d0.*')(model, groups, batches)['g'], [0, 0, 5, 4], atol=1e-20)
    np.testing.assert_allclose(Taylor(['d0.*', 'acc*', '*.loss_cls'])(model, groups, batches)['g'][2:], [505, 404])
    for message, losses in (("'loss_pan' matches no loss; the nearest is loss_plan_reg", 'loss_pan'),):
        with pytest.raises(PatternError, match=message):
            Taylor(losses)(model, groups, batches)
    with pytest.raises(PatternError, match='return a tensor without one'):
        Taylor('loss')(model, groups, [lambda model: model.weights])
    with pytest.raises(ValueError, match='no losses, but accuracy'):
        Taylor()(model, groups, [lambda model: {'accuracy': model.weights}])


def test_planning_taylor_orders_what_the_plan_does_not_need_by_size():
    model, groups, batches = two_losses()
    scores = PlanningTaylor()(model, groups, batches)['g']
    np.testing.assert_allclose(scores, [4, 2, 0, 0], atol=1e-20)
    assert np.argsort(scores).tolist() == [3, 2, 1, 0]  # 4 is smaller than 5
    pruner = StructuredPruner(0.25, importance={'type': 'vadslim.PlanningTaylor'})
    assert pruner.plan(model, groups, batches) == {'g': [0, 1, 2]}


@pytest.mark.parametrize('name', ['Taylor', 'Fisher', 'Hessian', 'PlanningTaylor', 'Activation'])
def test_without_batches(name):
    model, groups, _ = two_losses()
    criterion = IMPORTANCES.build({'type': f'vadslim.{name}'})
    assert criterion.needs_batches
    with pytest.raises(ValueError, match=f'importance {name} looks at data: give batches'):
        criterion(model, groups)
    with pytest.raises(ValueError, match=f'importance {name}: there are no batches'):
        criterion(model, groups, [])


def test_a_loss_that_is_not_finite_is_an_error():
    model, groups, _ = two_losses()
    with pytest.raises(ValueError, match='the loss of batch 1 is nan'):
        Fisher()(model, groups, [lambda model: model.weights, lambda model: model.weights * float('nan')])


@pytest.mark.parametrize(('options', 'message'), [({'probes': 0}, 'probes is 0'), ({'step': 0}, 'step is 0')])
def test_options_of_hessian(options, message):
    with pytest.raises(ValueError, match=message):
        Hessian(**options)


def test_protected_groups_are_not_scored():
    model, groups, batches = two_losses()
    protected = Group('p', 'x', 4, groups[0].slices, protected='because')
    assert list(Taylor()(model, [protected, *groups], batches)) == ['g']
