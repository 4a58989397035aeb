"""Traced Groups: what is coupled with what, and what is protected."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from trace_nets import Chain, Chunk, Concat, Flatten, Grouped, Moved, Proposals, Residual, Tied, randomize, run_of

from vadslim.pruning import Group, StructuredPruner, check_group, find_groups, make_structure, resize


def positions(groups):
    """{Group name: {(tensor, dim): positions of unit 0}}."""
    return {group.name: {(part.tensor, part.dim): part.index[0].tolist() for part in group.slices} for group in groups}


def free(groups):
    return [group.name for group in groups if not group.protected]


def test_chain_is_coupled_as_computed_by_hand():
    group, output = find_groups(Chain(), Chain.example)
    assert (group.name, group.kind, group.num_units, group.protected) == ('one.channels', 'channel', 8, '')
    places = {(part.tensor, part.dim): part.mask_value for part in group.slices}
    assert places == {
        ('one.weight', 0): 0,
        ('one.bias', 0): 0,
        ('norm.weight', 0): 0,
        ('norm.bias', 0): 0,
        ('norm.running_mean', 0): 0,
        ('norm.running_var', 0): 1,
        ('two.weight', 1): 0,
    }
    assert all(part.index[5].tolist() == [5] for part in group.slices)
    assert output.name == 'two.channels'
    assert output.protected == 'open: reaches an output of Chain'
    assert find_groups(Chain(), Chain.example)[1].num_units == 5


def test_residual_stream_is_one_group():
    groups = positions(find_groups(Residual(), Residual.example))
    assert groups['stem.channels'].keys() == {
        ('stem.weight', 0),
        ('stem.bias', 0),
        ('inner.weight', 1),
        ('outer.weight', 0),
        ('outer.bias', 0),
        ('head.weight', 1),
    }
    assert groups['inner.channels'].keys() == {('inner.weight', 0), ('inner.bias', 0), ('outer.weight', 1)}


def test_concat_offsets():
    groups = positions(find_groups(Concat(), Concat.example))
    assert groups['left.channels']['read.weight', 1] == [0]
    assert groups['right.channels']['read.weight', 1] == [4]
    assert groups['small.neurons']['token.weight', 1] == [0]
    assert groups['read.channels']['token.weight', 1] == [4]
    assert groups['read.channels']['small.weight', 1] == [0]


def test_chunk_halves_stay_equal():
    groups = positions(find_groups(Chunk(), Chunk.example))
    assert groups['wide.channels']['wide.weight', 0] == [0, 5]
    assert groups['wide.channels']['third.weight', 1] == [0]
    assert groups['wide.channels']['third.weight', 0] == [0]


def test_pixels_and_gates_leave_together():
    groups = positions(find_groups(Moved(), Moved.example))
    assert groups['wide.channels']['wide.weight', 0] == [0, 1, 2, 3]
    assert groups['wide.channels']['shuffled.weight', 1] == [0]
    assert groups['shuffled.channels']['unshuffled.weight', 1] == [0, 1, 2, 3]
    assert groups['unshuffled.channels']['unshuffled.weight', 0] == [0, 5]
    assert groups['unshuffled.channels']['gated.weight', 1] == [0]


def test_split_by_numbers_in_the_code_is_protected():
    class Split(Chunk):
        def forward(self, x):
            value, gate = self.wide(x).split(5, dim=1)
            return self.read(self.third(gate).sigmoid() * value)

    group = find_groups(Split(), Chunk.example)[0]
    assert group.protected == 'open: is split into [5, 5] channels, numbers that stand in the code'


def test_unequal_chunks_are_protected():
    class Uneven(Chunk):
        def forward(self, x):
            return self.wide(x).chunk(3, 1)[2]

    assert 'open: is cut into parts of [4, 4, 2] channels' in find_groups(Uneven(), Chunk.example)[0].protected


def test_grouped_convolutions_lose_whole_groups():
    groups = find_groups(Grouped(), Grouped.example)
    group = next(group for group in groups if group.name == 'stem.channels')
    assert group.num_units == 2  # lcm of what 8, 4 and 2 groups and 4 norm groups leave
    assert {attr.path: attr.per_unit for attr in group.attrs} == {
        'depthwise.groups': 4,
        'grouped.groups': 2,
        'norm.num_groups': 2,
        'up.groups': 1,
    }
    slim = resize(Grouped(), make_structure(Grouped(), groups, {'stem.channels': [1]}))
    assert (slim.depthwise.groups, slim.depthwise.in_channels, slim.depthwise.out_channels) == (4, 4, 8)
    assert (slim.up.groups, slim.up.in_channels, slim.up.out_channels) == (1, 6, 3)
    assert (slim.norm.num_groups, slim.norm.num_channels) == (2, 6)
    assert slim(*Grouped.example).shape == Grouped()(*Grouped.example).shape


def test_tied_tensors_go_by_their_first_name():
    model = Tied()
    groups = find_groups(model, Tied.example)
    assert [(group.name, bool(group.protected)) for group in groups] == [
        ('embedding.channels', False),
        ('embedding.rows', True),
        ('ffn.0.neurons', False),
    ]
    stream = groups[0]
    places = {(part.tensor, part.dim) for part in stream.slices}
    assert ('embedding.weight', 1) in places
    assert ('position', 2) in places
    assert not any(tensor == 'head.weight' for tensor, _ in places)
    slim = resize(model, make_structure(model, groups, {stream.name: [0, 3, 5]}))
    assert slim.head.weight is slim.embedding.weight
    assert slim.head.weight.shape == (5, 3)
    assert (slim.head.in_features, slim.embedding.embedding_dim) == (3, 3)


def test_flattened_channels_own_blocks():
    groups = positions(find_groups(Flatten(), Flatten.example))
    assert groups['conv.channels']['flat.weight', 1] == [0, 1, 2, 3]
    assert groups['conv.channels']['pooled.weight', 1] == [0]


class Block(nn.Module):
    def __init__(self, width, inner, down=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.down = nn.Conv2d(width, 12, 1, bias=False) if down else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.down(x)).relu_()


class FrozenStem(nn.Module):
    """Like mmdet's backbones: stem frozen, every batch norm frozen and in eval mode while training. Setting the mode
    freezes the stem anew, and returns nothing.
    """

    example = (torch.randn(2, 3, 8, 8),)

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.block1, self.block2 = Block(6, 8, down=True), Block(12, 10)
        self.head = nn.Conv2d(12, 2, 1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.train()

    def train(self, mode=True):
        super().train(mode)
        self.stem.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False

    def forward(self, x):
        return self.head(self.block2(self.block1(self.bn(self.stem(x)).relu())))


def test_frozen_stem_is_protected_and_frozen_norms_are_not_in_the_way():
    model = randomize(FrozenStem())
    calls = []
    model.block1.register_forward_hook(lambda *_: calls.append(1))
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    groups = {group.name: group for group in find_groups(model, FrozenStem.example)}

    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert len(model.block1._forward_hooks) == 1
    assert groups['stem.channels'].protected == 'frozen: stem.weight does not train'
    assert free(groups.values()) == ['block1.conv1.channels', 'block1.conv2.channels', 'block2.conv1.channels']
    assert not find_groups(model, FrozenStem.example, allow_frozen=True)[0].protected
    kept = {'block1.conv2.channels': [0, 2, 5, 11], 'block2.conv1.channels': [1]}
    check_group(model, list(groups.values()), kept, run_of(FrozenStem))

    slim = resize(model, make_structure(model, list(groups.values()), kept))
    assert {name: p.requires_grad for name, p in slim.named_parameters()} == flags
    assert {name: module.training for name, module in slim.named_modules()} == modes
    optimizer = torch.optim.SGD([p for p in slim.parameters() if p.requires_grad], 0.1)
    before = slim.block1.conv1.weight.detach().clone()
    calls.clear()
    slim(*FrozenStem.example).square().sum().backward()
    optimizer.step()
    assert not torch.equal(slim.block1.conv1.weight, before)
    assert slim.stem.weight.grad is None
    assert calls == [1]  # the slim model's copy of the hook


def test_layers_before_a_detach_are_found():
    groups = {group.name: group.protected for group in find_groups(Proposals(), Proposals.example)}
    assert groups == {
        'stem.channels': '',
        'head.channels': 'open: reaches an output of Proposals',
        'branch.channels': '',
        'score.channels': 'open: leaves the graph of gradients in detach',
    }


def forward_with(body):
    """A net of two linear layers whose forward is ``body(net, x)``."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)
            self.register_buffer('constant', torch.ones(6))

        def forward(self, x):
            return body(self, x)

    return Net()


