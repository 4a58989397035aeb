"""Groups are tried before anybody relies on them: what a trace cannot see, the comparison finds."""

import pytest
import torch
from torch import nn

from vadslim.pruning import Group, ProofError, Slice, StructuredPruner, blocks, check_group, find_groups, wrong_groups
from vadslim.pruning.proof import max_error

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two hidden layers side by side; what happens to the first is ``body(y)``."""

    def __init__(self, body=torch.relu):
        super().__init__()
        self.body = body
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2)
        self.beside, self.after = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.two(self.body(self.one(x))) + self.after(self.beside(x).relu())


def scaled_in_float32(y):
    return (y.float() * torch.tensor(y.shape[1], dtype=torch.float32)).to(y.dtype)


WRONG = {
    'a width as divisor': lambda y: y / y.shape[1],
    'a width as scale': lambda y: y * y.size(-1) ** -0.5,
    'a width in a condition': lambda y: y if y.shape[1] > 6 else -y,
    'a width that the code states': lambda y: y.view(-1, 8),
    'a width, in float32': scaled_in_float32,
}


@pytest.mark.parametrize('body', WRONG.values(), ids=WRONG)
def test_numbers_made_of_a_width_protect_its_group_and_no_other(body):
    groups = {group.name: group.protected for group in find_groups(Net(body), X)}
    assert groups['one.neurons'].startswith('tried without half of its units: ')
    assert groups['beside.neurons'] == ''


def test_a_hook_is_part_of_what_is_computed():
    net = Net()
    net.one.register_forward_hook(lambda module, inputs, output: output / output.shape[1])
    assert 'slim and masked differ by' in find_groups(net, X)[0].protected


def test_networks_that_know_float32_only_are_tried_as_they_are():
    class Single(Net):
        def forward(self, x):
            return super().forward(x.float())

    with pytest.raises(RuntimeError, match='dtype'):
        Single().double()(X.double())
    assert [group.protected for group in find_groups(Single(), X)][:1] == ['']
    assert 'tried' in find_groups(Single(lambda y: y / y.shape[1]), X)[0].protected


def test_a_twin_that_does_not_run_protects():
    """Zeros where there were none: the slim network may be right, but nobody can tell."""

    def inverse(y):
        if (y == 0).all(0).any():
            raise ArithmeticError('a zero; no inverse')
        return y

    net = Net()
    net.one.register_forward_hook(lambda module, inputs, output: inverse(output))
    protected = find_groups(net, X)[0].protected
    assert protected == 'tried without half of its units: the masked twin does not run: a zero, no inverse'


def test_random_numbers_inside_are_the_same_for_both():
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + torch.rand(3, 1))

    state = torch.get_rng_state()
    assert find_groups(Noisy(), X)[0].protected == ''
    assert torch.get_default_dtype() == torch.float32
    noisy = Noisy()
    torch.set_rng_state(state)
    before = torch.get_rng_state()
    check_group(noisy, find_groups(noisy)[:0], {}, lambda net: net(X))
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_groups_are_named():
    net = Net()
    groups = find_groups(net, X)
    kept = StructuredPruner(0.5).plan(net, groups)
    assert wrong_groups(net, groups, kept, lambda model: model(X)) == {}
    parts = [part for part in groups[0].slices if part.tensor != 'one.bias']
    forgotten = Group('one.neurons', 'neuron', 8, parts)
    wrong = wrong_groups(net, [forgotten, *groups[1:]], kept, lambda model: model(X))
    assert list(wrong) == ['one.neurons']
    assert wrong['one.neurons'].startswith('the slim copy does not run: ')


def test_groups_that_are_wrong_only_together_are_all_named():
    """Each forgets a half of the column that the other names."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return (self.a.sum() - 4).abs().sign() * (self.b.sum() - 4).abs().sign() * len(self.a) + x.sum()

    groups = [Group(name, 'x', 4, [Slice(name, 0, blocks(4))]) for name in 'ab']
    kept = {'a': [0, 1], 'b': [2, 3]}
    assert list(wrong_groups(Sum(), groups, kept, lambda model: model(X))) == ['a', 'b']


@pytest.mark.parametrize(
    ('result', 'expected', 'error'),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.1], [1.0, 2.0], 0.05),
        ([1.0, float('nan')], [1.0, float('nan')], 0.0),
        ([1.0, float('nan')], [1.0, 2.0], float('inf')),
        ([1.0, 2.0], [1.0, float('nan')], float('inf')),
        ([1.0, float('inf')], [1.0, float('inf')], 0.0),
        ([1.0, 2.0], [1.0, float('-inf')], float('inf')),
        ([1.0], [1.0, 2.0], float('inf')),
        ([0.0], [0.0], 0.0),
        ([1e-3], [0.0], float('inf')),
    ],
)
def test_max_error(result, expected, error):
    found = max_error([torch.tensor(result).double()], [torch.tensor(expected).double()])
    assert found == pytest.approx(error) or found > 1e200 and error == float('inf')


def test_nothing_to_compare_is_no_proof():
    assert max_error([], []) == float('inf')
    with pytest.raises(ProofError, match='in shape or in what is not a number'):
        check_group(Net(), find_groups(Net(), X), {'one.neurons': [0]}, lambda model: None)
