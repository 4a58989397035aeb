"""Hard masks and the growing penalty inside real optimizers' steps."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from vadslim.sparse import HardMask, Penalty, SparseError

PENALISED = torch.tensor([[True, False, True]])


def parameter(values=(1.0, 2.0, -4.0), dtype=torch.float32):
    weight = nn.Parameter(torch.tensor([values], dtype=dtype))
    weight.grad = torch.tensor([[0.5, 0.5, 0.5]], dtype=dtype)
    return weight


def attached(optimizer, weight, factor, mask=PENALISED, **options):
    decoupled = options.pop('decoupled', None)
    penalty = Penalty({'w': weight}, {'w': mask}, **options)
    penalty.factor = factor
    return penalty, penalty.attach(optimizer, decoupled)


def test_sgd_adds_lambda_w_to_the_gradient():
    """w - lr * (g + lambda * w) on the first and the last, w - lr * g on the other."""
    weight = parameter()
    optimizer = SGD([weight], lr=0.1)
    penalty, handle = attached(optimizer, weight, 2.0)
    optimizer.step()
    assert weight.tolist() == [pytest.approx([1 - 0.1 * 2.5, 2 - 0.05, -4 - 0.1 * (0.5 - 8)])]
    assert weight.grad.tolist() == [[2.5, 0.5, -7.5]]
    weight.grad.fill_(0)
    penalty.factor = 0.0
    optimizer.step()
    assert weight.grad.tolist() == [[0, 0, 0]]
    penalty.factor = 1.0
    handle.remove()
    optimizer.step()
    assert weight.grad.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize('kind', [SGD, AdamW])
def test_nothing_is_done_while_lambda_is_zero(kind):
    weight = parameter()
    attached(kind([weight], lr=0.1), weight, 0.0)[0]._apply(kind([weight]), kind is AdamW)
    assert weight._version == weight.grad._version == 0  # neither was written to


def test_a_maximizing_sgd_is_penalised_too():
    weight = parameter()
    optimizer = SGD([weight], lr=0.1, maximize=True)
    attached(optimizer, weight, 2.0)
    optimizer.step()
    assert weight.tolist() == [pytest.approx([1 + 0.05 - 0.2, 2 + 0.05, -4 + 0.05 + 0.8])]


@pytest.mark.parametrize('kind', [Adam, AdamW, RMSprop])
def test_adam_and_its_kin_shrink_the_weights(kind):
    """The same step as without the penalty, from weights that were shrunk by lr * lambda before."""
    weight, twin = parameter(), parameter((1 * 0.98, 2.0, -4 * 0.98))
    optimizer, plain = kind([weight], lr=0.01), kind([twin], lr=0.01)
    attached(optimizer, weight, 2.0)
    optimizer.step()
    plain.step()
    assert torch.allclose(weight, twin, rtol=0, atol=1e-6)
    assert weight.grad.tolist() == [[0.5, 0.5, 0.5]]


def test_a_shrinkage_never_overshoots():
    weight = parameter()
    weight.grad.zero_()
    optimizer = AdamW([weight], lr=0.5, weight_decay=0)
    attached(optimizer, weight, 100.0)
    optimizer.step()
    assert weight.tolist() == [[0, 2, 0]]


def test_each_group_has_its_own_learning_rate():
    weights = {'a': parameter(), 'b': parameter(), 'c': parameter()}
    optimizer = Adam([{'params': [weights['a']], 'lr': 0.1}, {'params': [weights['b'], weights['c']], 'lr': 0.2}])
    for weight in weights.values():
        weight.grad.zero_()
    penalty = Penalty(weights, dict.fromkeys(weights, PENALISED))
    penalty.factor = 1.0
    penalty.attach(optimizer)
    optimizer.step()
    assert weights['a'].tolist() == [pytest.approx([0.9, 2, -3.6])]
    assert weights['b'].tolist() == weights['c'].tolist() == [pytest.approx([0.8, 2, -3.2])]


def test_the_way_can_be_chosen():
    weight = parameter()
    optimizer = SGD([weight], lr=0.1)
    attached(optimizer, weight, 2.0, decoupled=True)
    optimizer.step()
    assert weight.tolist() == [pytest.approx([0.8 - 0.05, 2 - 0.05, -3.2 - 0.05])]


@pytest.mark.parametrize('kind', [SGD, Adam])
def test_blocking_the_loss_blocks_it_on_the_penalised_set_alone(kind):
    """Upstream blocked it everywhere, so that nothing was trained."""
    weight, other = parameter(), parameter()
    optimizer = kind([weight, other], lr=0.1)
    penalty = Penalty({'w': weight, 'v': other}, {'w': PENALISED, 'v': ~PENALISED & PENALISED}, block_loss_grad=True)
    penalty.factor = 2.0
    penalty.attach(optimizer)
    optimizer.step()
    assert weight.grad.tolist() == ([[2, 0.5, -8]] if kind is SGD else [[0, 0.5, 0]])
    assert weight.tolist() == [pytest.approx([0.8, 2 - (0.05 if kind is SGD else 0.1), -3.2])]
    assert other.grad.tolist() == [[0.5, 0.5, 0.5]]


def test_it_fires_after_clipping_and_once_per_real_step():
    torch.manual_seed(0)
    layer = nn.Linear(3, 1, bias=False)
    optimizer = SGD(layer.parameters(), lr=0.1)
    attached(optimizer, layer.weight, 3.0)
    before = layer.weight.detach().clone()
    for _ in range(4):  # accumulates
        (layer(torch.ones(1, 3)) / 4).sum().backward()
    nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
    clipped = layer.weight.grad.clone()
    optimizer.step()
    assert torch.allclose(layer.weight.grad, clipped + 3 * before * PENALISED)


def test_under_a_gradient_scaler():
    """Unscaled gradients get the penalty; a step that is skipped neither shrinks nor adds."""
    for kind in (SGD, AdamW):
        weight = parameter()
        optimizer, scaler = kind([weight], lr=0.1, weight_decay=0), torch.amp.GradScaler('cpu', init_scale=1024.0)
        attached(optimizer, weight, 2.0)
        scaler.scale((weight * torch.inf).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == [[1, 2, -4]]
        weight.grad = None
        scaler.scale((weight * 0.5).sum()).backward()
        scaler.step(optimizer)
        expected = [1 - 0.25, 2 - 0.05, -4 + 0.75] if kind is SGD else [0.8 - 0.1, 2 - 0.1, -3.2 - 0.1]
        assert weight.tolist() == [pytest.approx(expected, rel=1e-5)]


def test_what_it_cannot_do_is_refused():
    weight = parameter()
    fused, scaler = SGD([weight], lr=0.1, fused=True), torch.amp.GradScaler('cpu')
    attached(fused, weight, 1.0)
    weight.grad = None
    scaler.scale(weight.sum()).backward()
    with pytest.raises(SparseError, match='fused=True under a gradient scaler'):
        scaler.step(fused)
    weight = parameter()
    optimizer = SGD([weight], lr=0.1)
    penalty, _ = attached(optimizer, weight, 1.0)
    with pytest.raises(SparseError, match='without a closure'):
        optimizer.step(lambda: 0.0)
    with pytest.raises(SparseError, match='without a closure'):
        optimizer.step(closure=lambda: 0.0)
    optimizer.step(None)
    for factor in (-1.0, float('inf'), float('nan')):
        penalty.factor = factor
        with pytest.raises(SparseError, match='it is a finite number, 0 or more'):
            optimizer.step()
    with pytest.raises(SparseError, match='the optimizer does not step w'):
        attached(SGD([parameter()], lr=0.1), weight, 1.0)
    with pytest.raises(SparseError, match="block_loss_grad is 'False'"):
        Penalty({'w': weight}, {'w': PENALISED}, block_loss_grad='False')


def test_a_weight_without_a_gradient_is_left_alone():
    for kind in (SGD, Adam):
        weight, other = parameter(), parameter()
        optimizer = kind([weight, other], lr=0.1)
        attached(optimizer, weight, 2.0)
        weight.grad = None
        optimizer.step()
        assert weight.tolist() == [[1, 2, -4]] and weight.grad is None


def test_nothing_to_penalise():
    weight = parameter()
    optimizer = SGD([parameter()], lr=0.1)
    attached(optimizer, weight, 2.0, torch.zeros_like(PENALISED))
    Penalty({}, {}).attach(optimizer)
    HardMask({}, {}).attach(optimizer)
    optimizer.step()
    assert weight.grad.tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('kind', [SGD, AdamW])
def test_other_types(kind, dtype):
    weight = parameter(dtype=dtype)
    weight.grad.zero_()
    options = {'eps': 1e-4} if kind is AdamW else {}  # its 1e-8 is 0 in float16
    optimizer = kind([weight], lr=0.25, weight_decay=0, **options)
    attached(optimizer, weight, 2.0)
    optimizer.step()
    assert weight.dtype == dtype
    assert weight.tolist() == [[0.5, 2, -2]]


@pytest.mark.parametrize('kind', [SGD, Adam, AdamW])
def test_hard_masked_weights_stay_zero(kind):
    """Even against momentum from before the mask."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last), nn.Conv2d(4, 2, 3))
    options = {'momentum': 0.9} if kind is SGD else {}
    optimizer = kind(layers.parameters(), lr=0.1, weight_decay=0.1, **options)

    def step():
        optimizer.zero_grad()
        layers(torch.randn(2, 2, 8, 8)).square().mean().backward()
        optimizer.step()

    step()
    weights = {'0.weight': layers[0].weight, '1.weight': layers[1].weight}
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in weights.items()}
    handle = HardMask(weights, masks).attach(optimizer)
    for _ in range(3):
        assert all(torch.equal(weights[name] != 0, masks[name]) for name in weights)
        step()
    handle.remove()
    step()
    assert any(bool((weights[name][~masks[name]] != 0).any()) for name in weights)


@pytest.mark.parametrize('kind', [SGD, Adam])
def test_a_growing_penalty_drives_weights_to_zero(kind):
    """The penalised weights die out while the others go on learning the same task."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 3)
    layer = nn.Linear(3, 1, bias=False)
    optimizer = kind(layer.parameters(), lr=0.02)
    penalty, _ = attached(optimizer, layer.weight, 0.0)
    for step in range(600):
        penalty.factor = 20 * step / 600
        optimizer.zero_grad()
        (layer(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    first, second, third = layer.weight[0].abs().tolist()
    assert max(first, third) < 0.15 and second > 0.8
