"""Refill: how many channels, and which."""

import pytest
import torch

from vadslim.sparse import SparseError, kept_channels, refill, remain_weight


def with_ones(count, *shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[:count] = True
    return mask


@pytest.mark.parametrize(
    ('left', 'channels', 'size', 'rate', 'kept'),
    [
        (34, 16, 3, 0.0, 12),  # m = 11.33
        (437, 16, 50, 0.0, 9),  # m = 8.74
        (36, 16, 3, 0.0, 12),  # m = 12
        (0, 16, 3, 0.0, 1),
        (0, 16, 3, 0.5, 8),
        (1, 16, 3, 0.0, 1),
        (48, 16, 3, 0.0, 16),
        (8, 4, 4, 0.5, 3),  # 2 and half of the other 2
        (9, 4, 4, 0.5, 4),  # 2.25 and half of the other 1.75: 3.125
        (0, 4, 4, 1.0, 4),
        (0, 100, 1, 0.07, 7),  # 0.07 * 100 is 7.000000000000001
        (3, 3, 0, 0.0, 3),  # nothing to prune
        (0, 0, 3, 0.0, 0),
    ],
)
def test_counts(left, channels, size, rate, kept):
    assert kept_channels(with_ones(left, channels, size), rate) == kept


def test_whole_channels_of_the_largest_scores():
    """Half of the weights are left, in all channels alike: the two channels with the largest scores become whole."""
    mask = torch.zeros(4, 2, 1, 1, dtype=torch.bool)
    mask[:, 0] = True
    scores = torch.tensor([1.0, 4, 2, 3])
    assert refill({'w': mask}, {'w': scores})['w'].flatten(1).int().tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    more = refill({'w': mask}, {'w': scores}, 0.5)['w']
    assert more.flatten(1).int().tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]
    assert refill({'w': mask}, {'w': scores}, 1.0)['w'].all()
    assert mask.sum() == 4


def test_ties_keep_the_first_and_leave_no_partial_channels():
    mask = with_ones(5, 5, 2)  # m = 2.5
    kept = refill({'w': mask}, {'w': torch.ones(5)})['w']
    assert kept.int().tolist() == [[1, 1], [1, 1], [1, 1], [0, 0], [0, 0]]
    assert kept.is_contiguous()
    kept[0, 0] = False  # and storage of its own
    assert kept[0, 1]


def test_layers_that_are_gone_or_empty():
    masks = {
        'gone': with_ones(0, 3, 4),
        'none': with_ones(0, 0, 4),
        'flat': with_ones(0, 2, 0),
        'vector': with_ones(2, 3),
    }
    scores = {'gone': torch.tensor([0, 2, 1]), 'none': torch.zeros(0), 'flat': torch.zeros(2), 'vector': torch.ones(3)}
    out = refill(masks, scores)
    assert out['gone'].all(1).tolist() == [False, True, False] and out['gone'].sum() == 4
    assert out['none'].shape == (0, 4) and out['flat'].shape == (2, 0)
    assert out['vector'].tolist() == [True, True, False]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_scores_of_any_type(dtype):
    scores = torch.tensor([3, 1, 2], dtype=dtype)
    assert refill({'w': with_ones(4, 3, 2)}, {'w': scores})['w'].all(1).tolist() == [True, False, True]


def test_slightly_more_than_the_nominal_rate_is_left():
    """As published for Refill: rounding up to whole channels leaves a little more than the element-wise masks."""
    torch.manual_seed(0)
    masks = {str(width): torch.rand(width, width, 3, 3) < 0.8 for width in (64, 128, 256)}
    out = refill(masks, {name: torch.rand(len(mask)) for name, mask in masks.items()})
    assert remain_weight(masks) <= remain_weight(out) < remain_weight(masks) + 1


def test_settings_that_cannot_be():
    mask = {'w': with_ones(2, 2, 2)}
    with pytest.raises(SparseError, match='there are no channel scores for w'):
        refill(mask, {})
    with pytest.raises(SparseError, match=r'w has 2 channels; its scores are \(3,\)'):
        refill(mask, {'w': torch.ones(3)})
    with pytest.raises(SparseError, match='scores of w are not finite'):
        refill(mask, {'w': torch.tensor([1, float('nan')])})
    for rate in (-0.1, 1.5, float('nan')):
        with pytest.raises(SparseError, match='it is a fraction from 0 to 1'):
            refill(mask, {'w': torch.ones(2)}, rate)
