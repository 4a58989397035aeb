"""Moments go through slimming; what does not fit is dropped and said."""

import copy

import pytest
import torch
from torch import nn

from vadslim.pruning import find_groups, make_structure, optimizer_param_names, resize, slice_optimizer_state

X = torch.randn(16, 4)


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    return model, make_structure(model, find_groups(model, X), {'0.neurons': [0, 3, 6]})


def step(model, optimizer):
    optimizer.zero_grad()
    model(X).square().sum().backward()
    optimizer.step()


def build(model, make):
    """Two parameter groups, in another order than the model's, one parameter left out."""
    first = [model[2].weight, model[0].weight, model[1].weight]
    return make([{'params': first}, {'params': [model[0].bias, model[1].bias], 'lr': 0.02}])


OPTIMIZERS = {
    'sgd': lambda params: torch.optim.SGD(params, 0.01, momentum=0.9),
    'sgd without momentum': lambda params: torch.optim.SGD(params, 0.01),
    'adam': lambda params: torch.optim.Adam(params, 0.01, amsgrad=True),
    'adamw': lambda params: torch.optim.AdamW(params, 0.01, foreach=True),
    'adagrad': lambda params: torch.optim.Adagrad(params, 0.01),
}


@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_moments_are_the_kept_slices(make):
    model, structure = net()
    optimizer = build(model, make)
    for _ in range(3):
        step(model, optimizer)
    names = optimizer_param_names(model, optimizer)
    assert names == {0: '2.weight', 1: '0.weight', 2: '1.weight', 3: '0.bias', 4: '1.bias'}
    dense = copy.deepcopy(optimizer.state_dict())
    state, report = slice_optimizer_state(dense, names, structure)
    assert report == []
    assert state['param_groups'] == dense['param_groups']

    slim = resize(model, structure)
    new = build(slim, make)
    new.load_state_dict(state)
    kept = {'2.weight': (slice(None), [0, 3, 6])}
    for number, moments in dense['state'].items():
        for key, value in moments.items():
            after = state['state'][number][key]
            if isinstance(value, torch.Tensor) and value.dim() > 0:
                assert torch.equal(after, value[kept.get(names[number], [0, 3, 6])])
            else:
                assert after == value
                assert after is not value or not isinstance(value, torch.Tensor)
    step(slim, new)
    assert all(p.isfinite().all() for p in slim.parameters())


def test_a_slimmed_run_goes_on_as_if_the_rest_had_never_been():
    """With no gradient to the removed neurons' side, slim steps equal the dense ones at the kept positions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        model[0].weight[[1, 2]], model[0].bias[[1, 2]], model[2].weight[:, [1, 2]] = 0, 0, 0
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x = X.double()

    def go(net, opt):
        opt.zero_grad()
        net(x).square().sum().backward()
        opt.step()

    for _ in range(2):
        go(model, optimizer)
    kept = [0, 3, 4, 5, 6, 7]
    structure = make_structure(model, find_groups(model, x), {'0.neurons': kept})
    slim = resize(model, structure)
    new = torch.optim.Adam(slim.parameters(), 0.01)
    state, _ = slice_optimizer_state(optimizer.state_dict(), optimizer_param_names(model, optimizer), structure)
    new.load_state_dict(state)
    for _ in range(3):
        go(model, optimizer)
        go(slim, new)
    torch.testing.assert_close(slim[0].weight, model[0].weight[kept], rtol=1e-9, atol=0)
    torch.testing.assert_close(slim[2].weight, model[2].weight[:, kept], rtol=1e-9, atol=0)


def test_what_does_not_fit_is_dropped_and_said():
    model, structure = net()
    names = {0: '0.weight', 1: '2.bias'}
    moments = {'step': torch.tensor(3.0), 'exp_avg': torch.zeros(5, 4)}
    other = {'momentum_buffer': torch.zeros(9)}
    state = {'state': {0: moments, 1: other, 7: {}}, 'param_groups': []}
    sliced, report = slice_optimizer_state(state, names, structure)
    assert list(sliced['state']) == [1]
    assert torch.equal(sliced['state'][1]['momentum_buffer'], other['momentum_buffer'])
    assert report == [
        'optimizer state of 0.weight dropped: exp_avg is (5, 4), the dense parameter (8, 4)',
        'optimizer state of parameter 7 dropped: its name is not known',
    ]
    sliced, report = slice_optimizer_state(state, names, structure, shapes={'2.bias': (2,)})
    assert sliced['state'] == {}
    assert report[1] == 'optimizer state of 2.bias dropped: momentum_buffer is (9,), the dense parameter (2,)'


def test_none_and_square_parameters():
    """A momentum buffer may be None; a (1,)-shaped moment of a (1,)-shaped parameter is passed on whole."""
    model, structure = net()
    state = {'state': {0: {'momentum_buffer': None}}, 'param_groups': []}
    assert slice_optimizer_state(state, ['0.weight'], structure)[0]['state'][0] == {'momentum_buffer': None}


def test_a_parameter_of_another_model_is_an_error():
    model, _ = net()
    optimizer = torch.optim.SGD(nn.Linear(2, 3).parameters(), 0.1)
    with pytest.raises(ValueError, match=r'parameter 0 of the optimizer, \(3, 2\), is not in the model'):
        optimizer_param_names(model, optimizer)
