"""From mask to metal: structured masks of all networks become smaller networks that compute the same."""

import copy
import functools

import pytest
import torch
from torch import nn

from vadslim.analysis import count_params, find_example
from vadslim.classification import VGG, CIFARResNet, MobileNet, VisionTransformer
from vadslim.classification.resnet import Bottleneck, _stage
from vadslim.pruning import find_groups, make_structure, resize, slice_state_dict
from vadslim.sparse import (
    HardMask,
    dead_units,
    dense_masks,
    difference,
    held_by_companions,
    imp,
    masked,
    parameters_of,
    prunable_weights,
    refill,
    remove_dead,
    row_sums,
    with_companions,
)
from vadslim.testing import ToyNet, toy_frames

BN = nn.modules.batchnorm._BatchNorm
IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class ShortMobileNet(MobileNet):
    def __init__(self):
        super().__init__(width=0.125, image_size=8)
        self.layers, self.linear = self.layers[:3], nn.Linear(16, 10)


class ShortTransformer(VisionTransformer):
    def __init__(self):
        super().__init__(image_size=8)
        self.blocks = self.blocks[:3]


class Bottlenecks(CIFARResNet):
    """A thin ResNet-50: what changes is the width, and that there are two stages."""

    def __init__(self):
        super().__init__(8, image_size=8)
        self.layer1 = _stage(Bottleneck, 16, 8, 2, 1, pad=False)
        self.layer2 = _stage(Bottleneck, 32, 12, 2, 2, pad=False)
        self.layer3, self.fc = nn.Identity(), nn.Linear(48, 10)


NETWORKS = {
    'option A': functools.partial(CIFARResNet, 8, image_size=8),
    'option B': functools.partial(CIFARResNet, 8, shortcut='B', image_size=8),
    'bottlenecks': Bottlenecks,
    'vgg': functools.partial(VGG, (8, 'M', 12, 'M', 16, 16), image_size=8),
    'mobilenet': ShortMobileNet,
}


