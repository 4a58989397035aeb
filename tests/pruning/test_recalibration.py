"""Recalibrated batch norms have the statistics of the data that pass through them, and nothing else changes."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from vadslim.pruning import find_groups, make_structure, recalibrate, resize
from vadslim.slimming.batches import loss_batches
from vadslim.testing import ToyNet, toy_config, toy_frames


def batches_of(*tensors):
    return [lambda model, x=x: model(x) for x in tensors]


def data(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(size, 4, 5, 5, generator=generator) + 4 * count for count, size in enumerate(sizes)]


def test_statistics_of_the_concatenated_data():
    norm = nn.BatchNorm2d(4).eval()
    tensors = data(2, 7, 1)
    before = copy.deepcopy(norm.state_dict())
    result = recalibrate(norm, batches_of(*tensors))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items()) and not norm.training
    together = torch.cat(tensors).double()
    mean, var = together.mean((0, 2, 3)), together.var((0, 2, 3))
    torch.testing.assert_close(result.state['running_mean'], mean.float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(result.state['running_var'], var.float(), rtol=1e-6, atol=0)
    assert result.state['num_batches_tracked'] == 3
    # the law of total variance; the mean of the batches' variances (momentum=None) is less
    within = torch.stack([x.double().var((0, 2, 3)) for x in tensors]).mean(0)
    assert (result.state['running_var'] > 1.05 * within).all()


def test_a_layer_sees_what_training_makes_of_the_layer_before():
    """The second norm's statistics do not depend on the first one's old ones."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))
    (x,) = data(6)
    first = recalibrate(net, batches_of(x)).state
    net[0].running_mean.fill_(100.0)
    net[4].running_var.fill_(100.0)
    again = recalibrate(net, batches_of(x)).state
    assert first.keys() == again.keys() and len(first) == 6
    assert all(torch.equal(first[name], again[name]) for name in first)
    net.load_state_dict(again, strict=False)
    net.eval()
    out = net(x).transpose(0, 1).flatten(1)  # with one batch, both modes are one, but for n / (n - 1)
    torch.testing.assert_close(out.mean(1), torch.zeros(3), rtol=0, atol=2e-2)
    torch.testing.assert_close(out.var(1), torch.ones(3), rtol=2e-2, atol=0)


