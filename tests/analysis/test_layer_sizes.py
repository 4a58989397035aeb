"""Layers and parts before and after: widths, and sums that are those of the whole network."""

import csv
import io

import pytest
import torch
from torch import nn

from vadslim.analysis import count, count_params
from vadslim.analysis.layer_sizes import layer_sizes, layers_and_parts, part_sizes, part_times, parts, to_csv


class Net(nn.Module):
    def __init__(self, width=8, ffn=12, layers=2):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.proj = nn.Linear(width, 6)
        self.query = nn.Embedding(5, 6)
        self.scale = nn.Parameter(torch.ones(6))
        self.head = nn.Module()
        self.head.attn = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(6, ffn), nn.ReLU(), nn.Linear(ffn, 6)) for _ in range(layers)
        )

    def forward(self, x):
        x = self.proj(self.stem(x).flatten(2).transpose(1, 2)) * self.scale
        x, _ = self.head.attn(self.query.weight[None], x, x)
        for layer in self.head.layers:
            x = x + layer(x)
        return x


def run(model):
    return model(torch.zeros(1, 3, 6, 6))


def without_first(name):
    """Where layers are after the first of two has left."""
    if name.startswith('head.layers.0'):
        return None
    return name.replace('head.layers.1', 'head.layers.0')


@pytest.fixture(scope='module')
def two():
    dense, slim = Net(), Net(6, 4, 1)
    return dense, slim, count(dense, run), count(slim, run)


def test_layers_by_hand(two):
    rows = {row.name: row for row in layer_sizes(*two, without_first)}
    conv, attn, gone, moved = (rows[n] for n in ('stem.0', 'head.attn', 'head.layers.0.0', 'head.layers.1.0'))
    assert (conv.kind, conv.width_in_before, conv.width_in_after) == ('Conv2d', 3, 3)
    assert (conv.width_out_before, conv.width_out_after, conv.changed) == (8, 6, True)
    assert (conv.params_before, conv.params_after) == (8 * 28, 6 * 28)
    assert (conv.macs_before, conv.macs_after) == (16 * 8 * 27, 16 * 6 * 27)
    assert (gone.width_in_after, gone.width_out_after, gone.params_after, gone.macs_after) == (0, 0, 0, 0)
    assert (moved.width_out_before, moved.width_out_after, moved.macs_after) == (12, 4, 5 * 6 * 4)
    assert attn.params_before == count_params(two[0].head.attn) and not attn.changed
    assert (rows['query'].width_in_before, rows['query'].width_out_before) == (5, 6)
    assert (rows[''].kind, rows[''].width_in_before, rows[''].width_out_before) == ('Net', None, 6)


def test_layers_and_parts_add_up_to_the_network(two):
    dense, slim, before, after = two
    rows = layer_sizes(*two, without_first)
    assert sum(row.params_before for row in rows) == before.params
    assert sum(row.params_after for row in rows) == after.params == count_params(slim)
    assert sum(row.macs_before or 0 for row in rows) == before.macs
    assert sum(row.macs_after or 0 for row in rows) == after.macs
    sizes = part_sizes(parts(before.modules), *two, slim_name=without_first)
    assert [sum(part.params[side] for part in sizes) for side in (0, 1)] == [before.params, after.params]
    assert [sum(part.macs[side] for part in sizes) for side in (0, 1)] == [before.macs, after.macs]


def test_all_at_once(two):
    layers, sizes = layers_and_parts(*two, run, 2, without_first)
    assert layers == layer_sizes(*two, without_first)
    assert {part.name for part in sizes} >= {'stem', 'proj', 'head.attn'}
    assert all(part.ms is not None for part in sizes) and sum(part.ms[0] for part in sizes) > 0
    bare = layers_and_parts(two[0], two[1], slim_name=without_first)[1]
    assert all(part.macs is None and part.ms is None for part in bare)
    assert sum(part.params[1] for part in bare) == count_params(two[1])


def test_a_tied_parameter_counts_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    rows = layer_sizes(model, model)
    assert [row.params_before for row in rows] == [20, 4] and rows[0].macs_before is None
    assert count_params(model) == 24


def test_what_is_big_is_divided_and_what_is_small_stays_with_it():
    modules = {
        '': (100, 0),
        'a': (10, 0),
        'b': (90, 0),
        'b.x': (50, 0),
        'b.y': (39, 0),
        'b.z': (1, 0),
        'b.x.1': (50, 0),
    }
    assert parts(modules, most=4, share=0.6) == ['a', 'b', 'b.x', 'b.y']
    assert parts(modules, most=3) == ['a', 'b', 'b.x']
    assert parts(modules, most=2) == ['a', 'b']
    assert parts(modules, share=0.95) == ['a', 'b']


def test_csv(two):
    rows = list(csv.DictReader(io.StringIO(to_csv(layer_sizes(two[0], two[1], slim_name=without_first)))))
    assert rows[1]['name'] == 'stem.0' and rows[1]['params_after'] == str(6 * 28)
    assert rows[1]['macs_before'] == '' and rows[0]['width_in_before'] == ''


class Slow(nn.Module):
    clock = 0.0

    def __init__(self, seconds, inner=None):
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self, x):
        Slow.clock += self.seconds
        return x if self.inner is None else self.inner(x)


def test_time_counts_in_the_innermost_part(monkeypatch):
    monkeypatch.setattr('vadslim.analysis.layer_sizes.now', lambda device: Slow.clock)
    model = nn.Sequential(Slow(0.01), Slow(0.03, nn.ModuleDict({'x': Slow(0.05)})['x']))
    times = part_times(
        model, lambda m: m(1), ['1', '1.inner', 'gone'], 2, lambda name: None if name == 'gone' else name
    )
    assert times['gone'] == 0
    for name, ms in (('', 10), ('1', 30), ('1.inner', 50)):
        assert times[name] == pytest.approx(ms), times
    assert not model[0]._forward_hooks and not model[1]._forward_pre_hooks
    with pytest.raises(ValueError, match='at least 1'):
        part_times(model, lambda m: m(1), [], 0)
