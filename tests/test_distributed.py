"""Two processes over gloo by tools/dist_train.sh and by --gpus 2: the same weights on both, one set of files."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from processes import Forked, fork_for_torchrun, free_port
from vadslim import cli, train
from vadslim.checkpoint import load_checkpoint
from vadslim.testing import ToyNet, write_toy_config

ROOT = Path(__file__).resolve().parents[1]
PROBE = '''
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RanksProbe(Hook):
    """Each rank writes its weights beside the config."""

    def after_train(self, runner):
        torch.save(runner.model.module.state_dict(), f'{__file__}.{runner.epoch}.{get_rank()}.pth')
'''


def environment(folder):
    path = os.pathsep.join([str(ROOT / 'projects'), str(folder)])
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path, 'PYTHON': sys.executable}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_two_ranks(tmp_path, monkeypatch):
    (tmp_path / 'ranks_probe.py').write_text(PROBE)
    hooks = [{'type': 'RanksProbe'}]
    imports = {'imports': ['vadslim.testing', 'ranks_probe'], 'allow_failed_imports': False}
    config = write_toy_config(
        tmp_path / 'toy.py', tmp_path / 'run', epochs=2, custom_imports=imports, custom_hooks=hooks
    )
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', config, '2']
    env = {**environment(tmp_path), 'PORT': free_port()}
    subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    # two of the four iterations are left to each; the second command goes on with the first one's files
    more = ['--resume', '--cfg-options', 'train_cfg.max_epochs=3', 'param_scheduler.1.T_max=3']
    monkeypatch.syspath_prepend(tmp_path)
    argv = [config, '--gpus', '2', *more]
    process = Forked(lambda argv: cli.run(train.main, argv), argv, before=fork_for_torchrun)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said

    trained = dict(ToyNet().named_parameters())
    for epoch in (2, 3):
        first, second = (torch.load(tmp_path / f'ranks_probe.py.{epoch}.{rank}.pth') for rank in (0, 1))
        for name in trained:
            assert torch.equal(first[name], second[name]), name
    files = sorted(path.name for path in (tmp_path / 'run').iterdir() if path.is_file())
    assert files == [*(f'epoch_{i}.pth' for i in (1, 2, 3)), 'last_checkpoint', 'latest.pth', 'toy.py']
    runs = [path for path in (tmp_path / 'run').iterdir() if path.is_dir()]
    assert len(runs) == 2
    losses = []
    for run in sorted(runs):
        assert len(list(run.glob('*.log'))) == 1
        lines = (run / 'vis_data' / 'scalars.json').read_text().splitlines()
        losses.append([row['loss'] for row in map(json.loads, lines) if 'loss' in row])
    assert [len(row) for row in losses] == [4, 2]
    assert all(math.isfinite(loss) for row in losses for loss in row)
    saved = load_checkpoint(tmp_path / 'run' / 'latest.pth')
    assert saved['meta']['iter'] == 6
    assert len(saved['random_state']) == 2
    assert not torch.equal(first['bn1.running_mean'], second['bn1.running_mean'])  # they saw other images
