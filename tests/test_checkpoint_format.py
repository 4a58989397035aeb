"""The keys beside MMEngine's, of files that were written by whomever."""

from collections import OrderedDict
from datetime import datetime

import numpy as np
import pytest
import torch
from mmengine.optim import OneCycleLR

from checkpoint_files import mmcv_like, mmengine_like
from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.checkpoint_format import config_from_text, held_config, label, load_any, plain_config
from vadslim.testing import toy_config, toy_runner

KEYS = {'version', 'epoch', 'metric', 'config', 'metadata', 'timestamp'}


@pytest.mark.parametrize('scheduler', ['OneCycleLR', 'LinearLR'])
def test_what_a_runner_writes_is_read_by_all(scheduler, tmp_path):
    options = {'OneCycleLR': {'eta_max': 1e-3, 'total_steps': 4}, 'LinearLR': {}}[scheduler]
    config = toy_config(tmp_path, epochs=1, size=8)
    config['param_scheduler'] = [{'type': scheduler, 'by_epoch': False, **options}]
    toy_runner(config).train()
    file = tmp_path / 'epoch_1.pth'
    read = load_checkpoint(file)
    assert {key: read[key] for key in ('version', 'epoch', 'metric')} == {'version': 2, 'epoch': 1, 'metric': None}
    assert read['config']['model'] == {'type': 'vadslim.ToyNet'} and type(read['config']['model']) is dict
    assert read['metadata']['stage'] is None and read['timestamp'] == read['metadata']['timestamp']
    assert datetime.fromisoformat(read['timestamp']).tzinfo is not None
    assert 'custom_imports' not in str(read['meta']) and 'cfg' not in read['message_hub']['runtime_info']
    assert {key: load_any(file)[key] for key in KEYS} == {key: read[key] for key in KEYS}
    resumed = toy_runner({**config, 'resume': True, 'load_from': str(file), 'work_dir': str(tmp_path / 'more')})
    resumed.load_or_resume()
    assert resumed.epoch == 1


def test_mmengine_and_mmcv(tmp_path):
    content = mmengine_like()
    content['meta'].update(time='20250301_120000', config_json='{"a": {"__tuple__": [1, 2]}}')
    torch.save(content, tmp_path / 'a.pth')
    read = load_any(tmp_path / 'a.pth')
    assert {key: read[key] for key in KEYS - {'metadata'}} == {
        'version': 0,
        'epoch': 2,
        'metric': 0.5,
        'config': {'a': (1, 2)},
        'timestamp': '2025-03-01T12:00:00',
    }
    torch.save(mmcv_like(torch.nn.Linear(2, 2), epoch=7), tmp_path / 'b.pth')
    read = load_any(tmp_path / 'b.pth')
    assert (read['epoch'], read['metric'], read['config']) == (7, None, None)
    assert read['metadata'] == {'metric': None, 'stage': None, 'timestamp': '2023-03-12T10:00:00'}


def test_forged_keys_are_nothing(tmp_path):
    forged = {'version': 'x', 'epoch': [1], 'metric': torch.ones(2), 'config': {'a': torch.ones(1)}, 'metadata': 3}
    save_checkpoint({'state_dict': {'w': torch.ones(1)}, 'meta': [], 'message_hub': 5, **forged}, tmp_path / 'a.pth')
    read = load_any(tmp_path / 'a.pth')
    assert [read[key] for key in ('version', 'epoch', 'metric', 'config', 'timestamp')] == [0, None, None, None, None]


def test_configs_are_plain_data():
    data = OrderedDict(a=(1, [2.5, None, True]), b={1: np.float64(0.5), 'y': ()})
    copy = plain_config(data)
    assert copy == {'a': (1, [2.5, None, True]), 'b': {1: 0.5, 'y': ()}}
    assert type(copy) is dict and type(copy['b'][1]) is float and copy['a'][1] is not data['a'][1]
    assert plain_config({'a': {'type': torch.nn.Linear}}) is None
    endless = {}
    endless['a'] = endless
    assert plain_config(endless) is None
    assert label(3, {'a': {1, 2}})['config'] is None
    assert label(3, metric=float('nan'))['metric'] is None


def test_configs_of_version_0():
    text = '{"a": {"__tuple__": [1, 2]}, "b": {"__pairs__": [[1, "x"], ["y", {"__tuple__": []}]]}}'
    assert config_from_text(text) == {'a': (1, 2), 'b': {1: 'x', 'y': ()}}
    assert held_config({'meta': {'config_json': text}})['a'] == (1, 2)
    assert held_config({'meta': None}) is None
    with pytest.raises(ValueError, match='object'):
        config_from_text('[1]')


@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_the_schedule_of_a_file_that_mmengine_wrote(strategy, tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = OneCycleLR(optimizer, eta_max=1.0, total_steps=9, anneal_strategy=strategy)
    torch.save({'state_dict': {'w': torch.ones(1)}, 'param_schedulers': [scheduler.state_dict()]}, tmp_path / 'a.pth')
    (read,) = load_checkpoint(tmp_path / 'a.pth')['param_schedulers']
    assert read == scheduler.state_dict()
