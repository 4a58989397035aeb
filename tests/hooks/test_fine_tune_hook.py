"""FineTuneHook in a real Runner: the rate of every iteration, and what is taken from a checkpoint."""

import copy
import math

import pytest
import torch
from mmengine.hooks import Hook

from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError
from vadslim.hooks import choose_start, fine_tune_config
from vadslim.testing import toy_config, toy_runner

RATES = {'conv1': 2e-4, 'classifier': 2e-3}
LENGTH = 4  # iterations of an epoch
DENSE = 3  # epochs of the dense training


class Recorder(Hook):
    """Notes the rates at which each iteration is trained."""

    def __init__(self):
        self.rates = []
        self.first_moments = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        names = {id(parameter): name.split('.')[0] for name, parameter in runner.model.named_parameters()}
        groups = runner.optim_wrapper.optimizer.param_groups
        by_name = {names[id(parameter)]: group['lr'] for group in groups for parameter in group['params']}
        self.rates.append({name: by_name[name] for name in RATES})
        if self.first_moments is None:
            self.first_moments = copy.deepcopy(runner.optim_wrapper.optimizer.state_dict()['state'])


class StopAfter(Hook):
    """Kills the run after an epoch, when its checkpoint is written."""

    priority = 'LOWEST'

    def __init__(self, epochs):
        self.epochs = epochs

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epochs:
            raise KeyboardInterrupt


def train(config, *hooks):
    runner, recorder = toy_runner(config), Recorder()
    for hook in (recorder, *hooks):
        runner.register_hook(hook)
    try:
        runner.train()
    except KeyboardInterrupt:
        assert hooks
    return runner, recorder


def tuned(work_dir, mode, epochs, **changes):
    config = toy_config(work_dir, epochs=DENSE)
    return {**config, **fine_tune_config(config, mode, epochs), **changes}


