"""Latency: what is timed, how often, and under which names."""

import time

import pytest
import torch
from torch import nn

from vadslim.analysis.latency import measure, measure_in_turn, measure_modules


def test_median_of_the_timed_calls_only():
    naps = iter([0.05, 0.001, 0.02, 0.004])
    calls = []

    def run():
        assert not torch.is_grad_enabled()
        nap = next(naps)
        calls.append(nap)
        time.sleep(nap)

    latency = measure(run, repeats=3, warmup=1)
    assert len(calls) == 4 and latency.repeats == 3
    assert 1 <= latency.min_ms <= latency.median_ms < 20 <= latency.max_ms < 50
    assert latency.threads == torch.get_num_threads() and 'cpu' in latency.device
    assert 'thread' in latency.where


def test_in_turn():
    calls = []
    a, b = measure_in_turn([lambda: calls.append('a'), lambda: (calls.append('b'), time.sleep(0.002))], 2, 1)
    assert calls == ['a', 'b'] * 3 and a.median_ms < 2 <= b.median_ms


@pytest.mark.parametrize('repeats, warmup', [(0, 1), (3, -1)])
def test_impossible_numbers(repeats, warmup):
    with pytest.raises(ValueError, match='at least'):
        measure(lambda: None, repeats, warmup)


class Slow(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def test_modules_are_summed_over_their_calls():
    model = nn.Sequential(Slow(0.01), Slow(0.003), nn.Identity(), nn.Identity())
    model.register_module('unused', Slow(0.5))
    del model._modules['unused']
    model[3].never = Slow(0.5)

    def run(m):
        m[1](m[0](m[0](torch.zeros(1))))

    latency = measure_modules(model, run, ['0', '1', '3.never'], repeats=2, warmup=1)
    assert 20 <= latency.modules['0'] < 40 and 3 <= latency.modules['1'] < 15
    assert latency.modules['3.never'] == 0
    assert latency.median_ms >= latency.modules['0'] + latency.modules['1'] - 1
    assert not any(m._forward_hooks for m in model.modules())


def test_unknown_module():
    with pytest.raises(ValueError, match="no module named 'x'"):
        measure_modules(nn.Identity(), lambda m: None, ['x'])
