"""Nothing that a trace cannot see is taken for free: constants, values without gradients, weights used twice."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vadslim.pruning import GroupError, check_group, find_groups


@dataclass
class Answer:
    features: Tensor


class Flip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.flip(-1)

    @staticmethod
    def backward(ctx, grad):
        return grad.flip(-1)


class Relu(Flip):
    """Not what its name says."""


class Standardised(nn.Linear):
    """Not what its base class is."""

    def forward(self, x):
        return functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Adapted(nn.Linear):
    """What its base class is, as long as the second adapter is zero."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(1, inputs)), nn.Parameter(torch.zeros(outputs, 1))

    def forward(self, x):
        return super().forward(x) + x @ self.down.t() @ self.up.t()


class Same(nn.Linear):
    """What its base class is, with a check."""

    def forward(self, x):
        if x.numel() == 0:
            raise ValueError('nothing to do')
        return super().forward(x)


class Turned(nn.LayerNorm):
    """Over the second dim of three, where its base class refuses what is given."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Net(nn.Module):
    """Two hidden layers of 6 and an output of 2; what happens between them is ``body(net, x)``."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.one, self.hidden, self.two = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.wide = nn.Linear(12, 2)
        self.table = nn.Embedding(3, 6)
        self.norm = nn.BatchNorm1d(5)
        self.standardised, self.adapted, self.same = Standardised(6, 2), Adapted(6, 2), Same(6, 2)
        self.recurrent = nn.GRU(6, 2, batch_first=True)
        self.root, self.turned = nn.RMSNorm(6), Turned(6)
        self.register_buffer('scale', torch.rand(1, 6))
        self.register_buffer('flags', torch.arange(6) % 2 == 0)

    def forward(self, x):
        return self.body(self, x)


def untracked(net, x):
    with torch.no_grad():
        seen = net.two(net.one(x))
    return net.two(net.hidden(net.one(x))), seen


def in_place(net, x):
    y = net.one(x)
    y += torch.ones(6, dtype=x.dtype)
    return net.two(y)


PROTECTED = {
    'a constant is added': lambda net, x: net.two(net.one(x) + torch.arange(6, dtype=x.dtype)),
    'a constant is added in place': in_place,
    'an exponent': lambda net, x: net.two(net.one(x).exp() ** torch.arange(6, dtype=x.dtype)),
    'a limit': lambda net, x: net.two(net.one(x).clamp(min=torch.arange(6, dtype=x.dtype))),
    'a weight between two': lambda net, x: net.two(torch.lerp(net.one(x), x.new_ones(6), torch.rand(6).to(x))),
    'a condition': lambda net, x: net.two(torch.where(net.flags, net.one(x), 0.0)),
    'a constant that follows the width': lambda net, x: (
        net.wide(torch.cat([net.one(x)] + [net.one(x) * 0 + 1], 1))
        + net.wide(torch.cat([net.one(x), torch.ones_like(net.one(x))], 1))
    ),
    'a comparison': lambda net, x: net.two(net.one(x) * (net.one(x) > 0).to(x)),
    'argmax': lambda net, x: (net.two(net.one(x)), net.one(x).argmax(1)),
    'a number read': lambda net, x: net.two(net.one(x)) * net.one(x).mean().item(),
    'detach into another layer': lambda net, x: net.two(net.one(x)) + net.wide(net.one(x).repeat(1, 2).detach()),
    'data into another layer': lambda net, x: net.two(net.one(x)) + net.wide(net.one(x).data.repeat(1, 2)),
    'another function of the name Relu': lambda net, x: net.two(Relu.apply(net.one(x))),
    'the weight again': lambda net, x: (net.two(net.one(x)), functional.linear(x, net.one.weight)),
    'the weight turned': lambda net, x: (net.two(net.one(x)), net.hidden(net.one(x)) @ net.one.weight),
    'the weight without gradient': lambda net, x: (net.two(net.one(x)), x @ net.one.weight.detach().t()),
    'the weight as output': lambda net, x: (net.two(net.one(x)), net.one.weight),
    'an output in an object': lambda net, x: (net.two(net.one(x)), Answer(net.one(x))),
    'a layer that is not its base class': lambda net, x: net.standardised(net.one(x)),
    'an adapter beside the weight': lambda net, x: net.adapted(net.one(x)),
    'a recurrent layer': lambda net, x: net.recurrent(net.one(x)[:, None])[0],
    'a norm by root mean square': lambda net, x: net.two(net.root(net.one(x))),
    'a norm that turns its input': lambda net, x: net.two(net.turned(net.one(x)[:, :, None].expand(-1, -1, 5)).mean(2)),
    'channels that change places': lambda net, x: net.two(net.one(x).roll(1, 1)),
    'a gate over half the weight': lambda net, x: net.two(net.one(x)) * net.one.weight[:2, 0],
    'einsum': lambda net, x: net.two(torch.einsum('bi,oi->bo', net.one(x), net.hidden.weight)),
    'a norm along another dim': lambda net, x: net.two(net.norm(net.one(x)[:, None].expand(-1, 5, -1))),
}


