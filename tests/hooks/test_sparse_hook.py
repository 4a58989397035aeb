"""SparseHook in trainings by MMEngine's Runner."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from torch.nn import functional

from sparse_toys import STEPS, Watch, config, hook_of, write_masks
from vadslim.checkpoint import load_checkpoint
from vadslim.classification import CIFARResNet
from vadslim.cli import UserError
from vadslim.hooks import LevelHook, SparseHook
from vadslim.sparse import SparseError, load_masks, penalty_factor, prunable_weights, save_masks, upstream_factor
from vadslim.testing import toy_runner

WATCH = {'type': 'vadslim.Watch'}
LEVEL = {'type': 'vadslim.LevelHook'}


@pytest.fixture(scope='module')
def masks(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp('masks') / 'masks.pth')


def sparse(masks, **options):
    return {'type': 'vadslim.SparseHook', 'masks': masks[0], **options}


def train(cfg):
    runner = toy_runner(cfg)
    runner.train()
    return runner, hook_of(runner, Watch)


@pytest.fixture(scope='module')
def trained(masks, tmp_path_factory):
    """Three epochs, with a lambda that is halved after each; nothing interrupts them."""
    folder = tmp_path_factory.mktemp('trained')
    hook = sparse(masks, schedule='x^2', granularity=0.5, target=101)
    return *train(config(folder, hook, LEVEL, WATCH, epochs=3)), folder


def test_what_is_pruned_stays_zero(masks, trained):
    runner, watch, _ = trained
    assert watch.removed == [0.0] * 3 * STEPS
    state = runner.model.state_dict()
    for name, final in masks[1].final.items():
        assert not state[name][~final].any(), name
        assert state[name][masks[1].refilled[name]].all(), name
    assert all(bool(values.any()) for values in watch.penalised)  # until the end of the last epoch


def test_lambda_of_each_iteration(trained):
    expected = [penalty_factor('x^2', (i + 1) / 30, 0.5) * 0.5 ** (i // STEPS) for i in range(3 * STEPS)]
    assert trained[1].lambdas == pytest.approx(expected, rel=1e-12)
    assert hook_of(trained[0], SparseHook).scale == 1 / 8


def test_validation_is_of_what_will_be_left(trained):
    watch = trained[1]
    assert watch.evaluated == [0.0] * 9
    assert watch.changed == []


def test_checkpoints_hold_the_masks(masks, trained):
    file = load_checkpoint(trained[2] / 'epoch_2.pth')['sparse']
    for name, found in zip(('current', 'refill'), load_masks(masks[0])):
        assert all(torch.equal(file[name][key], mask) for key, mask in found.items())
    assert file['scale'] == 0.5  # that of the second epoch: its validation came after


@pytest.mark.parametrize('epoch', [1, 2])
def test_resumed_as_uninterrupted(epoch, masks, trained, tmp_path):
    other = write_masks(tmp_path / 'other.pth', rate=0.2)  # those in the checkpoint count
    cfg = config(tmp_path, sparse(other, schedule='x^2', granularity=0.5, target=101), LEVEL, WATCH, epochs=3)
    runner, watch = train({**cfg, 'load_from': str(trained[2] / f'epoch_{epoch}.pth'), 'resume': True})
    assert watch.lambdas == trained[1].lambdas[epoch * STEPS :]
    assert hook_of(runner, SparseHook).scale == 1 / 8
    expected = trained[0].model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in runner.model.state_dict().items())


def test_load_from_takes_weights_alone(masks, trained, tmp_path):
    cfg = config(tmp_path, sparse(masks, target=101), WATCH, epochs=1)
    runner, watch = train({**cfg, 'load_from': str(trained[2] / 'epoch_3.pth')})
    assert watch.lambdas[0] == penalty_factor('exp_custom_exponents', 1 / STEPS)
    assert hook_of(runner, SparseHook).scale == 0.5


def test_numbers_of_the_public_code(masks, tmp_path):
    hook = sparse(masks, schedule='exp_custom', granularity=0.3, reg_mode='upstream')
    _, watch = train(config(tmp_path, hook, WATCH, epochs=2))
    expected = [upstream_factor('exp_custom', i // STEPS, i % STEPS, STEPS, 0.3) for i in range(2 * STEPS)]
    assert watch.lambdas == pytest.approx(expected, rel=1e-12)


def test_averaged_weights(masks, tmp_path):
    """What is penalised does not count in the evaluation of averages, and is not lost in them."""
    ema = {'type': 'EMAHook', 'momentum': 0.1}
    runner, watch = train(config(tmp_path, sparse(masks), LEVEL, ema, WATCH))
    assert watch.evaluated == [0.0] * 6
    assert watch.changed == []
    weights = dict(hook_of(runner, EMAHook).ema_model.module.named_parameters())
    penalised = torch.cat([weights[name][mask] for name, mask in masks[1].penalised.items()])
    assert penalised.abs().min() > 0
    file = load_checkpoint(tmp_path / f'best_epoch_{hook_of(runner, LevelHook).best}.pth')['state_dict']
    assert not any(file[name][~mask].any() for name, mask in masks[1].final.items())


def test_accumulated_gradients_are_penalised_once(masks, tmp_path):
    """Without the loss's gradient each step multiplies by 1 - lr * lambda: five steps are ten iterations."""
    wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}, 'accumulative_counts': 2}
    hook = sparse(masks, schedule='x', granularity=2.0, ceiling=1.5, block_loss_grad=True)
    _, watch = train(config(tmp_path, hook, WATCH, epochs=1, optim_wrapper=wrapper, param_scheduler=[]))
    lambdas = [min(2 * (i + 1) / STEPS, 1.5) for i in range(STEPS)]
    factor = 1.0
    for number, values in enumerate(watch.penalised):
        if number % 2:
            factor *= 1 - 0.1 * lambdas[number]
        assert torch.allclose(values, watch.penalised[0] * factor, rtol=1e-5)
    assert factor < 0.6


