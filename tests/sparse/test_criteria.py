"""Scores of channels, with numbers worked out by hand."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

import vadslim.classification  # noqa: F401  registers the models and data of the config
from vadslim.registry import MODELS
from vadslim.slimming.batches import loss_batches
from vadslim.sparse import (
    CRITERIA,
    SparseError,
    channel_scores,
    dense_masks,
    prunable_weights,
    refill,
    remain_weight,
    weight_scores,
)

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'sparse' / 'resnet20_digits_dense.py'
DATA_DRIVEN = ('l1', 'l2', 'saliency', 'hessian')


class Two(nn.Module):
    """Two 1x1 convolutions with a ReLU that works in place between them, whose channels rank in opposite orders."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([1.0, 3]).view(2, 1, 1, 1))
            self.b.weight.copy_(torch.tensor([[2.0, 0], [0, -1], [1, 1]]).view(3, 2, 1, 1))

    def forward(self, x):
        return self.b(torch.relu_(self.a(x)))


def run(*values):
    """A batch: one row of pixels; the loss weighs the output channels by 1, -2 and 1/2."""
    x = torch.tensor(values).view(1, 1, 1, -1)
    return lambda model: {'loss': (model(x) * torch.tensor([1, -2, 0.5]).view(3, 1, 1)).sum()}


BATCHES = [run(1.0, 2.0), run(-1.0, 0.0)]


def scored(model, criterion, batches=BATCHES, masks=None, **options):
    weights = prunable_weights(model)
    found = channel_scores(model, weights, masks or dense_masks(weights), criterion, batches, **options)
    assert all(score.dtype == torch.float64 for score in found.values())
    return {name: score.tolist() for name, score in found.items()}


@pytest.mark.parametrize(
    ('criterion', 'a', 'b'),
    [
        ('remain', [1, 1], [2, 2, 2]),
        ('magnitude', [1, 3], [2, 1, 2]),
        ('l1', [4, 12], [6, 9, 12]),  # a gives 1, 2, -1, 0 and three times that; b reads 1, 2, 0, 0 and 3, 6, 0, 0
        ('l2', [6, 54], [20, 45, 80]),
        ('saliency', [7.5, 22.5], [6, 18, 6]),  # of both channels of a the derivative is 2 + 1/2
    ],
)
def test_each_layer_by_its_own_numbers(criterion, a, b):
    assert scored(Two(), criterion) == {'a.weight': a, 'b.weight': b}


def test_masked_and_trained_weights():
    """The weights that are given count, not those that the model holds, and only what is left of them."""
    model = Two()
    masks = dense_masks(prunable_weights(model))
    masks['a.weight'][0] = False
    trained = {'a.weight': torch.tensor([5.0, 2]).view(2, 1, 1, 1), 'b.weight': model.b.weight.detach() * 10}
    for criterion, a, b in (
        ('remain', [0, 1], [2, 2, 2]),
        ('magnitude', [0, 2], [20, 10, 20]),
        ('l1', [0, 8], [0, 60, 60]),
        ('l2', [0, 24], [0, 2000, 2000]),
        ('saliency', [0, 6 * 25], [0, 120, 30]),
    ):
        found = channel_scores(model, trained, masks, criterion, BATCHES)
        assert found['a.weight'].tolist() == a, criterion
        assert found['b.weight'].tolist() == pytest.approx(b, abs=1e-20), criterion
    assert model.a.weight.flatten().tolist() == [1, 3]


def test_what_works_in_place_on_the_outputs():
    class Tripled(Two):
        def forward(self, x):
            return self.a(x).mul_(3)

    model = Tripled()
    weights = {'a.weight': model.a.weight}
    found = channel_scores(
        model, weights, dense_masks(weights), 'saliency', [lambda m: m(torch.ones(1, 1, 1, 1)).sum()]
    )
    assert found['a.weight'].tolist() == [3, 9]  # half of the sum is the mean of two; a * 3


def test_hessian_of_a_quadratic():
    """Of k (w x)^2 the second derivative is 2 k x^2: the score k w^2 x^2, negative where k is. Probes are exact."""
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0], [5.0]]))
    model = nn.ModuleDict({'fc': model})
    weights = dict(model.named_parameters())
    batches = [
        lambda m, x=x: (m['fc'](torch.tensor([[x]]).double()).square() * torch.tensor([[3.0, -1]])).sum()
        for x in (1, 2)
    ]
    scores = channel_scores(model, weights, dense_masks(weights), 'hessian', batches)['fc.weight']
    assert scores.tolist() == pytest.approx([3 * 4 * 2.5, -25 * 2.5], rel=1e-6)  # the mean of x^2 is 2.5
    half = {'fc.weight': torch.tensor([[False], [True]])}
    scores = weight_scores(model, weights, half, 'hessian', batches)['fc.weight']
    assert scores.flatten().tolist() == pytest.approx([0, -25 * 2.5], rel=1e-6)


