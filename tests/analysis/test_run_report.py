"""What one forward costs, module by module, on a network whose figures are known."""

import json

import pytest
import torch
from torch import nn

from vadslim.analysis.example import Change, Example
from vadslim.analysis.latency import Latency
from vadslim.analysis.run_report import Collected, collect, compute, timed_modules

LINEAR = 3 * 4 * 4  # MACs of a layer on three rows
DIFFERENCE = 1000


class Stack(nn.Module):
    """Layers that are called one by one, by a method; the stack itself is not."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2))

    def apply_all(self, x):
        for layer in self.layers:
            x = layer(x)
        return x @ x.T  # the caller's


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stack = nn.Linear(4, 4), Stack()
        self.table, self.spare = nn.Embedding(3, 4), nn.Linear(2, 2)

    def forward(self, x):
        return self.stack.apply_all(self.stem(self.stem(x)) + self.table.weight)


def example(**options):
    return Example(lambda m: m(torch.zeros(3, 4)), '3 x 4', **options)


def otherwise(model, counted):
    assert counted.macs == 4 * LINEAR + 9 * 4
    return [
        Change('stack.layers.0', 'more', DIFFERENCE, 7),
        Change('stack.layers.1', 'more', DIFFERENCE),
        Change('stem', 'less', -LINEAR),
    ]


PARTS = {'front': ['st?m'], 'layers': ['stack.layers.*', 'table']}


@pytest.fixture(scope='module')
def report():
    made = example(parts=PARTS, alternatives={'as another': otherwise})
    return compute(collect(Net().eval(), made, repeats=2), settings={'config': 'net.py'})


def rows(found):
    return {row.name: row for row in found}


def test_modules_hold_what_is_below_them(report):
    found = rows(report.modules)
    assert list(found) == ['stem', 'stack', 'stack.layers', 'stack.layers.0', 'stack.layers.1', 'table', 'spare']
    assert (found['stem'].params, found['stem'].macs, found['stem'].calls) == (20, 2 * LINEAR, 2)
    assert found['stack'].macs == 2 * LINEAR and found['stack'].calls == 0
    assert found['stack'].activations == 2 * 12 and found['stack'].kind == 'Stack'
    assert report.total.macs == 4 * LINEAR + 36 and report.total.activations == 4 * 12 + 9
    assert report.total.params == 20 * 3 + 12 + 6
    assert report.unread == {'spare.weight': 4, 'spare.bias': 2}


def test_times_of_what_is_not_called_are_those_of_what_is(report):
    found = rows(report.modules)
    layers = found['stack.layers.0'].ms + found['stack.layers.1'].ms
    assert found['stack'].ms == found['stack.layers'].ms == pytest.approx(layers) and layers > 0
    assert found['table'].ms is None and found['spare'].ms is None
    assert found['stem'].share == pytest.approx(found['stem'].ms / report.total.ms)
    assert report.latency['repeats'] == 2 and 'modules' not in report.latency


def test_parts_and_the_rest_add_up(report):
    found = rows(report.parts)
    assert list(found) == ['front', 'layers', 'other']
    assert [found[name].macs for name in found] == [2 * LINEAR, 2 * LINEAR, 36]
    assert [found[name].params for name in found] == [20, 40 + 12, 6]
    assert sum(row.activations for row in report.parts) == report.total.activations


def test_alternatives(report):
    other = report.alternatives['as another']
    assert (other.macs, other.sampling_macs) == (report.total.macs + 2 * DIFFERENCE - LINEAR, 7)
    assert other.differences == [('more', 2 * DIFFERENCE, 7), ('less', -LINEAR, 0)]
    assert rows(report.modules)['stack'].alternatives == {'as another': 2 * LINEAR + 2 * DIFFERENCE}
    assert rows(report.parts)['front'].alternatives == {'as another': LINEAR}
    assert report.total.alternatives == {'as another': other.macs}


def test_only_what_is_needed_is_timed():
    names = ['', 'a', 'a.b', 'a.b.0', 'a.b.0.c', 'a.b.1', 'd', 'd.e', 'f', 'f.g']
    calls = {'a.b.0': 1, 'a.b.0.c': 2, 'a.b.1': 1, 'd': 1, 'd.e': 1}
    assert timed_modules(names, calls, {}, 1) == ['a.b.0', 'a.b.1', 'd']
    assert timed_modules(names, calls, {}, 2) == ['a.b.0', 'a.b.1', 'd', 'd.e']
    assert timed_modules(names, calls, {'part': ['*.c', 'd.*']}, 1) == ['a.b.0', 'a.b.0.c', 'a.b.1', 'd', 'd.e']


def test_depth_and_no_times():
    found = compute(collect(Net().eval(), example(), depth=1), depth=1)
    assert list(rows(found.modules)) == ['stem', 'stack', 'table', 'spare']
    assert found.latency is None and found.total.ms is None and found.modules[0].share is None
    assert found.parts == [] and found.alternatives == {}


def test_json_holds_everything(report):
    data = json.loads(json.dumps(report.to_dict()))
    assert data['modules'][0]['alternatives'] == {'as another': LINEAR}
    assert data['alternatives']['as another']['differences'][0] == ['more', 2 * DIFFERENCE, 7]
    assert data['settings'] == {'config': 'net.py'} and data['latency']['threads'] >= 1


def test_compute_runs_nothing():
    counted = collect(Net().eval(), example()).complexity
    latency = Latency(8.0, 8.0, 8.0, 1, 0, 1, 'cpu', {'stem': 2.0})
    sizes = {'spare.weight': 4, 'spare.bias': 2}
    collected = Collected(counted, {'': 'Net', 'stem': 'Linear'}, sizes, {'front': ['stem']}, {}, latency, '')
    found = compute(collected)
    assert [(row.ms, row.share) for row in found.modules] == [(2.0, 0.25)]
    assert [(row.name, row.ms) for row in found.parts] == [('front', 2.0), ('other', 6.0)]