class Unknown(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.mark.parametrize(
    ('body', 'reason'),
    [
        (lambda net, x: net.two(Unknown.apply(net.one(x))), 'reaches the operation Unknown'),
        (lambda net, x: net.two(net.one(x).softmax(-1)), 'goes through Softmax along its channels'),
        (lambda net, x: net.two(net.one(x) @ torch.ones(6, 6)), 'reaches the operation Mm'),
        (lambda net, x: (net.two(net.one(x)), net.one(x)), 'reaches an output'),
        (lambda net, x: net.two(net.one(x)) + net.two(net.one(x).detach()), 'is applied by two to what'),
        (lambda net, x: net.two(net.one(x)[:, [1, 0, 2, 3, 4, 5]]), 'reaches the operation Index'),
        (lambda net, x: net.two(net.one(x)) * net.one(x).mean(-1, keepdim=True), 'is reduced over its channels'),
        (lambda net, x: net.two(functional.pad(net.one(x)[:, :5], (0, 1))), 'is sliced by numbers'),
        (lambda net, x: net.two(net.one(x).view(-1, 2, 3).flatten(1)), 'is cut by a reshape'),
    ],
)
def test_what_cannot_be_followed_is_protected(body, reason):
    with torch.random.fork_rng():
        group = find_groups(forward_with(body), torch.randn(3, 4))[0]
    assert group.name == 'one.neurons'
    assert group.protected.startswith(f'open: {reason}'), group.protected


def test_buffers_are_cut_with_the_channels_they_are_added_to():
    model = forward_with(lambda net, x: net.two(net.one(x) + net.constant))
    groups = find_groups(model, torch.randn(3, 4))
    assert ('constant', 0) in positions(groups)['one.neurons']
    check_group(model, groups, {'one.neurons': [0, 5]}, lambda m: m(torch.randn(3, 4).double() * 0 + 1))


def test_layers_that_are_not_reached_are_listed():
    model = forward_with(lambda net, x: net.one(x) @ torch.ones(6, 2))
    reasons = {group.name: group.protected for group in find_groups(model, torch.randn(3, 4))}
    assert reasons['two.neurons'] == 'open: two is not in the traced graph'


def test_transformer_ffn_and_attention():
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 24), 2, norm=nn.LayerNorm(16))
    randomize(model)
    target, memory = torch.randn(5, 2, 16), torch.randn(7, 2, 16)
    groups = find_groups(model, (target, memory))
    assert [(group.name, group.kind) for group in groups if group.on and not group.protected] == [
        (f'layers.{layer}.{part}', kind)
        for layer in (0, 1)
        for part, kind in (('self_attn.heads', 'head'), ('multihead_attn.heads', 'head'), ('linear1.neurons', 'neuron'))
    ]
    (stream,) = [group for group in groups if group.protected]
    assert 'open: reaches an output of TransformerDecoder' in stream.protected
    for ratio, targets in itertools.product((0.1, 0.5, 0.7), (None, '*')):
        kept = StructuredPruner(ratio, targets=targets).plan(model, groups)
        check_group(model, groups, kept, lambda m: m(target.double(), memory.double()))


def test_result_is_the_same_every_time():
    def plain():
        return [
            (g.name, g.kind, g.num_units, g.protected, [(p.tensor, p.dim, p.index.flat.tolist()) for p in g.slices])
            for g in find_groups(Grouped(), Grouped.example)
        ]

    assert plain() == plain()


def test_keyword_and_function_examples():
    by_args = find_groups(Chain(), Chain.example)
    by_name = find_groups(Chain(), {'x': Chain.example[0]})
    by_run = find_groups(Chain(), lambda model: model(Chain.example[0]))
    assert [g.name for g in by_args] == [g.name for g in by_name] == [g.name for g in by_run]
    assert isinstance(by_run[0], Group)
    assert np.array_equal(by_run[0].slices[0].index.flat, by_args[0].slices[0].index.flat)
