"""GroupRSSTHook: planned units are zero when the training ends, and the slim network is what was evaluated."""

import pytest
import torch

from vadslim.testing import toy_config, toy_runner


def runner_of(folder, hook=(), **changes):
    config = toy_config(folder, **{'epochs': 4, **changes})
    hook = {'type': 'vadslim.GroupRSSTHook', 'ratio': 0.3, 'interval': 1, **dict(hook)}
    config['custom_hooks'] = [*config['custom_hooks'], hook]
    return toy_runner(config)


def test_x(tmp_path):
    runner = runner_of(tmp_path, log_level='INFO')
    runner.train()
