"""RandomStateHook in a real Runner: resumed equals uninterrupted, bit for bit, whoever draws."""

import random

import numpy as np
import pytest
import torch

from vadslim.checkpoint import load_checkpoint
from vadslim.hooks.random_state_hook import random_state, set_random_state
from vadslim.testing import toy_config, toy_runner


def trained(config, seed_before=0):
    random.seed(seed_before)  # whatever the process did before
    np.random.seed(seed_before)
    runner = toy_runner(config)
    torch.manual_seed(seed_before)
    runner.train()
    return runner


def assert_equal(one, other):
    state = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    moments = other.optim_wrapper.state_dict()['state']
    for number, values in one.optim_wrapper.state_dict()['state'].items():
        for key, value in values.items():
            assert torch.equal(value, moments[number][key])


@pytest.mark.parametrize('workers, persistent, start_seed', [(0, False, 5), (2, False, 5), (2, True, None)])
def test_resumed_equals_uninterrupted(tmp_path, workers, persistent, start_seed):
    config = toy_config(tmp_path / 'whole', epochs=3, randomness={'seed': start_seed})
    config['train_dataloader'].update(num_workers=workers, persistent_workers=persistent)
    whole = trained(config)
    seed = load_checkpoint(tmp_path / 'whole' / 'epoch_1.pth')['meta']['seed']
    assert start_seed in (seed, None)
    changes = {'work_dir': str(tmp_path / 'half'), 'load_from': str(tmp_path / 'whole' / 'epoch_1.pth')}
    resumed = trained({**config, **changes, 'resume': True}, seed_before=99)
    assert_equal(whole, resumed)
    first, second = (load_checkpoint(tmp_path / folder / 'epoch_3.pth')['random_state'] for folder in ('whole', 'half'))
    assert first[0]['python'] == second[0]['python']
    assert torch.equal(first[0]['torch'], second[0]['torch'])
    assert torch.equal(first[0]['numpy'][1], second[0]['numpy'][1])


def test_without_the_hook_they_differ(tmp_path):
    """The test above can fail: dropout and augmentation draw differently after a resume without the hook."""
    config = toy_config(tmp_path / 'whole', epochs=2, custom_hooks=[])
    whole = trained(config)
    changes = {'work_dir': str(tmp_path / 'half'), 'load_from': str(tmp_path / 'whole' / 'epoch_1.pth')}
    resumed = trained({**config, **changes, 'resume': True}, seed_before=99)
    with pytest.raises(AssertionError):
        assert_equal(whole, resumed)


def test_state_is_put_back():
    state = random_state()
    drawn = random.random(), np.random.random(), torch.rand(()), np.random.standard_normal()
    set_random_state(state)
    assert (random.random(), np.random.random(), torch.rand(()), np.random.standard_normal()) == drawn
