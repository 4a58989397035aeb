"""The masked twin: mask values, LayerNorm over the kept width, softmax logits at -inf."""

import torch
from torch import nn

from vadslim.pruning import Group, Slice, blocks, check_group, mask


def test_layer_norm_is_taken_over_the_kept_width():
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    places = ('0.weight', 0), ('0.bias', 0), ('1.weight', 0), ('1.bias', 0), ('2.weight', 1)
    group = Group('hidden', 'neuron', 6, [Slice(name, dim, blocks(6)) for name, dim in places])
    x = torch.randn(4, 3)
    kept = {'hidden': [0, 3, 4]}
    check_group(model, group, kept, lambda m: m(x.double()))
    twin = mask(model, [group], kept)
    assert list(twin.state_dict()) == list(model.state_dict())
    hidden = model[0](x)[:, [0, 3, 4]]
    expected = nn.functional.layer_norm(hidden, (3,), model[1].weight[[0, 3, 4]], model[1].bias[[0, 3, 4]])
    torch.testing.assert_close(twin[:2](x)[:, [0, 3, 4]], expected)
    assert twin[:2](x)[:, [1, 2, 5]].abs().sum() == 0


class Points(nn.Module):
    """A softmax over sampling points, whose values are summed: a removed point needs a logit of -inf."""

    def __init__(self):
        super().__init__()
        self.logits, self.values = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x):
        return (self.logits(x).softmax(-1) * self.values(x)).sum(-1)


def points(mask_value):
    places = ('logits.weight', 0), ('logits.bias', 0), ('values.weight', 0), ('values.bias', 0)
    slices = [Slice(name, dim, blocks(5), mask_value if name == 'logits.bias' else 0.0) for name, dim in places]
    return Group('points', 'point', 5, slices)


def test_softmax_logits_are_masked_with_minus_infinity():
    x = torch.randn(4, 3).double()
    check_group(Points(), points(float('-inf')), {'points': [1, 4]}, lambda m: m(x))


def test_minus_infinity_outlives_another_group():
    """Two Groups that mask the same bias: heads write 0, points -inf; a removed point stays without weight."""
    model, x = Points(), torch.randn(4, 3).double()
    zero = Group('all', 'x', 1, [Slice('logits.bias', 0, [[0, 1]])], min_units=1)
    assert zero.removed([0]) == []
    other = Group('other', 'x', 5, [Slice('logits.bias', 0, blocks(5))])
    twin = mask(model, [points(float('-inf')), other], {'points': [1, 2, 3, 4], 'other': [1, 2, 3, 4]})
    assert twin.logits.bias[0] == float('-inf')
    assert twin(x.float()).isfinite().all()


def test_the_twin_keeps_ties_and_flags():
    model = nn.Module()
    model.one, model.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    model.two.weight = model.one.weight
    model.one.weight.requires_grad_(False)
    twin = mask(model, [Group('rows', 'row', 4, [Slice('one.weight', 0, blocks(4))])], {'rows': [1]})
    assert twin.two.weight is twin.one.weight
    assert not twin.one.weight.requires_grad
    assert twin.one.weight[[0, 2, 3]].abs().sum() == 0
