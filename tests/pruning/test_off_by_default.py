"""Groups that are off by default: found, reported, and pruned only when named."""

import pytest
import torch
from torch import nn

from vadslim.pruning import Group, PatternError, Slice, StructuredPruner, blocks, find_groups, make_structure, resize
from vadslim.pruning.joining import join_groups


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 2, 24)


def loses(layer, targets, protect=None):
    """The last part of the names of the Groups that lose units."""
    groups = find_groups(layer, torch.randn(3, 2, 16))
    kept = StructuredPruner(0.5, targets=targets, protect=protect).plan(layer, groups)
    resize(layer, make_structure(layer, groups, kept))(torch.randn(3, 2, 16))
    return {group.name.rpartition('.')[2] for group in groups if len(kept[group.name]) < group.num_units}


@pytest.mark.parametrize(
    ('targets', 'expected'),
    [
        (None, {'heads', 'neurons'}),
        ('default', {'heads', 'neurons'}),
        ('*', {'heads', 'neurons', 'query_key_dims', 'value_dims'}),
        ('kind:value_dim', {'value_dims'}),
        (['default', '*.query_key_dims'], {'heads', 'neurons', 'query_key_dims'}),
    ],
)
def test_targets_turn_groups_on(layer, targets, expected):
    assert loses(layer, targets) == expected


def test_protect_takes_default_too(layer):
    assert loses(layer, '*', protect='default') == {'query_key_dims', 'value_dims'}


def test_the_report_says_how_to_turn_them_on(layer):
    groups = find_groups(layer)
    pruner = StructuredPruner(0.5)
    rows = {row.name: row for row in pruner.report(layer, groups, pruner.plan(layer, groups))}
    assert rows['self_attn.value_dims'].reason == 'off by default: name it in targets'


def test_nothing_is_on_by_default():
    off = Group('a', 'stream', 4, [Slice('weight', 0, blocks(4))], on=False)
    with pytest.raises(PatternError, match="'default' matches none"):
        StructuredPruner(0.5, targets='default').plan(nn.Linear(2, 4), [off])


def test_a_joined_group_is_off_when_a_part_is():
    one = Group('a', 'channel', 4, [Slice('weight', 0, blocks(4))])
    other = Group('b', 'stream', 4, [Slice('weight', 0, blocks(4)), Slice('x', 1, blocks(4))], on=False)
    for sources in ([[one], [other]], [[other], [one]]):
        (joined,) = join_groups(sources)
        assert not joined.on
    (joined,) = join_groups([[one], [one]])
    assert joined.on
