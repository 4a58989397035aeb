"""Latency: what is timed, how often, and under which names. The clock stands still but for what the toys take."""

import time

import pytest
import torch
from torch import nn

from vadslim.analysis import latency
from vadslim.analysis.latency import measure, measure_in_turn, measure_modules


class Clock:
    """Seconds that pass only when somebody takes them."""

    def __init__(self):
        self.seconds = 0.0

    def take(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, 'now', lambda device: clock.seconds)
    return clock


def test_median_of_the_timed_calls_only(clock):
    naps = iter([5.0, 0.001, 0.02, 0.004])

    def run():
        assert not torch.is_grad_enabled()
        clock.take(next(naps))

    timed = measure(run, repeats=3, warmup=1)
    assert next(naps, None) is None
    assert (timed.min_ms, timed.median_ms, timed.max_ms) == pytest.approx((1, 4, 20))
    assert (timed.repeats, timed.warmup, timed.threads) == (3, 1, torch.get_num_threads())
    assert 'cpu' in timed.device
    assert 'thread' in timed.where


def test_the_clock_on_the_wall():
    assert 2 <= measure(lambda: time.sleep(0.002), repeats=1).median_ms < 10_000


def test_in_turn(clock):
    calls = []
    one, other = measure_in_turn(
        [lambda: (calls.append('a'), clock.take(0.001)), lambda: (calls.append('b'), clock.take(0.002))], 2, 1
    )
    assert calls == ['a', 'b'] * 3
    assert (one.median_ms, other.median_ms) == pytest.approx((1, 2))


@pytest.mark.parametrize('repeats, warmup', [(0, 1), (3, -1)])
def test_impossible_numbers(repeats, warmup):
    with pytest.raises(ValueError, match='at least'):
        measure(lambda: None, repeats, warmup)


class Slow(nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock.take(self.seconds)
        return x


def test_modules_are_summed_over_their_calls(clock):
    model = nn.Sequential(Slow(clock, 0.01), Slow(clock, 0.003), nn.Identity())
    model[2].never = Slow(clock, 0.5)

    def run(m):
        m[1](m[0](m[0](torch.zeros(1))))
        clock.take(0.1)

    timed = measure_modules(model, run, ['0', '1', '2.never'], repeats=2, warmup=1)
    assert timed.modules == pytest.approx({'0': 20, '1': 3, '2.never': 0})
    assert timed.median_ms == pytest.approx(123)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_unknown_module():
    with pytest.raises(ValueError, match="no module named 'x'"):
        measure_modules(nn.Identity(), lambda m: None, ['x'])