def law(mode, i, epochs, start_epoch=0):
    """lr(i) / base as the design states it, in closed form."""
    factor, width = {'fine-tune': (0.1, 500), 'retrain': (0.5, 1000)}[mode]
    width = min(width, (epochs - start_epoch) * LENGTH // 5)
    progress = (start_epoch + i // LENGTH) / epochs
    floor = 1e-3
    s = floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    return factor * (1 / 3 + 2 / 3 * min(i / width, 1)) * s


def assert_rates(rates, mode, epochs, start_epoch=0, first=0):
    assert len(rates) == (epochs - start_epoch) * LENGTH - first
    for i, row in enumerate(rates, first):
        for name, rate in row.items():
            assert rate == pytest.approx(RATES[name] * law(mode, i, epochs, start_epoch), rel=1e-9), (i, name)


def weights(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
    """The checkpoint of a finished dense training."""
    folder = tmp_path_factory.mktemp('dense')
    train(toy_config(folder, epochs=DENSE))
    return folder / f'epoch_{DENSE}.pth'


def test_retrain_and_its_resume(dense, tmp_path):
    config = tuned(tmp_path / 'whole', 'retrain', 7, load_from=str(dense))
    whole, recorder = train(config)
    assert_rates(recorder.rates, 'retrain', 7)
    assert not recorder.first_moments  # weights alone are loaded

    config = {**config, 'work_dir': str(tmp_path / 'halves')}
    _, begun = train(config, StopAfter(2))
    assert begun.rates == recorder.rates[: 2 * LENGTH]
    latest = str(tmp_path / 'halves' / 'latest.pth')
    resumed, recorder = train({**config, 'load_from': latest, 'resume': True})
    assert_rates(recorder.rates, 'retrain', 7, first=2 * LENGTH)
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_fine_tune_goes_on_from_a_dense_training(dense, tmp_path):
    config = tuned(tmp_path / 'whole', 'fine-tune', 7, load_from=str(dense), resume=True)
    config['optim_wrapper']['optimizer']['weight_decay'] = 0.02
    whole, recorder = train(config)
    assert_rates(recorder.rates, 'fine-tune', 7, start_epoch=DENSE)
    assert (whole.epoch, whole.iter) == (7, 7 * LENGTH)
    moments = load_checkpoint(dense)['optimizer']['state']
    assert moments
    for number, state in moments.items():
        for key, value in state.items():
            assert torch.equal(recorder.first_moments[number][key], value)
    assert {group['weight_decay'] for group in whole.optim_wrapper.optimizer.param_groups} == {0.02}
    assert whole.optim_wrapper.base_param_settings['weight_decay'] == 0.02
    logged = whole.message_hub.get_scalar('train/loss')._count_history.sum()
    assert logged == (7 - DENSE) * LENGTH  # nothing of the dense run's log

    saved = load_checkpoint(tmp_path / 'whole' / 'latest.pth')
    assert saved['fine_tune'] == {'mode': 'fine-tune', 'start_epoch': 3, 'start_iter': 12, 'epochs': 7}

    config = {**config, 'work_dir': str(tmp_path / 'halves')}
    train(config, StopAfter(5))
    latest = str(tmp_path / 'halves' / 'latest.pth')
    assert choose_start(load_checkpoint(latest), 'fine-tune', 7).resume
    resumed, recorder = train({**config, 'load_from': latest})
    assert_rates(recorder.rates, 'fine-tune', 7, start_epoch=DENSE, first=2 * LENGTH)
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_moments_that_do_not_fit_start_at_zero(dense, tmp_path):
    checkpoint = load_checkpoint(dense)
    number = checkpoint['optimizer']['param_groups'][3]['params'][0]
    checkpoint['optimizer']['state'][number]['exp_avg'] = torch.zeros(5)
    torch.save(checkpoint, tmp_path / 'odd.pth')
    _, recorder = train(tuned(tmp_path / 'a', 'fine-tune', 4, load_from=str(tmp_path / 'odd.pth'), resume=True))
    assert set(checkpoint['optimizer']['state']) - set(recorder.first_moments) == {number}

    checkpoint['optimizer']['param_groups'].pop()
    torch.save(checkpoint, tmp_path / 'other.pth')
    _, recorder = train(tuned(tmp_path / 'b', 'fine-tune', 5, load_from=str(tmp_path / 'other.pth'), resume=True))
    assert not recorder.first_moments
    assert_rates(recorder.rates, 'fine-tune', 5, start_epoch=DENSE)


def test_mistakes_are_named(dense, tmp_path):
    with pytest.raises(UserError, match='retraining starts at epoch 0'):
        train(tuned(tmp_path / 'a', 'retrain', 7, load_from=str(dense), resume=True))
    with pytest.raises(UserError, match='has 3 epochs, the target is 2'):
        train(tuned(tmp_path / 'b', 'fine-tune', 2, load_from=str(dense), resume=True))
    config = tuned(tmp_path / 'c', 'fine-tune', 7)
    config['param_scheduler'] = toy_config(tmp_path)['param_scheduler']
    with pytest.raises(UserError, match='needs a param_scheduler of type vadslim.FineTuneLR'):
        train(config)


def test_choose_start():
    mmengine = {'meta': {'epoch': 8, 'iter': 800}, 'message_hub': {}}
    assert choose_start(mmengine, 'fine-tune', 12).resume
    for checkpoint, mode, epochs, words in [
        (mmengine, 'fine-tune', 8, '8 epochs, the target is 8'),
        (mmengine, 'retrain', 12, 'epoch 0'),
        ({'meta': {'epoch': 8, 'iter': 800}}, 'fine-tune', 12, 'not written by MMEngine'),
        ({'meta': {'epoch': 8}, 'message_hub': {}}, 'fine-tune', 12, 'not written by MMEngine'),
        ({'meta': {}}, 'fine-tune', 12, 'names no epoch'),
        ({}, 'fine-tune', 12, 'names no epoch'),
        ({**mmengine, 'fine_tune': {'mode': 'fine-tune'}}, 'retrain', 12, 'epoch 0'),
    ]:
        start = choose_start(checkpoint, mode, epochs)
        assert not start.resume
        assert words in start.reason
    own = {**mmengine, 'fine_tune': {'mode': 'retrain'}}
    assert choose_start(own, 'retrain', 12).resume
    assert choose_start(own, 'retrain', 8).resume  # only its evaluation is left
    assert not choose_start(own, 'retrain', 7).resume
    with pytest.raises(UserError, match='choose from'):
        choose_start(mmengine, 'tune', 12)