def test_a_slimmed_network_is_nearer_to_what_it_said():
    torch.manual_seed(0)
    model = ToyNet(channels=16, dropout=0.0)
    frames = toy_frames(64)
    model.train()
    for _ in range(60):
        model(frames)
    model.eval()
    groups = [group for group in find_groups(model, toy_frames()) if group.name.startswith('conv')]
    structure = make_structure(model, groups, {group.name: list(range(group.num_units // 2)) for group in groups[:1]})
    slim = resize(model, structure)
    (features,) = _features(model, frames)
    (before,) = _features(slim, frames)
    result = recalibrate(slim, batches_of(frames[:32], frames[32:]))
    slim.load_state_dict(result.state, strict=False)
    (after,) = _features(slim, frames)
    assert abs(after.var() - features.var()) < abs(before.var() - features.var())
    assert result.measured == ['bn1', 'bn2'] and not result.skipped
    assert result.lines == ['batch norms: statistics of 2 measured anew']


def _features(model, frames):
    found = []
    handle = model.bn2.register_forward_hook(lambda module, args, output: found.append(output.detach()))
    with torch.no_grad():
        model(frames)
    handle.remove()
    return found


class Frozen(nn.Module):
    """A frozen stage, one that keeps no statistics, one that no data reach, and a shared one."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.BatchNorm2d(4)
        self.plain = nn.BatchNorm2d(4, track_running_stats=False)
        self.idle = nn.BatchNorm2d(4)
        self.shared = self.same = nn.BatchNorm2d(4)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.training = False
        return self

    def forward(self, x):
        return self.same(self.shared(self.plain(self.frozen(x))))


def test_which_ones():
    model = Frozen()
    result = recalibrate(model, batches_of(*data(3)))
    assert result.measured == ['shared'] and result.state['shared.num_batches_tracked'] == 2
    assert set(result.state) == {'shared.running_mean', 'shared.running_var', 'shared.num_batches_tracked'}
    assert list(result.skipped) == ['frozen', 'plain', 'idle']
    assert 'norm_eval' in result.skipped['frozen'] and 'no data' in result.skipped['idle']
    assert sum('not recalibrated' in line for line in result.lines) == 3
    assert 'frozen' in recalibrate(model, batches_of(*data(3)), frozen=True).measured
    none = recalibrate(nn.Linear(1, 1), [])
    assert none.lines == ['the network has no batch norms: nothing to recalibrate']


class Trained(nn.Module):
    """Three norms whose statistics, chosen at random, are constants in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm1 = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)
        rest = (nn.ReLU(), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4))
        self.layers = nn.Sequential(nn.ReLU(), nn.Identity(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), *rest)
        for norm in self.norms():
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.2, 3)
            nn.init.uniform_(norm.weight, 0.5, 2)

    def train(self, mode=True):
        super().train(mode)
        for norm in self.norms():
            norm.training = False
        return self

    def norms(self):
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def forward(self, x):
        return self.layers(self.norm1(self.conv1(x)))


def half_of(net, *edits):
    groups = [group for group in find_groups(net, data(2)[0]) if group.name == 'conv1.channels']
    structure = make_structure(net, groups, {'conv1.channels': [1, 4, 5]}, edits=edits)
    return structure, resize(net, structure)


def test_constants_do_to_the_values_what_they_did_before():
    net = Trained().eval()
    (x,) = data(8)
    edit = {'type': 'depth', 'layers': 'layers', 'num_layers': 7, 'kept': [0, 2, 3, 4, 5, 6]}
    structure, slim = half_of(net, edit)
    result = recalibrate(slim, batches_of(x), before=(net, structure))
    assert result.measured == result.matched == ['norm1', 'layers.2', 'layers.5'] and len(result.state) == 6
    assert 'statistics of 3 that training leaves alone (norm1 ...)' in result.lines[0]
    slim.load_state_dict(result.state, strict=False)
    with torch.no_grad():
        before, after = net(x), slim(x)
        stale = half_of(net, edit)[1](x)
    for moment in (torch.mean, torch.var):  # the last norm's output has the same ones in each channel
        torch.testing.assert_close(moment(after, (0, 2, 3)), moment(before, (0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert (stale.mean((0, 2, 3)) - before.mean((0, 2, 3))).abs().max() > 0.1
    # what passes through the first norm is what it was: so are its constants
    assert torch.allclose(slim.norm1.running_mean, net.norm1.running_mean[[1, 4, 5]], rtol=1e-6)
    assert torch.allclose(slim.norm1.running_var, net.norm1.running_var[[1, 4, 5]], rtol=1e-6)


def test_constants_stay_where_nothing_was_removed():
    net = Trained().eval()
    structure = make_structure(net, [], {})
    result = recalibrate(resize(net, structure), batches_of(*data(3, 4)), before=(net, structure))
    for name, value in result.state.items():
        torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(
        recalibrate(net, batches_of(*data(3, 4)), frozen=True).state['norm1.running_mean'], net.norm1.running_mean
    )


def test_constants_beside_norms_that_train():
    class Half(Trained):
        def train(self, mode=True):
            super().train(mode)
            self.layers[-1].training = mode
            return self

    net = Half().eval()
    structure, slim = half_of(net)
    result = recalibrate(slim, batches_of(*data(4)), before=(net, structure))
    assert (result.measured, result.matched) == (['norm1', 'layers.3', 'layers.6'], ['norm1', 'layers.3'])
    assert len(result.lines) == 2 and 'layers.6.num_batches_tracked' in result.state
    matched = {name: value for name, value in result.state.items() if not name.startswith('layers.6')}
    slim.load_state_dict(matched, strict=False)  # then what reaches the last one is what reached it in the measurement
    alone = recalibrate(slim, batches_of(*data(4))).state
    torch.testing.assert_close(result.state['layers.6.running_var'], alone['layers.6.running_var'], rtol=1e-3, atol=0)


def test_parts_that_the_model_itself_evaluates_do_not_count():
    class Video(nn.Module):
        """The first frame in evaluation mode, as video networks do with history."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            self.norm.eval()
            self.past = self.norm(x[:1])
            self.norm.train()
            return self.norm(x[1:])

    video, (x,) = Video(), data(4)
    video.norm.running_mean.fill_(2.0)
    expected = (x[:1] - 2) / (1 + 1e-5) ** 0.5
    pasts = []
    batch = lambda model: pasts.append((model(x), model.past)[1])  # noqa: E731
    result = recalibrate(video, [batch, batch])
    for past in pasts:  # it has the statistics that it had before
        torch.testing.assert_close(past, expected)
    torch.testing.assert_close(result.state['norm.running_mean'], x[1:].mean((0, 2, 3)))


def test_nothing_is_drawn_and_no_batches_are_a_mistake():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    recalibrate(nn.Sequential(nn.BatchNorm2d(4), nn.Dropout()), batches_of(*data(3)))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match='there are no batches'):
        recalibrate(nn.BatchNorm2d(4), [])


def of_config(folder):
    torch.manual_seed(0)
    cfg = Config(toy_config(folder, size=12, batch_size=3))
    return recalibrate(ToyNet(), loss_batches(cfg, 5, seed=1)).state


def save_state(rank, folder):
    """What each of the processes does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.save(of_config(folder), f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


def test_two_processes_measure_as_one(tmp_path):
    torch.multiprocessing.start_processes(save_state, (str(tmp_path),), nprocs=2, start_method='fork')
    expected = of_config(tmp_path)
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    assert expected.keys() == ranks[0].keys() and len(expected) == 6
    for name, value in expected.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        np.testing.assert_allclose(ranks[0][name], value, rtol=1e-6, err_msg=name)
