"""Rounding of kept counts: what has to be a multiple are the widths of the tensors, not the numbers of units."""

import pytest
from torch import nn

from vadslim.pruning import Group, Slice, StructuredPruner, blocks, find_groups, make_structure, resize
from vadslim.pruning.allocation import rounded


@pytest.mark.parametrize(
    ('sizes', 'round_to', 'count', 'kept'),
    [
        ([1], 8, 9, 16),  # a channel
        ([32], 16, 5, 5),  # a head of 32 rows: any number of heads will do
        ([32, 8], 16, 5, 6),  # and one of 8 logits besides: pairs of heads
        ([2], 16, 9, 16),  # features in pairs
        ([2], 16, 17, 24),
        ([3], 4, 5, 8),
        ([1], 64, 9, 40),  # more than there are
    ],
)
def test_kept_counts_are_rounded_by_widths(sizes, round_to, count, kept):
    slices = [Slice(f'tensor{size}', 0, blocks(40, size)) for size in sizes]
    assert rounded(count, Group('g', 'unit', 40, slices), round_to) == kept


def test_heads_go_one_by_one_where_channels_are_rounded():
    layer = nn.TransformerEncoderLayer(64, 8, 60)
    groups = find_groups(layer, layer.linear1.weight.new_zeros(3, 2, 64))
    kept = StructuredPruner(0.4, round_to=8).plan(layer, groups)
    slim = resize(layer, make_structure(layer, groups, kept))
    assert slim.self_attn.num_heads == 5
    assert slim.linear1.out_features == 40
