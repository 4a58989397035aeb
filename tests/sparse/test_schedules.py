"""Lambda over a level: by hand, and as RSST's public code computes it."""

import math

import pytest
import torch

from vadslim.sparse import (
    SCHEDULES,
    SparseError,
    check_stable,
    dynamic_scale,
    level_progress,
    penalty_factor,
    upstream_factor,
)

E = math.e


@pytest.mark.parametrize(
    ('schedule', 'half'),
    [
        ('x', 0.5),
        ('x^2', 0.25),
        ('x^3', 0.125),
        ('exp', (E**2.5 - 1) / (E**5 - 1)),
        ('exp_custom', (E**0.5 - 1) / (E - 1)),
        ('exp_custom_exponents', (E ** (1 / 16) - 1) / (E - 1)),
    ],
)
def test_curves(schedule, half):
    curve = [penalty_factor(schedule, step / 100) for step in range(101)]
    assert (curve[0], curve[50], curve[100]) == (0, pytest.approx(half, rel=1e-12), pytest.approx(1, rel=1e-12))
    assert all(a < b for a, b in zip(curve, curve[1:]))
    assert penalty_factor(schedule, 0.5, granularity=0.1) == pytest.approx(half / 10, rel=1e-12)
    assert penalty_factor(schedule, 1, granularity=2, ceiling=1.5) == 1.5
    assert set(SCHEDULES) == {'x', 'x^2', 'x^3', 'exp', 'exp_custom', 'exp_custom_exponents'}


def test_exponents_and_progress():
    assert penalty_factor('exp_custom_exponents', 0.5, exponents=2) == pytest.approx((E**0.25 - 1) / (E - 1))
    assert penalty_factor('exp_custom_exponents', 0.3, exponents=1) == penalty_factor('exp_custom', 0.3)
    assert level_progress(0, 0, 80, 352) == 1 / (80 * 352)
    assert level_progress(40, 175, 80, 352) == pytest.approx(0.50625, abs=1e-12)
    assert level_progress(79, 351, 80, 352) == 1


@pytest.mark.parametrize(
    ('batches', 'plain', 'fourth'), [(16, 0.0375, 8.9e-6), (352, 1.66e-3, 3.8e-11), (391, 1.5e-3, 2.5e-11)]
)
def test_upstream_updates_in_the_first_batch_alone(batches, plain, fourth):
    """g = 1: what the public code's default settings amount to."""
    for epoch, batch in [(0, 0), (0, batches - 1), (119, 5)]:
        assert upstream_factor('exp_custom', epoch, batch, batches) == pytest.approx(plain, rel=0.02)
        assert upstream_factor('exp_custom_exponents', epoch, batch, batches) == pytest.approx(fourth, rel=0.02)


def test_upstream_counts_epochs():
    """g = 1: x is the number of the epoch, and 120 epochs end at 120^2, 120^3 and e^120."""
    assert [upstream_factor('x', epoch, 7, 16) for epoch in (0, 1, 119)] == [1, 2, 120]
    assert upstream_factor('x^2', 119, 0, 16) == 14400
    assert upstream_factor('x^3', 119, 0, 16) == 1728000
    assert upstream_factor('exp', 0, 0, 16) == pytest.approx(E)
    assert upstream_factor('exp', 119, 15, 16) == pytest.approx(E**120)
    assert upstream_factor('exp', 999, 0, 16) == math.inf


def loop(schedule, epochs, batches, g, exponents):
    """The public code's state machine: yields lambda after each batch."""
    factor, updates = 0.0, 0
    for _ in range(epochs):
        for i in range(batches):
            if g * i < 1:
                updates += 1
                factor = {
                    'x': g * updates,
                    'x^2': (g * updates) ** 2,
                    'x^3': (g * updates) ** 3,
                    'exp': E ** (g * updates),
                    'exp_custom': g / (E - 1) * (E ** ((i + 1) / batches) - 1),
                    'exp_custom_exponents': g / (E - 1) * (E ** (((i + 1) / batches) ** exponents) - 1),
                }[schedule]
            yield factor


@pytest.mark.parametrize('granularity', [0.05, 0.1, 0.3, 0.19999999999999998, 0.5, 1 / 49, 1.0, 2.0])
@pytest.mark.parametrize('schedule', list(SCHEDULES))
def test_upstream_is_the_state_machine(schedule, granularity):
    """Also where the gate is open all epoch (g 0.05, 16 batches) or where 49 * (1 / 49) < 1."""
    for batches in (16, 52):
        expected = list(loop(schedule, 3, batches, granularity, 2))
        got = [upstream_factor(schedule, e, i, batches, granularity, 2) for e in range(3) for i in range(batches)]
        assert got == pytest.approx(expected, rel=1e-9)


def test_dynamic_lambda():
    assert [dynamic_scale(1.0, accuracy, 90.0) for accuracy in (89.9, 90.0, 91.0)] == [0.5, 1.0, 1.0]
    assert dynamic_scale(0.5, 10, 20) == 0.25


@pytest.mark.parametrize(('momentum', 'nesterov'), [(0.0, False), (0.9, False), (0.9, True)])
def test_stability_bound_is_where_sgd_turns(momentum, nesterov):
    """A weight under lambda alone: just below the bound it dies out, just above it grows."""
    lr, decay = 0.1, 0.5
    bound = 2 * (1 + momentum) / (2.8 if nesterov else 1) / lr - decay

    def after(factor):
        weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
        for _ in range(1500):
            weight.grad = factor * weight.detach()
            optimizer.step()
        return abs(weight.item())

    check_stable(bound * 0.99, lr, momentum, decay, nesterov)
    assert after(bound * 0.99) < 1e-3
    with pytest.raises(SparseError, match='SGD diverges'):
        check_stable(bound * 1.01, lr, momentum, decay, nesterov)
    assert after(bound * 1.01) > 1e3
    check_stable(1e9, 0.0)
    with pytest.raises(SparseError):
        check_stable(math.nan, lr)


def test_settings_that_cannot_be():
    for call in (
        lambda **k: penalty_factor(progress=0.5, **k),
        lambda **k: upstream_factor(epoch=0, batch=0, batches=4, **k),
    ):
        with pytest.raises(SparseError, match="'x^4' is not known; there are x, x.2".replace('^', r'\^')):
            call(schedule='x^4')
        for value in (0, -1, math.nan, math.inf):
            with pytest.raises(SparseError, match='granularity is'):
                call(schedule='x', granularity=value)
            with pytest.raises(SparseError, match='exponents is'):
                call(schedule='x', exponents=value)
    for progress in (-0.1, 1.1, math.nan):
        with pytest.raises(SparseError, match='progress is'):
            penalty_factor('x', progress)
    with pytest.raises(SparseError, match='ceiling of lambda'):
        penalty_factor('x', 1, ceiling=math.inf)
