"""Sensitivity: bookkeeping, curves and what may go, with numbers that can be worked out by hand."""

import json
import math
from fnmatch import fnmatchcase

import numpy as np
import pytest

from vadslim.pruning import Group, Rules
from vadslim.pruning.sensitivity import (
    Point,
    Sensitivity,
    Tolerance,
    allowed,
    count_unknown,
    directions,
    increase,
    is_cost,
    literal,
    measure,
    points,
    rules,
)

nan, inf = math.nan, math.inf


def group(name, units):
    return Group(name, 'channel', units, ())


A, B, C = group('a', 8), group('b', 4), group('c', 4)


def kept(units, removed):
    return list(range(removed, units))


PLANS = {
    0.3: {'a': kept(8, 2), 'b': kept(4, 1), 'c': kept(4, 0)},
    0.1: {'a': kept(8, 0), 'b': kept(4, 0), 'c': kept(4, 0)},
    0.4: {'a': kept(8, 3), 'b': kept(4, 1), 'c': kept(4, 0)},
}


def test_points_are_those_of_groups_that_lose_units():
    found = points([A, B, C], PLANS)
    assert [(p.group, p.ratio, p.removed) for p in found] == [
        ('a', 0.1, 0),
        ('a', 0.3, 2),
        ('a', 0.4, 3),
        ('b', 0.1, 0),
        ('b', 0.3, 1),
        ('b', 0.4, 1),
    ]
    assert found[2].kept == (3, 4, 5, 6, 7)


class Lab:
    """Counts what it measures, and keeps every state."""

    def __init__(self, die_at=None):
        self.measured, self.states, self.said, self.die_at = [], [], [], die_at

    def __call__(self, start, todo):
        return measure(start, todo, self.evaluate, self.states.append, lambda *what: self.said.append(what))

    def evaluate(self, point):
        if len(self.measured) == self.die_at:
            raise KeyboardInterrupt
        self.measured.append((point.group, point.removed))
        return {'loss': 1.0 + point.removed, 'map': nan}


START = Sensitivity({'a': ('channel', 8), 'b': ('channel', 4), 'c': ('channel', 4)}, 5, {'loss': 1.0, 'map': nan})


def test_nothing_is_measured_twice():
    todo, lab = points([A, B, C], PLANS), Lab()
    assert count_unknown(START, todo) == 3
    found = lab(START, todo)
    assert lab.measured == [('a', 2), ('a', 3), ('b', 1)]  # b loses one unit at 0.3 and at 0.4
    assert [(row.group, row.ratio, row.metrics['loss']) for row in found.rows] == [
        ('a', 0.1, 1.0),
        ('a', 0.3, 3.0),
        ('a', 0.4, 4.0),
        ('b', 0.1, 1.0),
        ('b', 0.3, 2.0),
        ('b', 0.4, 2.0),
    ]
    assert [(done, total) for _, _, done, total in lab.said] == [(1, 3), (2, 3), (3, 3)]
    assert len(lab.states) == 6
    again = Lab()
    assert again(found, todo).to_dict() == found.to_dict()
    assert again.measured == again.states == []


@pytest.mark.parametrize('die_at', [0, 1, 2])
def test_what_was_interrupted_ends_the_same(die_at):
    todo, whole = points([A, B, C], PLANS), Lab()
    expected = whole(START, todo).to_dict()
    lab = Lab(die_at)
    with pytest.raises(KeyboardInterrupt):
        lab(START, todo)
    file = json.dumps((lab.states or [START])[-1].to_dict(), allow_nan=False)
    rest = Lab()
    assert rest(Sensitivity.from_dict(json.loads(file)), todo).to_dict() == expected
    assert lab.measured + rest.measured == whole.measured


def test_rows_stand_in_the_order_of_the_groups():
    late, early = Point('b', 0.1, (1, 2, 3), 1), Point('a', 0.5, (4, 5, 6, 7), 4)
    found = START.plus(late, {'loss': 2.0}).plus(early, {'loss': 3.0}).plus(late, {'loss': 4.0})
    assert [(row.group, row.metrics['loss']) for row in found.rows] == [('a', 3.0), ('b', 4.0)]


def test_another_format_is_refused():
    with pytest.raises(ValueError, match='format is 2, 1 is needed'):
        Sensitivity.from_dict({**START.to_dict(), 'format': 2})


