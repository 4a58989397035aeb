"""Targets: reading them, the ratio that reaches them, and what is said of those out of reach."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.analysis import Macs, Params, count, count_params
from vadslim.pruning import (
    Group,
    OutOfReachError,
    Slice,
    StructuredPruner,
    TargetError,
    blocks,
    find_groups,
    make_structure,
    parse_goal,
    resize,
    savings,
    search,
    solve,
)
from vadslim.testing import ToyNet, toy_frames

COUNTS = {'k': 1e3, 'M': 1e6, 'G': 1e9}
TIMES = {'us': 1e-3, 'ms': 1.0, 's': 1e3}


@pytest.mark.parametrize(
    ('goal', 'units', 'value'),
    [
        (0.5, COUNTS, 100e9),
        ('0.5', COUNTS, 100e9),
        ('.25', COUNTS, 50e9),
        ('50%', COUNTS, 100e9),
        ('80G', COUNTS, 80e9),
        ('80 G', COUNTS, 80e9),
        ('1.5e3M', COUNTS, 1.5e9),
        (1, COUNTS, 200e9),
        ('1e-1', COUNTS, 20e9),
        ('33ms', TIMES, 33),
        ('0.2s', TIMES, 200),
        ('900us', TIMES, 0.9),
    ],
)
def test_goals(goal, units, value):
    assert parse_goal(goal, 200e9, units) == pytest.approx(value)


@pytest.mark.parametrize(
    ('goal', 'units'),
    [
        ('half', COUNTS), (80, COUNTS), ('80', COUNTS), ('80g', COUNTS), ('33ms', COUNTS), ('80G', TIMES),
        ('110%', COUNTS), (-0.5, COUNTS), (0, COUNTS), ('0G', COUNTS), (float('nan'), COUNTS), (float('inf'), COUNTS),
        (True, COUNTS), (None, COUNTS), ('', COUNTS), ('1.5', COUNTS), ('5 %%', COUNTS),
    ],
)  # fmt: skip
def test_what_is_no_goal(goal, units):
    with pytest.raises(TargetError, match='is no target'):
        parse_goal(goal, 200e9, units)


def staircase(ratio):
    """100 units in steps of 8."""
    return {'g': list(range(min(100, -(-(100 - int(ratio * 100 + 1e-6)) // 8) * 8)))}


def test_solve_finds_the_first_step_that_is_low_enough():
    ratio, kept = solve(staircase, lambda kept: len(kept['g']), 55)
    assert (ratio, len(kept['g'])) == (0.52, 48)
    assert solve(staircase, lambda kept: len(kept['g']), 48) == (ratio, kept)
    assert solve(staircase, lambda kept: len(kept['g']), 56)[0] == 0.44
    assert solve(staircase, lambda kept: len(kept['g']), 100) == (0.0, staircase(0))


def test_solve_says_what_can_be_reached():
    with pytest.raises(OutOfReachError, match='3 cannot be reached: a ratio of 0.9999 leaves 8') as caught:
        solve(staircase, lambda kept: len(kept['g']), 3)
    assert (caught.value.ratio, caught.value.least) == (0.9999, 8)


class Biased:
    """Predicts the width of a layer, and is wrong on what is saved by a factor; counts how often it is checked."""

    name, units, dense, tolerance = 'width', COUNTS, 1000.0, 0.01

    def __init__(self, factor):
        self.factor, self.checks = factor, 0

    def __call__(self, removed):
        return self.dense - len(removed.get('weight', {}).get(0, ()))

    def check(self, slim):
        self.checks += 1
        return self.dense - self.factor * (self.dense - slim)

    def show(self, value):
        return f'{value:g}'


WIDE = [Group('g', 'x', 1000, [Slice('weight', 0, blocks(1000))])]


def evenly(ratio):
    return {'g': list(range(1000 - int(ratio * 1000 + 1e-6)))}


def test_a_wrong_prediction_is_corrected_once_it_was_checked():
    cost = Biased(0.8)
    found = search(evenly, WIDE, cost, 0.5, lambda kept: len(kept['g']))
    assert (found.counted, found.predicted, cost.checks) == (500, 500, 2)
    assert (found.ratio, len(found.kept['g']), found.scale) == (0.625, 375, 0.8)
    found = search(evenly, WIDE, Biased(1.25), 0.5, lambda kept: len(kept['g']))
    assert (found.ratio, found.counted) == (0.4, 500)
    cost = Biased(1.005)  # within 1 %: good enough
    found = search(evenly, WIDE, cost, 0.5, lambda kept: len(kept['g']))
    assert (found.ratio, found.predicted, found.scale, cost.checks) == (0.5, 500, 1, 1)
    found = search(evenly, WIDE, Biased(1.25), 0.5)
    assert (found.ratio, found.counted) == (0.5, None)


def test_a_correction_never_makes_the_dense_network_cheaper():
    """A goal just below the dense cost is not met by keeping everything, however well the first trial went."""
    found = search(evenly, WIDE, Biased(5), 0.95, lambda kept: len(kept['g']))
    assert (found.ratio, found.counted) == (0.01, 950)
    found = search(evenly, WIDE, Biased(3), 1.0, lambda kept: len(kept['g']))
    assert (found.ratio, found.counted, found.scale) == (0, 1000, 1)


def test_a_slim_network_that_is_no_faster():
    with pytest.raises(TargetError, match='target width: 0.5 cannot be reached: ratios from 0 to 0.9999 give 1000 to'):
        search(evenly, WIDE, Biased(-0.1), 0.5, lambda kept: len(kept['g']))


def test_out_of_reach_is_one_line_with_the_range():
    model = nn.Sequential(nn.Linear(4, 10, bias=False), nn.Linear(10, 4, bias=False))
    groups = find_groups(model, torch.randn(2, 4))
    with pytest.raises(TargetError) as caught:
        StructuredPruner().search(model, groups, Params(model), 0.05)
    assert str(caught.value) == (
        'target params: 0.05 cannot be reached: ratios from 0 to 0.9999 give 80 to 8, with these Groups and this '
        'allocation'
    )
    with pytest.raises(TargetError, match="target params: '12MB' is no target; write a fraction"):
        StructuredPruner().search(model, groups, Params(model), '12MB')


def test_params_target_is_met_exactly():
    model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 4))
    groups = find_groups(model, torch.randn(2, 4))
    found = StructuredPruner(allocation='global').search(model, groups, Params(model), 0.5)
    slim = resize(model, make_structure(model, groups, found.kept))
    assert found.predicted == count_params(slim) <= found.goal == 452 < count_params(slim) + 9
    assert found.ratio == 0.51 and found.counted is None


@pytest.mark.parametrize('allocation', ['uniform', 'isomorphic'])
def test_macs_target_on_a_network_of_every_kind(allocation):
    model, images = ToyNet(16, 32, 64).eval(), toy_frames()
    groups = find_groups(model, images)
    pruner = StructuredPruner(allocation=allocation, protect='kind:head')  # four heads are a staircase of their own
    found = pruner.search(model, groups, Macs(model, lambda m: m(images)), '60%')
    slim = resize(model, make_structure(model, groups, found.kept))
    assert found.counted == count(slim, lambda m: m(images)).macs == found.predicted
    assert found.goal * 0.9 < found.counted <= found.goal
    again, less = (
        StructuredPruner(ratio, allocation=allocation, protect='kind:head').plan(model, groups)
        for ratio in (found.ratio, found.ratio - 0.0001)
    )
    assert again == found.kept
    assert count(resize(model, make_structure(model, groups, less)), lambda m: m(images)).macs > found.goal


def test_targets_that_hold_already():
    model, images = ToyNet().eval(), toy_frames()
    groups = find_groups(model, images)
    found = StructuredPruner().search(model, groups, Params(model), '1M')
    assert found.ratio == 0 and all(len(found.kept[group.name]) == group.num_units for group in groups)


def test_a_fraction_of_what_the_network_was_before_edits():
    cost = Biased(1.0)
    found, alone = (search(evenly, WIDE, cost, 0.5, whole=whole) for whole in (1.5 * cost.dense, None))
    assert (found.goal, found.dense) == (0.75 * cost.dense, 1.5 * cost.dense)
    assert found.predicted <= found.goal and found.ratio < alone.ratio
    with pytest.raises(TargetError, match='cannot be reached'):
        search(evenly, WIDE, cost, 0.5, whole=cost.dense / 1e6)


def test_savings_of_each_group():
    model, images = ToyNet().eval(), toy_frames()
    groups = find_groups(model, images)
    pruner = StructuredPruner(0.5)
    kept = pruner.plan(model, groups)
    saved = savings(groups, kept, Params(model))
    assert saved == {row.name: row.params_saved for row in pruner.report(model, groups, kept)}
    assert sum(value > 0 for value in saved.values()) > 2


def test_a_plan_needs_a_ratio():
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='ratio is None: say which fraction'):
        StructuredPruner().plan(model, [])


def test_scores_are_taken_once():
    calls = []

    def importance(model, groups, batches=None):
        calls.append(batches)
        return {group.name: np.arange(group.num_units, dtype=float) for group in groups}

    model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 4))
    groups = find_groups(model, torch.randn(2, 4))
    StructuredPruner(importance=importance).search(model, groups, Params(model), 0.5, batches='data')
    assert calls == ['data']