def scrambled(model, seed=0):
    """A network with biases, gammas, betas and statistics of random numbers, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if tensor.dim() == 1 and tensor.is_floating_point() and isinstance(part, nn.Linear | nn.Conv2d | BN):
                low, high = (0.5, 1.5) if name in ('weight', 'running_var') else (-1, 1)
                tensor.data = torch.empty_like(tensor).uniform_(low, high, generator=generator)
    return model


def example_of(model):
    return find_example(model, small=True).run


def hold(model, masks):
    """Zeros as a level of training leaves them."""
    HardMask(parameters_of(model, masks), masks).apply()
    return model


def filter_masks(model, rate=0.5, seed=0):
    """Masks of random filters; those of equal norm are not a thing here."""
    generator = torch.Generator().manual_seed(seed)
    weights = prunable_weights(model)
    noise = {name: torch.rand(w.shape, generator=generator) for name, w in weights.items()}
    return imp(noise, dense_masks(weights), rate, 'filter-wise')


@functools.cache
def network(name):
    """A masked network, its example and its Groups; treat them as read-only."""
    torch.manual_seed(0)
    model = scrambled(NETWORKS[name]())
    example = example_of(model)
    masks = filter_masks(model)
    return hold(model, with_companions(model, masks, example)), example, masks, find_groups(model, example)


@pytest.mark.parametrize('name', NETWORKS)
def test_random_filters_become_metal(name):
    model, example, masks, groups = network(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    result = remove_dead(model, example, groups)
    assert result.error < 1e-12
    sliced = slice_state_dict(before, result.structure)
    state = result.model.state_dict()
    assert all(torch.equal(tensor, sliced[key]) for key, tensor in state.items()) and len(state) == len(sliced)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    inside = [group for group in groups if '.conv1' in group.name or name in ('vgg', 'mobilenet')]
    inside = [group for group in inside if group.name.replace('channels', 'weight') in masks]
    assert inside and all(len(result.kept[group.name]) == (group.num_units + 1) // 2 for group in inside)
    assert count_params(result.model) < (0.5 if name in ('vgg', 'mobilenet') else 0.75) * count_params(model)
    # and in float32, on other images, while it trains: dead channels have no part in any statistics
    images = torch.randn(4, 3, model.image_size, model.image_size)
    small, dense = result.model.train(), copy.deepcopy(model).train()
    torch.testing.assert_close(small(images), dense(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', ['option A', 'vgg', 'mobilenet'])
def test_one_beta_that_was_forgotten_keeps_its_channel(name):
    model, example, _, groups = network(name)
    dead = dead_units(model, groups, example)
    group = next(group for group in groups if group.name in dead)
    norm = [part.tensor for part in group.slices if part.tensor.endswith('running_mean')][-1].rpartition('.')[0]
    unit = dead[group.name][0]
    beta = model.get_submodule(norm).bias
    try:
        beta.data[unit] = 0.25
        assert dead_units(model, groups, example) == {**dead, group.name: dead[group.name][1:]}
        kept = {group.name: [u for u in range(group.num_units) if u not in dead[group.name]]}
        wrong = resize(model, make_structure(model, groups, kept))
        error, allowed = difference(model, wrong, example)
        assert error > 10 * allowed  # what was left out by mistake is seen
        assert remove_dead(model, example, groups).error < 1e-12
    finally:
        beta.data[unit] = 0


def test_without_companions_nothing_can_go():
    model = scrambled(CIFARResNet(8))
    example = example_of(model)
    masks = filter_masks(model)
    groups = find_groups(model, example)
    result = remove_dead(hold(model, masks), example, groups)
    assert result.units == 0 and result.kept == {} and not result.structure.tensors
    rows = sum(int((~mask).flatten(1).all(1).sum()) for name, mask in masks.items() if '.conv1.' in name)
    assert held_by_companions(model, groups, example) == rows > 0


def test_refilled_channels_and_a_dead_stream():
    """Option B: a channel of a stream goes when none of its branches makes it, and stays as long as one does."""
    torch.manual_seed(0)
    model = scrambled(CIFARResNet(14, shortcut='B', image_size=8))
    example = example_of(model)
    weights = prunable_weights(model)
    current = imp(weights, dense_masks(weights), 0.4)
    masks = refill(current, row_sums(weights, current))
    branches = ('layer2.0.conv2.weight', 'layer2.0.downsample.0.weight', 'layer2.1.conv2.weight')
    for branch in branches:
        masks[branch][:] = True
        masks[branch][[3, 7]] = False
    masks[branches[2]][7] = True  # one branch makes it
    hold(model, with_companions(model, masks, example))
    result = remove_dead(model, example)
    assert result.error < 1e-12
    assert sorted(set(range(32)) - set(result.kept['layer2.0.conv2.channels'])) == [3]
    for block in ('layer1.0', 'layer3.1'):
        rows = masks[f'{block}.conv1.weight'].flatten(1).any(1)
        assert result.kept[f'{block}.conv1.channels'] == rows.nonzero().flatten().tolist()


def unit_masks(model, heads, neurons):
    """Masks of heads and neurons: rows of qkv and fc1, columns of proj and fc2."""
    masks = dense_masks({name: p for name, p in model.named_parameters() if '.attn.' in name or '.mlp.' in name})
    masks = {name: mask for name, mask in masks.items() if name.endswith('weight')}
    for block, gone in heads.items():
        qkv, proj = (masks[f'blocks.{block}.attn.{layer}.weight'] for layer in ('qkv', 'proj'))
        for head in gone:
            qkv.unflatten(0, (3, 3, 64))[:, head] = False
            proj[:, 64 * head : 64 * head + 64] = False
    for block, gone in neurons.items():
        masks[f'blocks.{block}.mlp.fc1.weight'][gone] = False
        masks[f'blocks.{block}.mlp.fc2.weight'][:, gone] = False
    return masks


def test_heads_and_neurons():
    """Biases of what is gone are not masked: nothing reads it."""
    torch.manual_seed(0)
    model = scrambled(ShortTransformer())
    example = example_of(model)
    masks = unit_masks(model, {0: [1], 1: [0, 2], 2: [0, 1, 2]}, {0: [5, 9], 2: range(100, 384)})
    weights = parameters_of(model, masks)
    hold(model, masks)
    result = remove_dead(model, example)
    assert result.error < 1e-12
    cut = {name: units for name, units in result.kept.items() if name.endswith('heads')}
    assert cut == {'blocks.0.attn.heads': [0, 2], 'blocks.1.attn.heads': [1], 'blocks.2.attn.heads': [0]}
    assert result.reasons['blocks.2.attn.heads'] == 'at least 1 have to stay'
    assert len(result.kept['blocks.0.mlp.fc1.neurons']) == 382
    assert result.kept['blocks.2.mlp.fc1.neurons'] == list(range(100))
    assert result.model.blocks[1].attn.num_heads == 1 and 'norm' in result.reasons['patch_embed.proj.channels']
    weights['blocks.0.mlp.fc2.weight'].data[17, 5] = 1e-30  # however little
    weights['blocks.0.attn.proj.weight'].data[0, 64] = 1.0
    assert 'blocks.0.attn.heads' not in dead_units(model, result.groups, example)
    assert dead_units(model, result.groups, example)['blocks.0.mlp.fc1.neurons'] == [9]
    model.blocks[0].attn.qkv.bias.data.unflatten(0, (3, 3, 64))[2, 1] = 0  # its values are zero now
    assert dead_units(model, result.groups, example)['blocks.0.attn.heads'] == [1]


def test_stock_attention():
    """nn.MultiheadAttention calls none of its layers: a head goes with its columns, or with all that makes it."""
    torch.manual_seed(0)
    model = scrambled(ToyNet())
    rows = model.attention.in_proj_weight.data.unflatten(0, (3, 4, 4))
    model.attention.out_proj.weight.data[:, 4:8] = 0
    rows[:, 2] = 0
    model.attention.in_proj_bias.data.unflatten(0, (3, 4, 4))[:, 2] = 0
    rows[:, 3] = 0
    model.attention.in_proj_bias.data[-4:] = 1.0  # what is left of the last head
    model.ffn[3].weight.data[:, 20:] = 0
    result = remove_dead(model, toy_frames())
    assert result.error < 1e-12
    assert result.kept == {'attention.heads': [0, 3], 'ffn.0.neurons': list(range(20))}


def test_a_module_that_cannot_be_narrower_stays():
    class Own(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model = scrambled(ToyNet())
    groups = find_groups(model, toy_frames())
    model.attention.__class__ = Own
    model.attention.out_proj.weight.data[:, 4:8] = 0
    model.ffn[3].weight.data[:, 20:] = 0
    result = remove_dead(model, toy_frames(), groups)
    assert list(result.kept) == ['ffn.0.neurons'] and result.error < 1e-12
    assert 'cannot be narrower' in result.reasons['attention.heads']


class Gate(nn.Module):
    """Whatever ``act`` makes of channels, read by a convolution and by ``extra``."""

    def __init__(self, act, extra=None):
        super().__init__()
        self.one, self.two, self.act, self.extra = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), act, extra
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        x = self.act(self.one(x) * self.scale[:, None, None])
        return self.two(x) if self.extra is None else self.two(x) + self.extra(x)

    def without(self, *units):
        self.one.weight.data[list(units)] = 0
        self.one.bias.data[list(units)] = 0
        return self


def test_zero_must_stay_zero_on_the_way():
    """Half of a sigmoid's range is no zero, whatever sign it has."""
    assert dead_units(*dead_of(Gate(torch.relu).without(1, 4))) == {'one.channels': [1, 4]}
    assert dead_units(*dead_of(Gate(nn.functional.gelu).without(1, 4))) == {'one.channels': [1, 4]}
    assert dead_units(*dead_of(Gate(torch.sigmoid).without(1, 4))) == {}
    assert dead_units(*dead_of(Gate(lambda x: (1 - x).relu()).without(1))) == {}
    assert dead_units(*dead_of(Gate(lambda x: (-x).relu()))) == {}
    assert dead_units(*dead_of(Gate(lambda x: (-x).relu()).without(5))) == {'one.channels': [5]}
    behind_relu = Gate(lambda x: (-x).relu())
    behind_relu.one = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 8, 1, bias=False))
    assert dead_units(*dead_of(behind_relu)) == {}