def by_hand(masks, scaler, losses=(1.0, 1.0, float('inf'), 1.0)):
    """Steps without a Runner's loop; a loss of inf is what a scaler skips."""
    torch.manual_seed(0)
    model = CIFARResNet(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    hub = SimpleNamespace(update_scalar=lambda *_: None)
    runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapper(optimizer), iter=0, epoch=0, max_iters=8)
    runner.message_hub = hub
    hook = SparseHook(masks[0], schedule='x')
    hook.before_train(runner)
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
    for number, factor in enumerate(losses):
        if scaler is None and factor == float('inf'):
            continue
        runner.iter = number
        hook.before_train_iter(runner, number)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model.eval()(images), labels) * factor
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_scaled_gradients_are_penalised_as_others(masks):
    plain = by_hand(masks, None)
    scaled = by_hand(masks, torch.amp.GradScaler('cpu', init_scale=1024))
    assert all(torch.allclose(value, scaled[name], rtol=1e-4, atol=1e-6) for name, value in plain.items())
    assert not any(scaled[name][mask].any() for name, mask in masks[1].removed.items())


@pytest.mark.parametrize(('nesterov', 'bound'), [(False, 76), (True, 27.14)])
def test_a_lambda_that_diverges_is_refused(nesterov, bound, masks):
    """With a learning rate of 0.05 and a momentum of 0.9; amid the warm-up it is smaller."""
    model = CIFARResNet(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=nesterov)
    optimizer.param_groups[0].update(lr=0.005, initial_lr=0.05)
    runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapper(optimizer), iter=0, epoch=0)
    SparseHook(masks[0], granularity=0.99 * bound, ceiling=1e9).before_train(runner)
    SparseHook(masks[0], granularity=1e9, ceiling=0.99 * bound).before_train(runner)
    with pytest.raises(SparseError, match='SGD diverges from'):
        SparseHook(masks[0], granularity=1.01 * bound, ceiling=1e9).before_train(runner)


def test_masks_of_another_network(masks, tmp_path):
    weights = prunable_weights(CIFARResNet(14))
    save_masks(tmp_path / 'deep.pth', {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()})
    with pytest.raises(SparseError, match='which the model does not have'):
        train(config(tmp_path, sparse((str(tmp_path / 'deep.pth'),)), WATCH))
    thin = {name: mask[:, :1] for name, mask in masks[1].kept.items()}
    save_masks(tmp_path / 'thin.pth', thin)
    with pytest.raises(SparseError, match=r'the mask of layer1.0.conv1.weight is \(16, 1, 3, 3\)'):
        train(config(tmp_path, sparse((str(tmp_path / 'thin.pth'),)), WATCH))


def test_masked_weights_that_nobody_steps(masks):
    """They could not be kept at zero."""
    model = CIFARResNet(8)
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if 'layer2' not in name], lr=0.1)
    runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapper(optimizer), iter=0, epoch=0)
    with pytest.raises(SparseError, match=r'no optimizer steps layer2.0.conv1.weight'):
        SparseHook(masks[0]).before_train(runner)


def test_the_metric_of_a_dynamic_lambda(masks, tmp_path):
    with pytest.raises(UserError, match=r"metric 'acc': the validation gives accuracy/top1"):
        train(config(tmp_path, sparse(masks, target=50, metric='acc'), WATCH, epochs=1))


@pytest.mark.parametrize(
    'options',
    [{'schedule': 'x^4'}, {'granularity': 0}, {'exponents': -1}, {'ceiling': -1}, {'reg_mode': 'old'}],
    ids=str,
)
def test_mistakes(options):
    with pytest.raises((UserError, SparseError)) as caught:
        SparseHook('masks.pth', **options)
    assert '\n' not in str(caught.value)


def test_no_masks():
    with pytest.raises(UserError, match='the file with the masks of this level is missing'):
        SparseHook().find_cases(None)
