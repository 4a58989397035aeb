"""Which weights go with the units that leave, and the norms whose statistics fade: held against the masked twin."""

import math

import pytest
import torch
from torch import nn

from vadslim.pruning import Group, Slice, StructuredPruner, StructureError, blocks, find_groups, mask
from vadslim.sparse.groups import FadingLayerNorm, fade_norms, leaving, lower_logits, magnitudes, stock_norms
from vadslim.testing import ToyNet, toy_frames


class Branch(nn.Sequential):
    """Two LayerNorms, one of which gets narrower, as in VAD's classification branches."""

    def __init__(self):
        super().__init__(
            nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2)
        )


def planned(model, example, ratio=0.3):
    groups = find_groups(model, example)
    return groups, StructuredPruner(ratio).plan(model, groups)


def filled(model):
    """All parameters one, so that zeros of a twin are what was masked."""
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    return model


@pytest.mark.parametrize('make, example', [(ToyNet, toy_frames()), (Branch, torch.randn(3, 6))])
def test_what_leaves_is_what_the_twin_masks(make, example):
    torch.manual_seed(0)
    model = make().eval()
    groups, kept = planned(model, example)
    zeros, logits = leaving(model, groups, kept)
    twin = dict(mask(filled(model), groups, kept).named_parameters())
    assert zeros and not logits
    for name, weight in twin.items():
        assert torch.equal(weight == 0, zeros.get(name, torch.zeros_like(weight, dtype=torch.bool))), name


def test_softmax_logits_go_apart_from_weights_and_frozen_ones_nowhere():
    model = nn.ModuleDict({'logits': nn.Linear(2, 4), 'out': nn.Linear(2, 4)})
    model['out'].bias.requires_grad_(False)
    unit = blocks(4)
    points = Group(
        'points',
        'point',
        4,
        (
            Slice('logits.weight', 0, unit),
            Slice('logits.bias', 0, unit, -math.inf),
            Slice('out.weight', 0, unit),
            Slice('out.bias', 0, unit),
        ),
    )
    both = Group('both', 'channel', 4, (Slice('logits.bias', 0, unit),))
    zeros, logits = leaving(model, [points, both], {'points': [0, 2], 'both': [0, 1]})
    assert logits['logits.bias'].tolist() == [False, True, False, True] and set(logits) == {'logits.bias'}
    assert zeros['logits.bias'].tolist() == [False, False, True, False]  # -inf stands where both write
    assert set(zeros) == {'logits.weight', 'logits.bias', 'out.weight'}
    assert zeros['out.weight'][:, 0].tolist() == [False, True, False, True]
    with pytest.raises(StructureError, match='distinct numbers from 0 to 3'):
        leaving(model, [points], {'points': [7]})


def test_logits_say_less_by_the_fraction_and_stay_finite():
    bias = nn.Parameter(torch.tensor([1.0, 2.0]))
    gone = {'bias': torch.tensor([False, True])}
    lower_logits({'bias': bias}, gone, 0.25)
    assert bias.exp().tolist() == pytest.approx([math.exp(1), 0.75 * math.exp(2)])
    for _ in range(100):
        lower_logits({'bias': bias}, gone, 1.0)
    assert bool(bias.isfinite().all()) and bias.softmax(0).tolist() == [1, 0]


def test_a_fading_norm_goes_from_the_stock_one_to_the_twins():
    torch.manual_seed(0)
    model, x = Branch().double().eval(), torch.randn(3, 6).double()
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    groups, kept = planned(model, x)
    twin, dense = mask(model, groups, kept), model(x)
    zeros, _ = leaving(model, groups, kept)
    norms = fade_norms(model, zeros)
    assert len(norms) == 2 and all(type(norm) is FadingLayerNorm for norm in norms)
    torch.testing.assert_close(model(x), dense, rtol=1e-9, atol=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in zeros:
                parameter.masked_fill_(zeros[name], 0)
    assert (model(x) - twin(x)).abs().max() > 1e-4  # zeros count in the statistics still
    for norm in norms:
        norm.left = 0.0
    torch.testing.assert_close(model(x), twin(x), rtol=1e-9, atol=1e-12)
    stock_norms(norms)
    assert type(model[1]) is nn.LayerNorm


def test_a_fading_norm_computes_in_single_precision():
    model = nn.Sequential(nn.LayerNorm(4)).half()
    (norm,) = fade_norms(model, {'0.weight': torch.tensor([True, False, False, False])})
    norm.left = 0.5
    assert model(torch.full((1, 4), 6e4).half()).dtype == torch.float16
    assert model(torch.tensor([[3e4, 6e4, -6e4, 0]]).half()).isfinite().all()


def test_magnitudes():
    weights = {'a': torch.tensor([1.0, -3.0, 8.0]), 'b': torch.tensor([2.0])}
    masks = {'a': torch.tensor([True, True, False]), 'b': torch.tensor([True])}
    assert magnitudes(weights, masks) == (2.0, 8.0)
    assert math.isnan(magnitudes(weights, {'b': torch.tensor([True])})[1])