@pytest.mark.parametrize(
    ('before', 'after', 'larger', 'expected'),
    [
        (2.0, 3.0, False, 0.5),
        (2.0, 3.0, True, -0.5),
        (-2.0, -3.0, True, 0.5),
        (0.0, 0.0, False, 0.0),
        (0.0, 0.1, False, inf),
        (0.0, 0.1, True, -inf),
        (2.0, nan, False, nan),
    ],
)
def test_increase(before, after, larger, expected):
    assert increase(before, after, larger) == pytest.approx(expected, nan_ok=True)


def test_names_tell_what_is_a_cost():
    costs = [
        'plan_L2_1s',
        'plan_obj_box_col_3s',
        'ADE_car',
        'FDE_pedestrian',
        'MR_car',
        'fp_car',
        'minADE',
        'val/loss',
        'toy/error',
    ]
    merits = [
        'hit_car',
        'NuscMap_chamfer/mAP',
        'toy/accuracy',
        'EPA_car',
        'mAP',
        'NDS',
        'recall',
        'colour_score',
        'AP_car',
        'arcade',
    ]
    assert [name for name in costs + merits if is_cost(name)] == costs
    found = directions(['loss', 'mAP', 'EPA_car'], ['lo*'], ['EPA*'])
    assert found == {'loss': True, 'mAP': True, 'EPA_car': False}


CURVE = [(0.0, 0.0), (0.25, 0.1), (0.5, 0.5)]


@pytest.mark.parametrize(
    ('curve', 'limit', 'expected'),
    [
        (CURVE, 0.05, 0.125),  # half-way to the first
        (CURVE, 0.1, 0.25),
        (CURVE, 0.3, 0.375),
        (CURVE, 9.0, 0.5),  # nothing is known beyond
        (CURVE, 0.0, 0.0),
        ([(0.0, 0.0), (0.25, 0.0), (0.5, 1.0)], 0.0, 0.25),
        ([(0.0, 0.0), (0.25, 0.2), (0.5, 0.0)], 0.1, 0.125),  # it falls again: only up to the crossing
        ([(0.0, 0.0), (0.25, -0.1), (0.5, 0.1)], 0.0, 0.375),
        ([(0.0, 0.0), (0.25, nan), (0.5, 0.0)], 0.1, 0.0),
        ([(0.0, 0.0), (0.25, 0.0), (0.5, inf)], 0.1, 0.25),
        ([(0.0, 0.0), (0.25, -inf), (0.5, 0.2)], 0.1, 0.25),
        ([(0.0, 0.0)], 0.1, 0.0),
    ],
)
def test_allowed(curve, limit, expected):
    assert allowed(curve, limit) == pytest.approx(expected)


def test_a_curve_counts_what_left_and_the_worst_metric():
    found = Sensitivity({'a': ('head', 4)}, 1, {'loss': 2.0, 'acc': 0.5})
    found = found.plus(Point('a', 0.3, (1, 2, 3), 1), {'loss': 2.2, 'acc': 0.4})
    found = found.plus(Point('a', 0.6, (2, 3), 2), {'loss': 4.0, 'acc': 0.4})
    assert found.curve('a', {'loss': False, 'acc': True}) == [(0.0, 0.0), (0.25, pytest.approx(0.2)), (0.5, 1.0)]
    assert found.curve('a', {'loss': False})[1] == (0.25, pytest.approx(0.1))


def test_rules_are_taken_by_the_allocation():
    groups = [group('x[0].w', 8), group('x0.w', 8), group('default', 4), group('never', 4)]
    curves = {
        'x[0].w': [(0.0, 0.0), (0.5, 0.2)],
        'default': [(0.0, 0.0), (0.5, 0.1)],
        'never': [(0.0, 0.0), (0.5, 9.0)],
    }
    made = rules(curves, {g.name: g.num_units for g in groups}, 0.1)
    assert [rule['ratio'] for rule in made['rules']] == [0.25, 0.5]  # 9.0 allows less than a unit
    scores = {g.name: np.arange(g.num_units) for g in groups}
    found = Rules(**made)(groups, scores, 0.9)
    assert {name: len(units) for name, units in found.items()} == {'x[0].w': 6, 'x0.w': 8, 'default': 2, 'never': 4}
    ratio = 0.1 / 1.1  # stands for an increase of 0.1
    assert Tolerance.limit(ratio) == pytest.approx(0.1)
    assert Tolerance(curves)(groups, scores, ratio + 1e-9) == found


@pytest.mark.parametrize('name', ['a.b', 'a[0]*?', 'default', 'kind:head'])
def test_a_literal_matches_its_name_only(name):
    assert fnmatchcase(name, literal(name))
    assert not fnmatchcase(f'{name}x', literal(name))
    assert literal(name) != 'default' and not literal(name).startswith('kind:')
