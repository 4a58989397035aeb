"""Plans: how many units go, which, and why the others do not."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.pruning import (
    Global,
    Group,
    PatternError,
    Slice,
    StructuredPruner,
    Uniform,
    blocks,
    find_groups,
    params_saved,
)
from vadslim.pruning.allocation import removed_count
from vadslim.registry import ALLOCATIONS, PRUNERS


def groups_of(**sizes):
    return [Group(name, 'neuron', size, []) for name, size in sizes.items()]


@pytest.mark.parametrize(
    ('ratio', 'units', 'removed'),
    [(0.1, 10, 1), (0.3, 10, 3), (0.7, 10, 7), (0.1, 64, 6), (0.29, 100, 29), (0.5, 1, 0), (0.0, 8, 0)],
)
def test_removed_count_survives_binary_fractions(ratio, units, removed):
    assert removed_count(ratio, units) == removed


def test_uniform_keeps_the_best_and_rounds_up():
    groups = groups_of(a=10)
    scores = {'a': np.array([5, 1, 9, 3, 3, 8, 2, 7, 4, 6.0])}
    assert Uniform()(groups, scores, 0.3)['a'] == [0, 2, 3, 5, 7, 8, 9]
    assert Uniform()(groups, scores, 0.3, round_to=4)['a'] == [0, 2, 3, 4, 5, 7, 8, 9]
    assert Uniform()(groups, scores, 0.3, round_to=16)['a'] == list(range(10))
    least = Group('a', 'neuron', 10, [], min_units=5)
    assert Uniform()([least], scores, 0.9)['a'] == [0, 2, 5, 7, 9]


def test_global_lets_the_units_of_a_kind_compete():
    groups = [*groups_of(a=4, b=4), Group('c', 'head', 4, [])]
    scores = {
        'a': np.array([1, 1, 1, 1.0]),
        'b': np.array([0.1, 0.2, 30, 9.7]),  # mean 10: 0.01, 0.02, 3, 0.97
        'c': np.array([1, 2, 3, 4.0]),
    }
    kept = Global()(groups, scores, 0.375)  # 3 of 8 neurons, 1 of 4 heads
    assert kept == {'a': [0, 1, 2, 3], 'b': [2], 'c': [1, 2, 3]}
    assert list(kept) == ['a', 'b', 'c']
    kept = Global()(groups, scores, 0.375, round_to=2)
    assert kept == {'a': [0, 1, 2, 3], 'b': [2, 3], 'c': [0, 1, 2, 3]}


def net():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 4, 12)
    return model, find_groups(model, torch.randn(3, 2, 8))


def test_plan_and_report():
    model, groups = net()
    pruner = PRUNERS.build({'type': 'StructuredPruner', 'ratio': 0.5})
    kept = pruner.plan(model, groups)
    assert list(kept) == [group.name for group in groups]
    rows = {row.name: row for row in pruner.report(model, groups, kept)}
    assert [name for name, row in rows.items() if not row.reason] == ['self_attn.heads', 'linear1.neurons']
    ffn = rows['linear1.neurons']
    assert (ffn.kind, ffn.num_units, ffn.kept, ffn.params_saved) == ('neuron', 12, 6, 6 * (8 + 1 + 8))
    heads = rows['self_attn.heads']
    assert heads.params_saved == 2 * 2 * (3 * 8 + 3 + 8)
    stream = rows['self_attn.out_proj.neurons']
    assert (stream.kept, stream.params_saved) == (8, 0)
    assert stream.reason.startswith('open: ')


def test_params_saved_counts_corners_once():
    """A square layer that loses rows and columns together."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    group = Group('g', 'x', 4, [Slice('0.weight', 0, blocks(4)), Slice('0.weight', 1, blocks(4))])
    assert params_saved(group, [0, 1, 2], {'0.weight': (4, 4)}) == 16 - 9
    assert params_saved(group, range(4), {n: tuple(p.shape) for n, p in model.named_parameters()}) == 0


def test_reasons():
    model, groups = net()
    rows = StructuredPruner(0.1).report(model, groups, StructuredPruner(0.1).plan(model, groups))
    assert {r.name: r.reason for r in rows}['self_attn.heads'] == 'ratio 0.1 of 4 units is less than one'
    pruner = StructuredPruner(0.5, targets='kind:neuron', protect=['*.neurons'])
    kept = pruner.plan(model, groups)
    reasons = {row.name: row.reason for row in pruner.report(model, groups, kept)}
    assert reasons['self_attn.heads'] == 'not among the targets'
    assert reasons['linear1.neurons'] == 'protected by the pattern *.neurons'
    assert all(len(kept[group.name]) == group.num_units for group in groups)
    pruner = StructuredPruner(0.5, targets=['linear?.*'], round_to=8)
    kept = pruner.plan(model, groups)
    assert (len(kept['linear1.neurons']), len(kept['self_attn.heads'])) == (8, 4)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'targets': ['linear1.neuron']}, "targets: 'linear1.neuron' matches none of .*nearest is linear1.neurons"),
        ({'protect': 'kind:heads'}, "protect: 'kind:heads' matches none of .*nearest is kind:head"),
    ],
)
def test_patterns_that_match_nothing_name_the_nearest(options, message):
    model, groups = net()
    with pytest.raises(PatternError, match=message):
        StructuredPruner(0.5, **options).plan(model, groups)


@pytest.mark.parametrize('ratio', [-0.1, 1, 1.0, 30, float('nan'), float('inf'), '0.3', True])
def test_ratio_is_checked(ratio):
    with pytest.raises(ValueError, match='ratio is .* the fraction to remove'):
        StructuredPruner(ratio)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'round_to': 0}, 'round_to is 0'),
        ({'importance': 'L3'}, "importance 'L3' is not known; there are .*BNScale, .*L1, L2, .*Random"),
        ({'allocation': 'even'}, "allocation 'even' is not known; there are global, isomorphic, rules, uniform"),
        ({'importance': 3}, 'importance is 3'),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        StructuredPruner(0.5, **options)


def test_importances_and_allocations_may_be_configs_or_objects():
    pruner = StructuredPruner(0.5, importance={'type': 'vadslim.Random', 'seed': 3}, allocation=Global())
    assert pruner.importance.seed == 3
    assert isinstance(ALLOCATIONS.build({'type': 'uniform'}), Uniform)
    assert isinstance(pruner.allocation, Global)