def test_masked_weights_are_no_noise_to_the_hessian():
    """(sum of w)^2 couples all weights, but of the one that is left the estimate is exact: 2 w^2 / 2."""
    model = nn.ModuleDict({'fc': nn.Linear(8, 1, bias=False).double()})
    weights = {'fc.weight': model['fc'].weight}
    masks = {'fc.weight': torch.arange(8).eq(3)[None]}
    batch = [lambda m: m['fc'](torch.ones(1, 8).double()).square().sum()]
    found = channel_scores(model, weights, masks, 'hessian', batch, probes=1)['fc.weight']
    assert found.tolist() == pytest.approx([weights['fc.weight'][0, 3].item() ** 2], rel=1e-6)


def test_linear_layers_have_their_channels_last():
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([1.0, 2, 3])))
    weights = dict(model.named_parameters())
    tokens = torch.ones(2, 3, 3)  # (B, length, C)
    found = channel_scores(model, weights, dense_masks(weights), 'l1', [lambda m: m(tokens).sum()])
    assert found['0.weight'].tolist() == [6, 12, 18]


def test_shared_weights_and_layers_called_twice_add_up():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.two.weight = self.one.weight
            with torch.no_grad():
                self.one.weight.copy_(torch.eye(2))

        def forward(self, x):
            return self.two(2 * self.one(self.one(x)))

    model = Shared()
    weights = dict(model.named_parameters())
    assert list(weights) == ['one.weight']
    batch = [lambda m: m(torch.tensor([[1.0, 3.0]])).sum()]
    masks = dense_masks(weights)
    assert channel_scores(model, weights, masks, 'l1', batch)['one.weight'].tolist() == [1 + 1 + 2, 3 + 3 + 6]
    assert channel_scores(model, weights, masks, 'saliency', batch)['one.weight'].tolist() == [6, 18]


class Unused(Two):
    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(1, 2, 1)


@pytest.mark.parametrize('criterion', ['l1', 'l2', 'saliency'])
def test_a_layer_that_is_never_called(criterion):
    with pytest.raises(SparseError, match=f"'{criterion}': the layer of late.weight is never called"):
        scored(Unused(), criterion)


def test_equal_scores_are_ordered_by_magnitude():
    """To a layer that the loss does not depend on all its channels are worth 0."""
    model = Unused()
    with torch.no_grad():
        model.late.weight.copy_(torch.tensor([1.0, 2]).view(2, 1, 1, 1))
    batch = [lambda m: m.late(torch.ones(1, 1, 1, 1)).sum() * 0 + run(1.0)(m)['loss']]
    scores = channel_scores(
        model, {'late.weight': model.late.weight}, {'late.weight': torch.ones(2, 1, 1, 1).bool()}, 'saliency', batch
    )
    one, two = scores['late.weight'].tolist()
    assert 0 < one < two < 1e-20
    masks = {'late.weight': torch.tensor([True, False]).view(2, 1, 1, 1)}
    assert refill(masks, scores)['late.weight'].flatten().tolist() == [False, True]


class Restless(nn.Module):
    """Draws random numbers, drops, and keeps statistics."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.drop = nn.Conv2d(4, 4, 3), nn.Dropout(0.5)

    def forward(self, x):
        x = x + torch.rand(1) + random.random() + float(np.random.rand())
        return self.b(self.drop(self.norm(self.a(x)).relu()))


@pytest.mark.parametrize('criterion', DATA_DRIVEN)
def test_the_model_and_the_random_state_stay(criterion):
    torch.manual_seed(0)
    model = Restless().train()
    model.norm.eval()
    model.a.bias.requires_grad_(False)
    model.b.register_forward_hook(lambda *_: None)
    x = torch.rand(2, 1, 6, 6)
    model.b(torch.rand(1, 4, 6, 6)).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    masks = {name: torch.rand_like(w) < 0.5 for name, w in prunable_weights(model).items()}
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    first = scored(model, criterion, [lambda m: m(x).square().mean()] * 2, masks)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert scored(model, criterion, [lambda m: m(x).square().mean()] * 2, masks) == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for name, p in model.named_parameters():
        assert p.requires_grad == (name != 'a.bias')
        assert (p.grad is None) == (gradients[name] is None) and (
            p.grad is None or torch.equal(p.grad, gradients[name])
        )
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert [len(m._forward_hooks) for m in model.modules()] == [0, 0, 0, 1, 0]


def test_evaluation_mode():
    """In training mode the norm would make the scale of its inputs disappear, and dropout half of them."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Conv2d(1, 1, 1, bias=False)).train()
    nn.init.ones_(model[2].weight)
    found = scored(model, 'l1', [lambda m: m(torch.full((1, 1, 1, 2), 100.0)).sum()])
    assert found['2.weight'] == pytest.approx([200], rel=1e-4)


