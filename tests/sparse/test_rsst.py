"""RSST: the four cases, and the two ends of a level."""

import pytest
import torch

from vadslim.sparse import SparseError, cases, dense_masks, finish, imp, refill, remain_weight, row_sums, start

CURRENT = {'w': torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()}
REFILL = {'w': torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()}


def test_the_four_cases():
    case = cases(CURRENT, REFILL)
    assert case.kept['w'].int().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert case.refilled['w'].int().tolist() == [[0, 0, 1], [0, 0, 0]]
    assert case.penalised['w'].int().tolist() == [[0, 0, 0], [0, 1, 0]]
    assert case.removed['w'].int().tolist() == [[0, 0, 0], [1, 0, 1]]
    assert case.active['w'].int().tolist() == [[1, 1, 1], [0, 1, 0]]
    assert torch.equal(case.final['w'], REFILL['w'])


def test_the_ends_of_a_level():
    case = cases(CURRENT, REFILL)
    weights = {'w': torch.arange(1.0, 7).reshape(2, 3).requires_grad_()}
    assert start(weights, case)['w'].tolist() == [[1, 2, 3], [0, 5, 0]]
    ended, masks = finish(weights, case)
    assert ended['w'].tolist() == [[1, 2, 3], [0, 0, 0]]
    assert torch.equal(masks['w'], REFILL['w'])
    assert weights['w'].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_nothing_shares_storage():
    """What a level changes in place must reach neither the masks nor the weights that it rewinds to."""
    current = {'w': torch.ones(2, 2, dtype=torch.bool)}
    rewind = {'w': torch.ones(2, 2)}
    case = cases(current, current)
    begun = start(rewind, case)
    ended, masks = finish(begun, case)
    tensors = [current['w'], case.kept['w'], case.active['w'], case.final['w'], masks['w']]
    tensors += [rewind['w'], begun['w'], ended['w']]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    assert not case.penalised['w'].any() and not case.refilled['w'].any()


def test_the_penalised_set_of_a_level_is_not_empty():
    """On a dense layer of random weights, 20 % of which go."""
    torch.manual_seed(0)
    weights = {'w': torch.randn(16, 8, 3, 3), 'v': torch.randn(8, 4, 1, 1)}
    current = imp(weights, dense_masks(weights), 0.2)
    case = cases(current, refill(current, row_sums(weights, current)))
    everything = [case.kept, case.refilled, case.penalised, case.removed]
    assert all((sum(part[name].int() for part in everything) == 1).all() for name in weights)
    assert all(part[name].any() for part in everything for name in weights)
    assert remain_weight(case.final) >= remain_weight(current)


def test_masks_of_different_layers():
    with pytest.raises(SparseError, match='only one of them has v'):
        cases(CURRENT, {'v': REFILL['w']})
    with pytest.raises(SparseError, match='masks are of torch.bool'):
        cases({'w': CURRENT['w'].float()}, REFILL)
    assert cases({}, {}).final == {}