def test_a_channel_that_is_zero_for_this_input_only_stays():
    model = Gate(torch.relu)
    model.one.bias.data[2] = -1e6
    assert dead_units(*dead_of(model)) == {}
    model.one.bias.data[2] = float('nan')
    assert dead_units(*dead_of(model)) == {}


def dead_of(model):
    return model, find_groups(model, IMAGE), IMAGE


def test_what_no_layer_shows_is_found_by_trying():
    """Dead for each layer, and yet the outputs differ without it: the Group stays, and the reason says so."""
    model = Gate(torch.relu, lambda x: x.exp().sum(1, keepdim=True)).without(1)
    groups = find_groups(Gate(torch.relu), IMAGE)
    assert dead_units(model, groups, IMAGE) == {'one.channels': [1]}
    result = remove_dead(model, IMAGE, groups)
    assert result.kept == {} and result.error == 0
    assert 'its outputs differ by' in result.reasons['one.channels']


def test_the_guilty_group_alone_stays():
    first = Gate(torch.relu).without(3)
    second = Gate(torch.relu, lambda x: x.exp().sum(1, keepdim=True)).without(1)
    second.one = nn.Conv2d(4, 8, 1)
    model = nn.Sequential(first, second.without(1))
    plain = nn.Sequential(Gate(torch.relu), Gate(torch.relu))
    plain[1].one = nn.Conv2d(4, 8, 1)
    result = remove_dead(model, IMAGE, find_groups(plain, IMAGE))
    assert result.units == 1 and list(result.kept) == ['0.one.channels'] and '1.one.channels' in result.reasons


