"""Slimming: new tensors only, and everything that is not a shape stays as it was."""

import copy

import torch
from torch import nn

from vadslim.pruning import Attr, Group, Slice, blocks, find_groups, follows_tensors, make_structure, resize

EXAMPLE = torch.randn(2, 3, 6, 6)


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, 4, 1), nn.InstanceNorm2d(4, affine=True)
    )
    model[0].weight.requires_grad_(False)
    model[1].eval()
    groups = find_groups(model, EXAMPLE, allow_frozen=True)
    return model, make_structure(model, groups, {'0.channels': [0, 2, 5]})


def test_the_dense_model_is_untouched():
    model, structure = net()
    before = copy.deepcopy(model.state_dict())
    other = copy.deepcopy(model)
    slim = resize(model, structure)
    with torch.no_grad():
        for tensor in [*slim.parameters(), *slim.buffers()]:
            tensor.fill_(7)
    for same in (model, other):
        assert all(torch.equal(same.state_dict()[name], value) for name, value in before.items())
    storages = {t.data_ptr() for t in [*model.parameters(), *model.buffers()]}
    assert not storages & {t.data_ptr() for t in [*slim.parameters(), *slim.buffers()]}


def test_numbers_follow_the_tensors():
    model, structure = net()
    slim = resize(model, structure)
    assert (slim[0].out_channels, slim[1].num_features, slim[2].num_parameters) == (3, 3, 3)
    assert (slim[3].in_channels, slim[3].out_channels, slim[4].num_features) == (3, 4, 4)
    assert repr(slim[0]) == 'Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1))'
    assert slim(EXAMPLE).shape == model(EXAMPLE).shape
    assert torch.equal(slim[1].running_var, model[1].running_var[[0, 2, 5]])


def test_flags_modes_dtypes_and_layout_stay():
    model, structure = net()
    model = model.double().to(memory_format=torch.channels_last)
    model[3].weight.tag = 'mine'
    slim = resize(model, structure)
    assert not slim[0].weight.requires_grad
    assert slim[3].weight.requires_grad
    assert [module.training for module in slim] == [module.training for module in model]
    assert {p.dtype for p in slim.parameters()} == {torch.float64}
    assert slim[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert slim[3].weight.tag == 'mine'
    assert slim[1].num_batches_tracked.dtype == torch.int64


def test_buffers_outside_the_state_and_parameters_in_lists_are_replaced():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 2))
            self.register_buffer('scale', torch.arange(6.0), persistent=False)
            self.also = [self.weight]

    model = Odd()
    group = Group('rows', 'row', 6, [Slice('weight', 0, blocks(6)), Slice('scale', 0, blocks(6))])
    slim = resize(model, make_structure(model, [group], {'rows': [1, 4]}))
    assert slim.scale.tolist() == [1, 4]
    assert slim.also[0] is slim.weight
    assert slim.weight.shape == (2, 2)


def test_a_class_may_say_which_numbers_follow():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.width = nn.Linear(2, 6), 6

    @follows_tensors(Wrapper)
    def follow(module):
        module.width = module.linear.out_features

    model = Wrapper()
    group = Group('rows', 'row', 6, [Slice(f'linear.{name}', 0, blocks(6)) for name in ('weight', 'bias')])
    assert resize(model, make_structure(model, [group], {'rows': [1, 4]})).width == 2


def test_nothing_removed_gives_an_equal_copy():
    model = nn.MultiheadAttention(8, 2)
    slim = resize(model, make_structure(model, find_groups(model), {}))
    assert type(slim) is nn.MultiheadAttention
    assert all(torch.equal(one, other) for one, other in zip(slim.parameters(), model.parameters()))


def test_attributes_of_the_model_itself():
    class Net(nn.Linear):
        count = 4

    model = Net(2, 4)
    parts = [Slice('weight', 0, blocks(4)), Slice('bias', 0, blocks(4))]
    group = Group('rows', 'row', 4, parts, [Attr('', 'count')])
    slim = resize(model, make_structure(model, [group], {'rows': [3]}))
    assert (slim.count, slim.out_features, Net.count) == (1, 1, 4)
