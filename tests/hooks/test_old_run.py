"""A training that was saved in an old layout goes on, with the rates of this run's schedule."""

import pytest
import torch

from vadslim.checkpoint import load_checkpoint
from vadslim.checkpoint_format import load_any
from vadslim.cli import UserError
from vadslim.testing import ToyNet, toy_config, toy_runner


def config_of(folder, epochs=3, total=6):
    config = toy_config(folder, epochs=epochs, size=8)  # two iterations an epoch
    config['optim_wrapper'].pop('paramwise_cfg')
    config['param_scheduler'] = [
        {'type': 'OneCycleLR', 'eta_max': 2e-3, 'total_steps': total, 'by_epoch': False},
    ]
    return config


@pytest.fixture(scope='module')
def old(tmp_path_factory):
    """Two epochs of the three, as ours and in the predecessor's layout."""
    folder = tmp_path_factory.mktemp('old')
    runner = toy_runner(config_of(folder / 'whole'))
    runner.train()
    ours = load_checkpoint(folder / 'whole' / 'epoch_2.pth')
    optimizer = {key: ours['optimizer'][key] for key in ('state', 'param_groups')}
    scheduler = {'total_steps': 6, 'last_epoch': 4}
    layout = {'version': 1, 'epoch': 1, 'model_state_dict': ours['state_dict'], 'optimizer_state_dict': optimizer}
    torch.save({**layout, 'scheduler_state_dict': scheduler, 'metric': 1.0}, folder / 'old.pth')
    return folder


def rates(file):
    return [group['lr'] for group in load_checkpoint(file)['optimizer']['param_groups']]


def test_it_ends_as_the_uninterrupted_run(old, tmp_path):
    toy_runner({**config_of(tmp_path), 'resume': True, 'load_from': str(old / 'old.pth')}).train()
    one, other = (load_any(folder / 'epoch_3.pth') for folder in (old / 'whole', tmp_path))
    assert other['version'] == 2 and other['meta']['iter'] == one['meta']['iter'] == 6
    assert rates(old / 'whole' / 'epoch_3.pth') == pytest.approx(rates(tmp_path / 'epoch_3.pth'))
    for name, value in one['state_dict'].items():
        assert torch.allclose(value, other['state_dict'][name], rtol=1e-6, atol=0), name


def test_moments_of_other_parameters_are_dropped(old, tmp_path):
    config = config_of(tmp_path, epochs=2)
    config['optim_wrapper']['paramwise_cfg'] = {'custom_keys': {'conv1': {'lr_mult': 0.1}}}
    runner = toy_runner({**config, 'resume': True, 'load_from': str(old / 'old.pth')})
    runner.train()
    assert runner.epoch == 2 and not runner.optim_wrapper.optimizer.state
    assert torch.equal(
        runner.model.conv1.weight.detach(), load_checkpoint(old / 'old.pth')['state_dict']['conv1.weight']
    )


def test_a_schedule_that_is_over_is_one_line(old, tmp_path):
    runner = toy_runner({**config_of(tmp_path, total=3), 'resume': True, 'load_from': str(old / 'old.pth')})
    with pytest.raises(UserError, match='the checkpoint has 4 iterations, OneCycleLR'):
        runner.train()


def test_weights_alone(old, tmp_path):
    model = ToyNet()
    torch.save({'model': model.state_dict()}, tmp_path / 'short.pth')
    runner = toy_runner({**config_of(tmp_path, epochs=1), 'load_from': str(tmp_path / 'short.pth')})
    runner.load_or_resume()
    assert torch.equal(runner.model.conv1.weight, model.conv1.weight)
