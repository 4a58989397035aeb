"""InkNet: shapes, what a structural network lacks, what is hidden, and what is frozen."""

import pytest
import torch
from torch.nn import functional

from vadslim.analysis.example import find_example
from vadslim.cli import UserError
from vadslim.examples.ink import NEW_IN_DENSE, InkNet
from vadslim.examples.ink.layers import ConvNeXtBlock, CrossSkip, add_coordinates, from_windows, to_windows
from vadslim.examples.ink.model import STRUCTURAL, hide
from vadslim.examples.ink.strokes import TARGETS
from vadslim.hooks.transfer import differences
from vadslim.pruning import find_groups

SMALL = {'embed_dim': 8, 'num_layers': 1, 'decoder_dim': 8}


def images(count=2):
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('full_heads', [False, True])
def test_maps(full_heads):
    torch.manual_seed(0)
    model = InkNet(**SMALL, full_heads=full_heads).eval()
    with torch.no_grad():
        maps = model(images())
        samples = model(images(), targets={'skeleton': images() > 0.5}, mode='predict', stage=torch.tensor([3, 4]))
    heads = list(TARGETS) if full_heads else list(STRUCTURAL)
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        name: (2, TARGETS[name], 64, 64) for name in heads
    }
    assert 0.005 < maps['skeleton'].mean() < 0.02  # begins with the share of ink that there is
    if full_heads:
        assert maps['width'].min() > 0 and maps['offset'].abs().max() <= 0.5 and maps['keypoints'].max() < 1
    assert maps['tangent'].abs().max() <= 1
    assert [int(sample['stage']) for sample in samples] == [3, 4]
    assert torch.equal(samples[1]['maps']['skeleton'], maps['skeleton'][1])
    assert torch.equal(samples[1]['targets']['skeleton'], images()[1] > 0.5)
    with pytest.raises(ValueError, match='choose from'):
        model(images(), mode='other')


def test_size_of_the_shipped_network():
    """The parts of the architecture that its description gives numbers for."""
    encoder = InkNet().encoder
    with torch.no_grad():
        x, (middle, large) = encoder.eval()(images())
    assert (x.shape[1:], middle.shape[1:], large.shape[1:]) == ((128, 8, 8), (64, 16, 16), (32, 32, 32))
    assert len(encoder.fine) + len(encoder.coarse) == 6 and len(encoder.layers) == 4
    layer = encoder.layers[0]
    assert (layer.self_attn.num_heads, layer.linear1.out_features, layer.dropout.p) == (4, 512, 0.1)
    assert not torch.equal(layer.linear1.weight, encoder.layers[1].linear1.weight)


def test_structural_is_a_part_of_dense():
    structural, dense = InkNet(**SMALL, full_heads=False), InkNet(**SMALL)
    state = structural.state_dict()
    assert differences(dense, state, allow_missing=NEW_IN_DENSE) == []
    missing = [text.removesuffix(' is missing') for text in differences(dense, state)]
    assert {name.rsplit('.', 1)[0].split('.')[1] for name in missing} == {'skips', 'keypoints', 'width', 'offset'}
    assert set(state) | set(missing) == set(dense.state_dict())


def test_hidden_squares():
    torch.manual_seed(0)
    hidden = hide(torch.ones(5, 1, 64, 64), 0.6, 8)
    squares = functional.avg_pool2d(hidden, 8)
    assert set(squares.unique().tolist()) == {0, 1}
    assert ((squares == 0).sum((1, 2, 3)) == 38).all()
    assert len({tuple(row.tolist()) for row in squares.flatten(1)}) == 5
    torch.manual_seed(0)
    assert torch.equal(hide(torch.ones(5, 1, 64, 64), 0.6, 8), hidden)
    assert ((hide(torch.ones(2, 1, 64, 64), 0.6, 1) == 0).sum((1, 2, 3)) == int(64 * 64 * 0.6)).all()


def test_only_training_hides(monkeypatch):
    model, seen = InkNet(**SMALL, full_heads=False, mask_ratio=0.6), []
    monkeypatch.setattr(model, 'maps', lambda x: seen.append(x) or {})
    for mode in (True, False):
        model.train(mode)(torch.ones(1, 1, 64, 64), {'skeleton': torch.ones(1, 1, 64, 64)}, mode='loss')
    assert [int((x == 0).sum()) for x in seen] == [38 * 64, 0]


def test_all_parameters_are_trained():
    """So that DistributedDataParallel has nothing to look for; and the shared block is one."""
    for full_heads in (False, True):
        model = InkNet(**SMALL, full_heads=full_heads, mask_ratio=0.0 if full_heads else 0.6)
        targets = {name: torch.rand(2, channels, 64, 64).round() for name, channels in TARGETS.items()}
        losses = model(images(), targets, mode='loss')
        assert list(losses) == [f'loss_{name}' for name in model.heads]
        sum(losses.values()).backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        assert sum(isinstance(module, ConvNeXtBlock) for module in model.modules()) == 1


def test_frozen_encoder():
    model = InkNet(**SMALL, freeze_encoder=True).train()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    targets = {name: torch.rand(2, channels, 64, 64).round() for name, channels in TARGETS.items()}
    sum(model(images(), targets, mode='loss').values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())


def test_windows():
    x = torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16)
    windows = to_windows(x, 8)
    assert windows.shape == (8, 64, 3)
    assert torch.equal(windows[1], x[0, :, :8, 8:].reshape(3, 64).T)  # the upper right one of the first image
    assert torch.equal(from_windows(windows, x.shape), x)


def test_skips_look_into_their_own_window():
    torch.manual_seed(0)
    skip = CrossSkip(8, 4).double()
    x, large = torch.randn(1, 8, 16, 16).double(), torch.randn(1, 4, 16, 16).double()
    changed = large.clone()
    changed[..., :8, 8:] += torch.randn(1, 4, 8, 8).double()
    differ = (skip(x, large) != skip(x, changed)).any(1)[0]
    assert differ[:8, 8:].all() and not differ[8:].any() and not differ[:8, :8].any()


def test_coordinates():
    x = add_coordinates(torch.zeros(2, 1, 3, 5))
    assert x.shape == (2, 3, 3, 5)
    assert x[1, 1, 2].tolist() == [-1, -0.5, 0, 0.5, 1] and x[0, 2, :, 4].tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    'arguments, message',
    [
        ({'embed_dim': 10}, 'multiples of 4'),
        ({'mask_ratio': 1.0}, 'below 1'),
        ({'mask_strategy': 'blok'}, 'block, random'),
        ({'loss_weights': {'skelton': 1}}, "no head 'skelton'"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        InkNet(**{**SMALL, **arguments})


def test_what_can_be_pruned():
    """So that a stage may prune it: find_groups tries each Group that it traced, in float64."""
    model = InkNet(**SMALL).eval()
    example = find_example(model)
    free = {group.name for group in find_groups(model, example.run) if not group.protected}
    assert {
        'encoder.stem.0.0.0.channels',
        'encoder.fine.1.ffn.0.0.channels',
        'encoder.layers.0.self_attn.heads',
        'encoder.layers.0.linear1.neurons',
        'decoder.skips.1.attention.heads',
        'decoder.block.ffn.0.channels',
        'heads.keypoints.branches.3.channels',
        'heads.offset.0.channels',
    } <= free
