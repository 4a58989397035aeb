"""Where the time of a forward goes, and what is predicted of a slim network's."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.analysis import LatencyTable, LayerTimes
from vadslim.analysis.latency_table import Grid
from vadslim.analysis.layer_times import timeline
from vadslim.pruning import StructuredPruner, find_groups
from vadslim.pruning.structure import check_kept, removed_positions
from vadslim.testing import ToyNet, toy_frames


class Clock:
    """Time passes only where a layer says so."""

    def __init__(self, monkeypatch):
        self.seconds = 0.0
        for module in ('latency', 'layer_times'):
            monkeypatch.setattr(f'vadslim.analysis.{module}.now', lambda device: self.seconds)

    def spend(self, ms):
        self.seconds += ms / 1000


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Timed(nn.Linear):
    def __init__(self, width_in, width_out, clock, ms):
        super().__init__(width_in, width_out)
        self.clock, self.ms = clock, ms

    def forward(self, x):
        self.clock.spend(self.ms)
        return super().forward(x)


class Net(nn.Module):
    """1 ms, a (10 ms), 4 ms, b (20 ms) twice, 2 ms after each."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.a, self.b, self.unused = (Timed(8, 8, clock, ms) for ms in (10, 20, 99))

    def forward(self, x):
        self.clock.spend(1)
        x = self.a(x)
        self.clock.spend(4)
        for _ in range(2):
            x = self.b(x).relu()
            self.clock.spend(2)
        return x


def run(model):
    return model(torch.zeros(3, 8))


def test_a_timeline_adds_up(clock):
    times = timeline(Net(clock), run, repeats=3)
    assert times.before == pytest.approx(1) and times.total.median_ms == pytest.approx(59)
    assert times.own == {'a': pytest.approx(10), 'b': pytest.approx(40)}
    assert times.after == {'a': pytest.approx(4), 'b': pytest.approx(4)}
    assert [(name, list(calls.values())) for name, calls in times.calls.items()] == [('a', [1]), ('b', [2])]


def test_hooks_are_gone_and_errors_pass(clock):
    net = Net(clock)

    def fail(model):
        run(model)
        raise RuntimeError('no')

    with pytest.raises(RuntimeError, match='no'):
        timeline(net, fail)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_layers_inside_layers_are_theirs(clock):
    class Outer(Timed):
        def __init__(self):
            super().__init__(8, 8, clock, 5)
            self.inner = Timed(8, 8, clock, 3)

        def forward(self, x):
            return super().forward(self.inner(x))

    times = timeline(nn.Sequential(Outer()), run)
    assert times.own == {'0': pytest.approx(8)}


class Product:
    """A table in which time is proportional to the product of the widths."""

    backend = 'pytorch'

    def __init__(self):
        self.calls = []

    def knows(self, call):
        return (call.width_in, call.width_out) == (9, 9)

    def grid(self, call):
        self.calls.append(call)
        ins, outs = np.arange(call.width_in + 1), np.arange(call.width_out + 1)
        return Grid(ins, outs, np.outer(ins, outs) * 0.5)


def test_predictions(clock):
    table = Product()
    cost = LayerTimes(Net(clock), run, table)
    assert cost.dense == cost({}) == pytest.approx(59)
    assert len(table.calls) == 1  # a and b are calls alike
    removed = {'a.weight': {0: np.array([0, 5])}, 'b.weight': {1: np.array([0, 5])}}
    assert cost(removed) == pytest.approx(1 + (10 + 4) * 0.75 + 40 * 0.75 + 4)
    assert cost.layers(removed) == {'a': pytest.approx(10.5), 'b': pytest.approx(34)}
    both = {'b.weight': {0: np.arange(4), 1: np.arange(4)}}
    assert cost(both) == pytest.approx(1 + 14 + 40 * 0.25 + 4 * 0.5)
    assert cost.check(Net(clock)) == pytest.approx(59) and cost.tolerance == 0.05
    assert cost.check(nn.Sequential(Timed(8, 8, clock, 5.9))) == pytest.approx(5.9)
    assert cost.show(49.04) == '49.0 ms'


def test_small_layers_are_not_measured_but_scaled(clock):
    net = nn.Sequential(Timed(8, 8, clock, 99.5), Timed(8, 8, clock, 0.3), nn.BatchNorm1d(8), Timed(8, 4, clock, 0.2))
    table = Product()
    cost = LayerTimes(net.eval(), run, table)
    assert [(call.width_in, call.width_out) for call in table.calls] == [(8, 8)]
    half = np.arange(4)
    removed = {'3.weight': {1: half}, '2.weight': {0: half}, '1.weight': {0: half}}
    assert cost(removed) == pytest.approx(99.5 + 0.15 + 0.1)


def test_small_layers_that_were_measured_before_are_looked_up(clock):
    net = nn.Sequential(Timed(8, 9, clock, 99.5), Timed(9, 9, clock, 0.1))
    table = Product()
    LayerTimes(net, run, table)
    assert [(call.width_in, call.width_out) for call in table.calls] == [(8, 9), (9, 9)]


def test_progress_is_told(clock):
    told = []
    LayerTimes(Net(clock), run, Product(), progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 1)]


def test_onnx_runtime_sums_its_layers(clock):
    table = Product()
    table.backend = 'onnxruntime'
    cost = LayerTimes(Net(clock), run, table)
    assert cost.dense == 32 + 2 * 32 and cost.tolerance is None
    assert cost({'b.weight': {0: np.arange(4)}}) == 32 + 2 * 16


def test_a_latency_target_on_a_real_network(tmp_path):
    """Whatever the times are on this machine, the search ends where the prediction says."""
    model, images = ToyNet(16, 32, 64).eval(), toy_frames()
    groups = find_groups(model, images)
    table = LatencyTable(tmp_path / 'table.json', repeats=1)
    cost = LayerTimes(model, lambda m: m(images), table, repeats=1)
    cost.tolerance = None  # what a trial says on a busy machine is not for a test
    assert cost.dense == pytest.approx(cost.timeline.total.median_ms) and table.measured > 0
    kept = StructuredPruner(0.6).plan(model, groups)
    least = cost(removed_positions(groups, check_kept(groups, kept)))
    goal = (least + cost.dense) / 2
    found = StructuredPruner().search(model, groups, cost, f'{goal:.9f}ms')
    assert least <= found.predicted <= goal * 1.000001 < cost.dense and 0 < found.ratio <= 0.6
    assert cost.check(model) > 0
    with pytest.raises(ValueError, match='target latency: 1us cannot be reached: ratios from 0 to 0.9999 give .* ms'):
        StructuredPruner().search(model, groups, cost, '1us')
