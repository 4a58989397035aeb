"""The terms of a distillation by numbers that can be worked out by hand, and which of a teacher's positions count."""

import math

import pytest
import torch
from torch import nn

from vadslim.cli import UserError
from vadslim.hooks.distill_loss import KINDS, DistillLoss, Kept
from vadslim.pruning import Group, Slice, Structure, architecture_hash, make_structure
from vadslim.testing import ToyNet


def loss(mine, theirs, positions=None, **options):
    term = DistillLoss('m', **options)
    return term({'m': mine}, {'m': theirs}, positions or Kept()).item()


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('mse', (1 + 16) / 2),
        ('l1', (1 + 4) / 2),
        ('smooth_l1', (0.5 + 3.5) / 2),
        ('cosine', 1 - (3 * 2 + 0 * 4) / (3 * math.sqrt(20))),
    ],
)
def test_values(kind, expected):
    mine, theirs = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 4.0]])
    assert loss(mine, theirs, kind=kind, weight=0.5) == pytest.approx(expected / 2)


def test_divergences():
    p, q = 0.8, 0.5
    mine, theirs = torch.zeros(1, 2), torch.tensor([[math.log(p / (1 - p)), 0.0]])
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert loss(mine, theirs, kind='kl') == pytest.approx(expected)  # two classes: a softmax is a sigmoid
    assert loss(mine, theirs, kind='binary_kl') == pytest.approx(expected / 2)  # the second logit is equal
    hot = 4 * torch.tensor([[math.log(p / (1 - p)), 0.0]])
    assert loss(mine, hot, kind='kl', temperature=4.0) == pytest.approx(16 * expected)


@pytest.mark.parametrize('kind', KINDS)
def test_equal_outputs_cost_nothing_and_push_nowhere(kind):
    theirs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)) * 20
    mine = theirs.clone().requires_grad_()
    value = DistillLoss('m', kind=kind)({'m': mine}, {'m': theirs}, Kept())
    value.backward()
    assert abs(value.item()) < 1e-6
    assert mine.grad.abs().max() < 1e-6
    assert torch.isfinite(mine.grad).all()


def test_half_precision_is_compared_in_single():
    mine, theirs = torch.full((2,), 300.0).half(), torch.zeros(2).half()
    assert loss(mine, theirs) == 90000.0


def test_confidence_weighs_entries():
    said = {'a': torch.tensor([[1.0], [10.0]]), 'scores': torch.zeros(2, 2)}
    taught = {'a': torch.zeros(2, 1), 'scores': torch.tensor([[[0.0, -50.0], [-50.0, -50.0]]])}
    term = DistillLoss('m', 'a', kind='l1', confidence=['m', 'scores', 0])
    assert term({'m': said}, {'m': taught}, Kept()).item() == pytest.approx(1.0)  # the second is background
    taught['scores'][0, 1, 1] = 0.0
    assert term({'m': said}, {'m': taught}, Kept()).item() == pytest.approx(5.5)
    taught['scores'].fill_(-1000.0)
    assert term({'m': said}, {'m': taught}, Kept()).item() == 0.0


class Cells(nn.Module):
    """Twelve cells on a grid of 3 x 4 with eight channels."""

    def __init__(self):
        super().__init__()
        self.cells = nn.Embedding(12, 8)
        self.other = nn.Embedding(3, 8)


def structure(model, kept, edits=()):
    """``kept``: tensor -> (dim, units)."""
    tensors = dict(model.named_parameters())
    groups, units = [], {}
    for name, (dim, chosen) in kept.items():
        size = tensors[name].shape[dim]
        groups.append(Group(name, 'channel', size, [Slice(name, dim, [[i] for i in range(size)])]))
        units[name] = chosen
    return make_structure(model, groups, units, edits=edits)


def test_of_a_wider_teacher_the_kept_positions_count():
    model = Cells()
    mine = structure(model, {'cells.weight': (1, [0, 3, 4, 7])})
    theirs = torch.arange(24.0).view(3, 8)
    same = theirs[:, [0, 3, 4, 7]]
    assert loss(same, theirs, Kept(mine), kept='cells.weight:1') == 0
    assert loss(same + 2, theirs, Kept(mine), kept=['other.weight:0', 'cells.weight:1']) == 4
    with pytest.raises(UserError, match=r'the student says \(3, 4\), the teacher \(3, 8\)'):
        loss(same, theirs, Kept(mine), kept='cells.weight:0')
    with pytest.raises(UserError, match='no structure tells'):
        loss(same, theirs, Kept())


def test_a_slim_teacher_has_positions_of_its_own():
    model = Cells()
    mine, theirs = (structure(model, {'cells.weight': (1, units)}) for units in ([3, 7], [0, 3, 5, 7]))
    output = torch.arange(4.0)[None]
    assert loss(output[:, [1, 3]], output, Kept(mine, theirs), kept='cells.weight:1') == 0
    with pytest.raises(UserError, match='no structure tells'):  # it lacks one of the student's
        loss(output[:, [1, 3]], output, Kept(structure(model, {'cells.weight': (1, [2, 7])}), theirs))


def test_two_places_that_disagree_are_no_answer():
    model = Cells()
    mine = structure(model, {'cells.weight': (1, [0, 1]), 'other.weight': (1, [2, 3])})
    with pytest.raises(UserError, match='no structure tells'):
        loss(torch.zeros(1, 2), torch.zeros(1, 8), Kept(mine), kept=['cells.weight:1', 'other.weight:1'])


def test_a_layer_knows_its_own_channels():
    model = ToyNet()
    mine = structure(model, {'conv1.weight': (0, [1, 2]), 'classifier.bias': (0, [0, 3])})
    assert mine.architecture_sha256 == architecture_hash(model)
    images, logits = torch.randn(2, 8, 3, 3), torch.randn(2, 4)
    for name, output, same in (('conv1', images, images[:, [1, 2]]), ('classifier', logits, logits[:, [0, 3]])):
        assert DistillLoss(name)({name: same}, {name: output}, Kept(mine)).item() == 0


def test_a_coarser_grid():
    model = Cells()
    edit = {'type': 'grid', 'tensors': {'cells.weight': {'dim': 0, 'sizes': [[3, 4], [3, 2]]}}}
    mine = Structure.from_dict({**structure(model, {'cells.weight': (1, [0, 5])}).to_dict(), 'edits': [edit]})
    rows = torch.tensor([0.0, 2.0, 4.0, 6.0]).repeat(3)
    theirs = rows[:, None, None] + torch.arange(8.0)  # cells, batch of one, channels
    same = torch.tensor([1.0, 5.0]).repeat(3)[:, None, None] + torch.tensor([0.0, 5.0])
    assert loss(same, theirs, Kept(mine), kept=['cells.weight:0', 'cells.weight:1']) == 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kind': 'l2'}, "kind 'l2': choose from mse"),
        ({'weight': -1.0}, 'weight -1'),
        ({'temperature': 0.0}, 'temperature 0'),
        ({'kept': 'cells.weight'}, "'parameter:dim' is needed"),
        ({'output': [1.5]}, 'keys and indices'),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        DistillLoss('m', **options)


def test_outputs_that_are_not_there():
    with pytest.raises(UserError, match="distillation m_a: the output has no 'a'"):
        loss({'b': torch.zeros(1)}, {}, output='a')
    with pytest.raises(UserError, match='the output is a dict'):
        loss({'b': torch.zeros(1)}, {})
