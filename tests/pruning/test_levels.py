"""How much has left after each of several levels."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.pruning import (
    Global,
    Level,
    Rules,
    StructuredPruner,
    Uniform,
    compose,
    find_groups,
    make_structure,
    resize,
)
from vadslim.pruning.levels import SCHEDULES

X = torch.zeros(1, 4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 3)).eval()


def kept_by_levels(allocation, schedule, levels, ratio=0.5):
    """Kept units per Group after each level, each slimming what the last one left; and the composed structure."""
    model, whole, counts = network(), None, []
    for number in range(1, levels + 1):
        groups = find_groups(model, X)
        units = {name: group['num_units'] for name, group in whole.groups.items()} if whole else None
        pruner = StructuredPruner(ratio, allocation=Level(allocation, schedule, number, levels, units))
        structure = make_structure(model, groups, pruner.plan(model, groups))
        model = resize(model, structure)
        whole = compose(whole, structure) if whole else structure
        counts.append([model[0].out_features, model[2].out_features])
    return counts, whole


@pytest.mark.parametrize(
    'schedule, expected',
    [
        # 10 and 7 units, half of which go: floor(10 * (1/8, 1/4, 3/8, 1/2)), ...
        ('linear', [[9, 7], [8, 6], [7, 5], [5, 4]]),
        # 1 - 0.5 ** (1/4, ...) = 0.159, 0.293, 0.405, 0.5
        ('geometric', [[9, 6], [8, 5], [6, 5], [5, 4]]),
        # 0.5 * (1 - (3/4) ** 3, ...) = 0.289, 0.4375, 0.492, 0.5
        ('cubic', [[8, 5], [6, 4], [6, 4], [5, 4]]),
    ],
)
def test_counts_are_those_of_the_dense_units(schedule, expected):
    counts, whole = kept_by_levels(Uniform(), schedule, 4)
    assert counts == expected
    assert [group['num_units'] for group in whole.groups.values()][:2] == [10, 7]


def test_schedules_rise_and_end_at_the_ratio():
    for schedule in SCHEDULES.values():
        values = [schedule(0.6, way) for way in np.linspace(0, 1, 9)]
        assert values[0] == 0 and values[-1] == pytest.approx(0.6, abs=1e-12) and values == sorted(values)


def test_the_last_level_has_lost_what_one_level_would():
    once = StructuredPruner(0.3).plan(network(), find_groups(network(), X))
    for schedule in SCHEDULES:
        counts, _ = kept_by_levels(Uniform(), schedule, 3, 0.3)
        assert counts[-1] == [len(kept) for kept in once.values()][:2]


def test_rules_are_shared_out_too():
    rules = Rules([{'pattern': '0.*', 'ratio': 0.2}])
    counts, _ = kept_by_levels(rules, 'linear', 2, 0.6)
    assert counts == [[9, 5], [8, 3]]  # 10 * (0.1, 0.2) and 7 * (0.3, 0.6) leave


def test_competing_units_lose_the_same_fraction_of_what_is_left():
    counts, _ = kept_by_levels(Global(), 'linear', 2)
    assert [sum(count) for count in counts] == [13, 9]  # floor(17 / 4) leave, then floor(13 / 3)


def test_mistakes():
    with pytest.raises(ValueError, match="schedule 'square' is not known; there are linear, geometric, cubic"):
        Level(Uniform(), 'square', 1, 2)
    with pytest.raises(ValueError, match='level 3 of 2'):
        Level(Uniform(), 'linear', 3, 2)