def test_a_wrong_network_is_seen():
    model, example, _, groups = network('vgg')
    group = next(group for group in groups if not group.protected)
    live = sorted(set(range(group.num_units)) - set(dead_units(model, groups, example)[group.name]))[0]
    kept = {group.name: [unit for unit in range(group.num_units) if unit != live]}
    error, allowed = difference(model, resize(model, make_structure(model, groups, kept)), example)
    assert error > 1e-4 > allowed
    assert difference(model, VGG((8, 8), image_size=8, num_classes=3), example)[0] == float('inf')


def test_grouped_and_transposed_convolutions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 8, 2, stride=2, bias=False)
            self.down = nn.ConvTranspose2d(8, 6, 1)
            self.last = nn.Conv2d(6, 4, 1, groups=2)

        def forward(self, x):
            return self.last(self.down(self.up(x).relu()))

    model = Net()
    model.up.weight.data[:, 2] = 0
    model.down.weight.data[5] = 0
    assert dead_units(*dead_of(model)) == {'up.channels': [2, 5]}
    assert remove_dead(model, IMAGE).error < 1e-12


def test_masks_hold_after_removal():
    """A second removal finds nothing."""
    model, example, _, groups = network('option B')
    result = remove_dead(model, example, groups)
    assert remove_dead(result.model, example).units == 0
    weights = prunable_weights(result.model)
    assert masked(weights, dense_masks(weights)).keys() == weights.keys()
