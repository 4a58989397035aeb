"""Tables of layer times: what is measured, smoothed, kept and read again."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.analysis import LatencyTable, LatencyTableError
from vadslim.analysis.latency_table import Grid, fastest, monotone
from vadslim.analysis.layers import is_layer, read_call, stand_in, widths_of

LAYERS = {
    'conv2d': (nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), (2, 16, 9, 12)),
    'depthwise': (nn.Conv2d(16, 16, 3, padding='same', groups=16), (2, 16, 9, 12)),
    'grouped': (nn.Conv2d(16, 32, 3, groups=4), (2, 16, 9, 12)),
    'conv1d': (nn.Conv1d(16, 24, 5, dilation=2), (2, 16, 30)),
    'deconv2d': (nn.ConvTranspose2d(16, 24, 2, stride=2), (2, 16, 9, 12)),
    'linear': (nn.Linear(16, 24), (2, 5, 16)),
    'norm2d': (nn.BatchNorm2d(16).eval(), (2, 16, 9, 12)),
    'layer_norm': (nn.LayerNorm(16), (2, 5, 16)),
}


@pytest.mark.parametrize('kind', LAYERS)
def test_a_stand_in_does_the_layers_work(kind):
    layer, shape = LAYERS[kind]
    x = torch.zeros(shape)
    assert is_layer(layer)
    call = read_call(layer, (x,), {})
    assert (call.width_in, call.width_out) == (16, layer(x).shape[-1 if x.dim() == 3 and 'conv' not in kind else 1])
    module, given = stand_in(call, call.width_in, call.width_out)
    assert type(module) is type(layer) and module(given).numel() == layer(x).numel()
    assert [p.shape for p in module.parameters()] == [p.shape for p in layer.parameters()]
    half, given = stand_in(call, 8, call.width_out // 2)
    assert half(given).numel() == layer(x).numel() // 2
    if call.kind != 'conv1d':
        assert module.training == layer.training or not call.kind.startswith('norm')


def test_layers_read_by_keyword_and_in_other_formats():
    layer, shape = LAYERS['conv2d']
    x = torch.zeros(shape)
    assert read_call(layer, (), {'input': x}) == read_call(layer, (x,), {})
    other = read_call(layer, (x.contiguous(memory_format=torch.channels_last),), {})
    assert other != read_call(layer, (x,), {})
    assert not stand_in(other, 16, 24)[1].is_contiguous()
    assert read_call(layer, (3,), {}) is None
    assert not is_layer(nn.ReLU()) and not is_layer(nn.LayerNorm(4, elementwise_affine=False))


@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('need_weights', [True, False])
def test_attention(batch_first, need_weights):
    layer = nn.MultiheadAttention(16, 4, batch_first=batch_first)
    q, k = torch.zeros(2, 5, 16), torch.zeros(2, 7, 16)
    if not batch_first:
        q, k = q.transpose(0, 1), k.transpose(0, 1)
    call = read_call(layer, (q, k, k), {'need_weights': need_weights})
    sizes = json.loads(call.sizes)
    assert sizes == dict(batch=2, queries=5, keys=7, head_width=4, weights=need_weights)
    assert (call.width_in, call.width_out, call.step) == (16, 16, 4)
    module, x = stand_in(call, 12, 8)
    assert module(x).shape == (2, 5, 12) and module.heads == 2
    assert read_call(layer, (q, k), {'value': k, 'need_weights': need_weights}) == call


def test_where_widths_stand():
    def sizes(module):
        widths = widths_of(module)
        return tuple(
            module.get_parameter(name).shape[dim]
            for name, dim in ((widths.tensor_in, widths.dim_in), (widths.tensor_out, widths.dim_out))
        )

    assert {kind: sizes(layer) for kind, (layer, _) in LAYERS.items()} == {
        'conv2d': (16, 24),
        'depthwise': (16, 16),
        'grouped': (32, 32),
        'conv1d': (16, 24),
        'deconv2d': (16, 24),
        'linear': (16, 24),
        'norm2d': (16, 16),
        'layer_norm': (16, 16),
    }


def test_isotonic_regression():
    assert monotone(np.array([[1.0, 3, 2, 2, 9]])).tolist() == [[1, 7 / 3, 7 / 3, 7 / 3, 9]]
    rising = np.add.outer([1.0, 2, 5], [0.0, 1, 7])
    assert np.array_equal(monotone(rising), rising)
    rng = np.random.default_rng(0)
    noisy = rising + rng.normal(0, 3, rising.shape)
    smooth = monotone(noisy)
    assert (np.diff(smooth, axis=0) >= 0).all() and (np.diff(smooth, axis=1) >= 0).all()
    distance = np.square(noisy - smooth).sum()
    for _ in range(300):  # no rising table nearby is nearer
        other = smooth + rng.normal(0, 0.3, smooth.shape)
        other = np.maximum.accumulate(np.maximum.accumulate(other, 0), 1)
        assert np.square(noisy - other).sum() > distance - 1e-6


def test_bilinear_and_held_at_the_border():
    grid = Grid(np.array([2, 4]), np.array([10, 20, 40]), np.array([[1.0, 2, 3], [5, 6, 9]]))
    assert grid.at(2, 10) == 1 and grid.at(4, 40) == 9
    assert grid.at(3, 10) == 3 and grid.at(2, 30) == 2.5 and grid.at(3, 30) == 5
    assert grid.at(1, 5) == 1 and grid.at(9, 99) == 9


def test_fastest(monkeypatch):
    """The call before does not count, and quick ones are repeated until there are 20 ms of them."""
    seconds, naps = [0.0], iter([1, 30, 4, 30, 2])
    monkeypatch.setattr('time.perf_counter', lambda: seconds[0])

    def run():
        seconds[0] += next(naps) / 1000

    assert fastest(run, 3) == pytest.approx(4)
    naps = iter([5, 8, 8, 8, 8, 3])
    assert fastest(run, 1) == pytest.approx(8)


@pytest.fixture
def times(monkeypatch):
    """Takes the measuring out of tables; the widths that were asked for."""
    asked = []

    def time(self, call, width_in, width_out):
        asked.append((width_in, width_out))
        return 0.1 + width_in * width_out / 100

    monkeypatch.setattr(LatencyTable, '_time', time)
    return asked


def call_of(kind):
    layer, shape = LAYERS[kind]
    return read_call(layer, (torch.zeros(shape),), {})


def test_measured_once_then_read(tmp_path, times):
    path = tmp_path / 'new' / 'table.json'
    table = LatencyTable(path)
    grid = table.grid(call_of('conv2d'))
    assert grid.widths_in.tolist() == [2, 4, 8, 12, 16] and grid.widths_out.tolist() == [3, 6, 12, 18, 24]
    assert len(times) == 25 and table.measured == 1
    assert grid.at(8, 12) == pytest.approx(0.1 + 0.96)
    table.grid(call_of('depthwise'))
    assert times[25:] == [(2, 2), (4, 4), (8, 8), (12, 12), (16, 16)]
    table.grid(call_of('grouped'))
    assert times[30:] == [(2, 4), (4, 8), (8, 16), (12, 24), (16, 32)]
    again = LatencyTable(path)
    assert np.array_equal(again.grid(call_of('conv2d')).ms, grid.ms)
    assert again.measured == 0 and len(times) == 35


def test_machines_and_other_writers_are_kept_apart(tmp_path, times):
    path, threads = tmp_path / 'table.json', torch.get_num_threads()
    one, other = LatencyTable(path), LatencyTable(path)
    one.grid(call_of('linear'))
    other.grid(call_of('norm2d'))  # does not know what `one` wrote
    torch.set_num_threads(threads + 1)
    try:
        many = LatencyTable(path)
        many.grid(call_of('linear'))
        assert many.measured == 1 and many.machine != one.machine
    finally:
        torch.set_num_threads(threads)
    both = LatencyTable(path)
    both.grid(call_of('linear')), both.grid(call_of('norm2d'))
    assert both.measured == 0
    half = LatencyTable(path, dtype=torch.bfloat16)
    half.grid(call_of('linear'))
    assert half.measured == 1


def test_an_interrupted_measurement_keeps_what_is_done(tmp_path, times, monkeypatch):
    path = tmp_path / 'table.json'
    table = LatencyTable(path)
    table.grid(call_of('linear'))
    monkeypatch.setattr(LatencyTable, '_time', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        table.grid(call_of('conv2d'))
    assert [entry.name for entry in tmp_path.iterdir()] == ['table.json']
    assert LatencyTable(path).grid(call_of('linear')).ms.shape == (5, 5)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '{"format": 2, "tables": {}}',
        '{"format": 1}',
        '{"format": 1, "tables": {"m": {"k": {"in": [1], "out": [1, 2], "ms": [[1]]}}}}',
        '{"format": 1, "tables": {"m": {"k": {"in": [1], "out": [1], "ms": [["a"]]}}}}',
        '{"format": 1, "tables": {"m": {"k": {"in": [1], "out": [1], "ms": [[-1]]}}}}',
    ],
)
def test_other_files_are_refused_and_left_alone(text, tmp_path):
    path = tmp_path / 'table.json'
    path.write_text(text)
    with pytest.raises(LatencyTableError, match='table.json: not a table of this version') as caught:
        LatencyTable(path)
    assert path.read_text() == text and '\n' not in str(caught.value)


def test_backends(monkeypatch):
    with pytest.raises(LatencyTableError, match="backend 'tensorrt' is not known; there are pytorch, onnxruntime"):
        LatencyTable(backend='tensorrt')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(LatencyTableError, match=r'ONNX Runtime is not installed .*pip install onnxruntime'):
        LatencyTable(backend='onnxruntime')


@pytest.mark.parametrize('backend', ['pytorch', 'onnxruntime'])
@pytest.mark.parametrize('kind', ['conv2d', 'grouped', 'linear', 'norm2d', 'layer_norm', 'attention'])
def test_really_measured(backend, kind):
    if backend == 'onnxruntime':
        pytest.importorskip('onnxruntime')
        pytest.importorskip('onnx')
    table = LatencyTable(backend=backend, repeats=1)
    if kind == 'attention':
        x = torch.zeros(2, 5, 16)
        call = read_call(nn.MultiheadAttention(16, 2, batch_first=True), (x, x, x), {})
    else:
        call = call_of(kind)
    assert 0 < table._time(call, call.width_in, call.width_out) < 1000
