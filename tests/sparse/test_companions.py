"""What goes with a channel that has no weights left."""

import pytest
import torch
from torch import nn

from vadslim.analysis import find_example
from vadslim.classification import VGG, CIFARResNet
from vadslim.sparse import (
    HardMask,
    Penalty,
    SparseError,
    cases,
    companion_masks,
    dense_masks,
    find_companions,
    parameters_of,
    prunable_weights,
    remain_weight,
    with_companions,
)

IMAGE = torch.zeros(1, 3, 8, 8)


class Small(nn.Module):
    """A conv with a bias and a norm, one with neither behind a ReLU, and a norm that two convs share."""

    def __init__(self):
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.c, self.d, self.norm_cd = nn.Conv2d(5, 2, 1), nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.norm_b(self.b(self.norm_a(self.a(x)).relu()).relu())  # a ReLU comes between
        return self.norm_cd(self.c(x)) + self.norm_cd(self.d(x))


def test_who_belongs_to_whom():
    assert find_companions(Small(), IMAGE) == {
        'a.bias': ('a.weight',),
        'norm_a.weight': ('a.weight',),
        'norm_a.bias': ('a.weight',),
        'c.bias': ('c.weight',),
        'd.bias': ('d.weight',),
        'norm_cd.weight': ('c.weight', 'd.weight'),
        'norm_cd.bias': ('c.weight', 'd.weight'),
    }


def test_a_norm_of_something_else_as_well_is_left_alone():
    class Twice(Small):
        def forward(self, x):
            return self.norm_cd(super().forward(x))

    assert 'norm_cd.weight' not in find_companions(Twice(), IMAGE)


def test_frozen_ones_are_left_out_and_the_model_as_it_is():
    model = Small().train()
    model.norm_a.bias.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert 'norm_a.bias' not in find_companions(model, IMAGE)
    assert model.training and not model.a._forward_hooks
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_masks_of_companions():
    masks = {'a.weight': torch.ones(4, 3, 1, 1).bool(), 'c.weight': torch.zeros(2, 5, 1, 1).bool()}
    masks['a.weight'][1] = False
    masks['a.weight'][2, 1:] = False  # one weight is left
    found = companion_masks(masks, find_companions(Small(), IMAGE))
    assert {name: mask.tolist() for name, mask in found.items()} == {
        **dict.fromkeys(('a.bias', 'norm_a.weight', 'norm_a.bias'), [True, False, True, True]),
        'c.bias': [False, False],  # the norm is d's as well, of which nothing is known
    }
    masks['d.weight'] = torch.tensor([True, False]).reshape(2, 1, 1, 1).expand(2, 5, 1, 1)
    assert companion_masks(masks, find_companions(Small(), IMAGE))['norm_cd.bias'].tolist() == [True, False]
    with pytest.raises(SparseError, match='differ in width'):
        companion_masks({**masks, 'd.weight': torch.ones(3, 5).bool()}, find_companions(Small(), IMAGE))


def test_names_in_the_networks():
    vgg = VGG([8, 'M', 8], image_size=8)
    found = find_companions(vgg, find_example(vgg, small=True).run)
    assert found['features.4.bias'] == found['features.5.weight'] == ('features.4.weight',)
    resnet = CIFARResNet(8, shortcut='B')
    masks = dense_masks(prunable_weights(resnet))
    both = with_companions(resnet, masks, find_example(resnet, small=True).run)
    norms = {name for name, part in resnet.named_modules() if isinstance(part, nn.BatchNorm2d)} - {'bn1'}
    assert both.keys() - masks.keys() == {f'{name}.{end}' for name in norms for end in ('weight', 'bias')}


def test_they_train_like_weights():
    """The same functions take both: a removed channel is held at zero, a penalised one shrinks."""
    model = Small()
    current = dense_masks({'a.weight': model.a.weight})
    current['a.weight'][3] = False
    refill = {'a.weight': current['a.weight'].clone()}
    refill['a.weight'][2] = False
    found = find_companions(model, IMAGE)
    case = cases(*({**masks, **companion_masks(masks, found)} for masks in (current, refill)))
    assert remain_weight(current) == 75
    assert case.penalised['norm_a.bias'].tolist() == [False, False, True, False]
    assert case.removed['norm_a.bias'].tolist() == [False, False, False, True]
    weights = parameters_of(model, case.active)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    HardMask(weights, case.active).attach(optimizer)
    penalty = Penalty(weights, case.penalised)
    penalty.attach(optimizer)
    penalty.factor = 5.0
    before = model.norm_a.weight.tolist()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert model.norm_a.weight.tolist() == [before[0], before[1], 0.5 * before[2], 0]
    assert model.a.bias[3] == 0 and not model.a.weight[3].any()
    with pytest.raises(SparseError, match='no parameter of Small'):
        parameters_of(model, {'x': current['a.weight']})