def test_layers_inside_attention_are_called():
    """PyTorch's fused operators would pass the linear layers by."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    weights = prunable_weights(model, (nn.Linear,))
    assert {'linear1.weight', 'self_attn.out_proj.weight'} <= set(weights)
    found = channel_scores(model, weights, dense_masks(weights), 'l1', [lambda m: m(torch.rand(2, 3, 8)).sum()])
    assert all(bool((score > 0).any()) for score in found.values())
    assert type(model.self_attn) is nn.MultiheadAttention


def test_squares_of_half_precision():
    model = nn.ModuleDict({'fc': nn.Linear(1, 1, bias=False).half()})
    nn.init.constant_(model['fc'].weight, 300)
    weights = dict(model.named_parameters())
    found = channel_scores(model, weights, dense_masks(weights), 'l2', [lambda m: m['fc'](torch.ones(1, 1).half())])
    assert found['fc.weight'].tolist() == [90000]


def test_processes_share_the_batches():
    """``reduce`` gets one vector and adds those of the others: here a second process with the same batches."""

    class Half(list):
        def reduce(self, vector):
            return 2 * vector

    assert scored(Two(), 'l1', Half(BATCHES)) == {'a.weight': [8, 24], 'b.weight': [12, 18, 24]}
    assert scored(Two(), 'hessian', Half(BATCHES)) == scored(Two(), 'hessian')  # a mean


@pytest.fixture(scope='module')
def digits():
    config = Config.fromfile(CONFIG)
    config.train_dataloader.batch_size = 8
    torch.manual_seed(0)
    return MODELS.build(config.model), loss_batches(config, 2)


@pytest.mark.parametrize('criterion', CRITERIA)
def test_a_network_of_mmengine(digits, criterion):
    """Data of the config's loader, through the model's data_preprocessor, in mode loss."""
    model, batches = digits
    weights = prunable_weights(model)
    masks = {name: torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.6 for name, w in weights.items()}
    scores = channel_scores(model, weights, masks, criterion, batches, probes=1)
    assert list(scores) == list(weights) and len(scores) > 15
    assert all(score.shape == weights[name].shape[:1] for name, score in scores.items())
    assert remain_weight(masks) <= remain_weight(refill(masks, scores)) < 70
    again = channel_scores(model, weights, masks, criterion, batches, probes=1)
    assert all(torch.equal(score, again[name]) for name, score in scores.items())


def test_settings_that_cannot_be():
    model = Two()
    with pytest.raises(SparseError, match="criterion 'L1' is not known; there are remain, magnitude, l1"):
        scored(model, 'L1')
    for criterion in DATA_DRIVEN:
        with pytest.raises(SparseError, match=f'{criterion!r} looks at data'):
            scored(model, criterion, None)
        with pytest.raises(SparseError, match='there are no batches'):
            scored(model, criterion, [])
    assert scored(model, 'magnitude', None) == scored(model, 'magnitude')
    with pytest.raises(SparseError, match='the model has no parameter c.weight'):
        channel_scores(model, {'c.weight': torch.ones(1)}, {'c.weight': torch.ones(1).bool()}, 'l1', BATCHES)
    with pytest.raises(SparseError, match=r'no parameter a.weight of \(1, 1, 1, 1\)'):  # not broadcast
        one = torch.ones(1, 1, 1, 1)
        channel_scores(model, {'a.weight': one}, {'a.weight': one.bool()}, 'l1', BATCHES)
    with pytest.raises(SparseError, match='masks and weights are not of the same layers'):
        scored(model, 'remain', None, {'a.weight': torch.ones(2, 1, 1, 1).bool()})


def test_numbers_that_are_not_finite():
    model = Two()
    with pytest.raises(SparseError, match='l1 scores of a.weight are not finite'):
        scored(model, 'l1', [run(float('inf'))])
    with pytest.raises(SparseError, match='the loss of batch 1 is nan'):
        scored(model, 'saliency', [run(1.0), run(float('nan'))])
    with torch.no_grad():
        model.b.weight[1, 0] = float('nan')
    with pytest.raises(SparseError, match='magnitude scores of b.weight are not finite'):
        scored(model, 'magnitude')
    masks = dense_masks(prunable_weights(model))
    masks['b.weight'][1, 0] = False
    assert scored(model, 'magnitude', None, masks)['b.weight'] == [2, 1, 2]


def test_outputs_without_channels():
    class Odd(nn.Linear):
        def forward(self, x):
            return (super().forward(x),)

    model = nn.ModuleDict({'fc': Odd(2, 2)})
    weights = {'fc.weight': model['fc'].weight}
    with pytest.raises(SparseError, match='fc.weight: its layer gives tuple, no tensor of 2 channels'):
        channel_scores(model, weights, dense_masks(weights), 'l1', [lambda m: m['fc'](torch.ones(1, 2))[0].sum()])


def test_hessian_of_a_channel_that_is_gone():
    """Scores may be negative; a channel without weights, whose own would be 0, is still the last."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten())
    name = '0.weight'
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1))
    masks = {name: torch.tensor([True, True, False]).reshape(3, 1, 1, 1)}

    def run(network):
        return -network(torch.ones(2, 1, 1, 1)).square().sum()  # curved downwards: every h is negative

    scores = channel_scores(model, {name: model[0].weight}, masks, 'hessian', [run])[name]
    assert scores[2] < scores.min() + 1e-9 and scores[0] < 0 and scores.argsort()[0] == 2