@pytest.mark.parametrize('body', PROTECTED.values(), ids=PROTECTED)
def test_what_a_trace_cannot_see_is_protected(body):
    group = find_groups(Net(body).eval(), torch.randn(3, 4))[0]
    assert group.name == 'one.neurons'
    assert group.protected.startswith('open: '), group.protected


FREE = {
    'numbers': lambda net, x: net.two((net.one(x) + 1) * 2 - torch.tensor(0.5)),
    'a buffer': lambda net, x: net.two(net.one(x) * net.scale),
    'a buffer in another view': lambda net, x: net.two(net.one(x) * net.scale.view(-1)[None]),
    'rows of a table': lambda net, x: net.two(net.one(x)[:, None] + net.table.weight[None]),
    'one tensor twice': lambda net, x: net.wide(torch.cat([net.one(x), net.one(x)], 1)),
    'chunks, concatenated': lambda net, x: net.two(torch.cat(net.one(x).chunk(2, 1)[::-1], 1)),
    'a layer that is its base class': lambda net, x: net.same(net.one(x)),
    'rows of a longer table': lambda net, x: net.two(net.one(x)[:, None] + net.table.weight[:2]),
    'an input changed in place': lambda net, x: net.two(net.one(x.clone().mul_(2))),
}


@pytest.mark.parametrize('body', FREE.values(), ids=FREE)
def test_what_a_trace_sees_is_free_and_right(body):
    net, x = Net(body).eval(), torch.randn(3, 4)
    groups = find_groups(net, x)
    free = [group for group in groups if group.name == 'one.neurons' and not group.protected]
    assert len(free) == 1
    check_group(net, groups, {'one.neurons': [0, 2][: free[0].num_units - 1]}, lambda m: m(x.double()))


def test_a_layer_without_gradients_reads_what_it_read():
    groups = {group.name: group for group in find_groups(Net(untracked), torch.randn(3, 4))}
    assert 'belongs to one, run under no_grad' in groups['one.neurons'].protected
    assert 'belongs to two, run under no_grad' in groups['hidden.neurons'].protected


def test_scripted_parts_are_protected():
    net = nn.Sequential(nn.Linear(4, 6), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(6, 5))), nn.Linear(5, 2))
    groups = find_groups(net, torch.randn(3, 4))
    assert not [group.name for group in groups if not group.protected]
    assert groups[0].protected.startswith('open: reaches the operation Addmm'), groups[0].protected


def test_what_cannot_be_copied_is_an_error_that_says_so():
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2))
    with pytest.raises(GroupError, match='Sequential cannot be copied, as slimming needs it: Only Tensors'):
        find_groups(net, torch.randn(3, 4))


def test_channels_made_of_an_image_by_a_grouped_convolution_stay():
    net = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 2, 1))
    group = find_groups(net, torch.randn(1, 3, 8, 8))[0]
    assert group.name == '0.channels'
    assert group.protected == 'open: is applied by 0 to what was not followed'


def test_an_input_may_be_changed_in_place():
    net = Net(lambda net, x: net.two(net.one(x.mul_(2))))
    assert not find_groups(net, torch.ones(3, 4))[0].protected
