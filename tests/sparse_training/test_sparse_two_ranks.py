"""A run by two processes over gloo: the same masks, weights and numbers on both, and one set of files."""

import json

import pytest
import torch

from processes import Forked, fork_for_torchrun
from sparse_toys import write_recipe
from vadslim import cli, evaluate
from vadslim.checkpoint import load_checkpoint
from vadslim.sparse_training.cli import main

PROBE = '''
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from vadslim.hooks import LevelHook, SparseHook


@HOOKS.register_module()
class LevelsProbe(Hook):
    """Each rank writes what it has at the end of a level."""

    priority = 'LOWEST'

    def after_train(self, runner):
        level, sparse = (next(h for h in runner._hooks if isinstance(h, kind)) for kind in (LevelHook, SparseHook))
        content = {'state': runner.model.module.state_dict(), 'final': sparse.cases.final, 'history': level.history}
        torch.save(content, f'{runner.work_dir}/../rank_{get_rank()}.pth')
'''


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_two_ranks(tmp_path, monkeypatch, capsys):
    (tmp_path / 'levels_probe.py').write_text(PROBE)
    write_recipe(tmp_path / 'toy.py', "custom_hooks = [dict(type='LevelsProbe')]\n", pruning_times=2, criteria='l1')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    process = Forked(
        main, ['toy.py', '--import', 'levels_probe', '--gpus', '2', '--save_dir', 'out'], before=fork_for_torchrun
    )
    said, complaint = process.communicate(timeout=400)
    assert process.returncode == 0, complaint
    assert said.count('accuracy of the masked network') == 1
    levels = json.loads((tmp_path / 'out' / 'results.json').read_text())['levels']
    assert len(levels) == 2
    for number, level in enumerate(levels):
        folder = tmp_path / 'out' / f'level_{number}'
        one, two = (load_checkpoint(folder / f'rank_{rank}.pth') for rank in (0, 1))
        for key in ('state', 'final'):  # batch norms, too
            assert all(torch.equal(value, two[key][name]) for name, value in one[key].items())
        numbers = [[{key: row[key] for key in row if key != 'loss'} for row in rank['history']] for rank in (one, two)]
        assert numbers[0] == numbers[1] and len(numbers[0]) == 2
        assert one['history'] == level['history']
        masks = load_checkpoint(folder / 'masks.pth')['refill']
        assert all(torch.equal(mask, one['final'][name]) for name, mask in masks.items())
        last = load_checkpoint(folder / 'model.pth')['state_dict']
        assert all(torch.equal(value, last[name]) for name, value in one['state'].items())
    steps = load_checkpoint(tmp_path / 'out' / 'level_1' / 'training' / 'latest.pth')['meta']['iter']
    assert steps == 2 * 5  # 500 images each, 100 at a time

    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    options = ['--out', 'metrics.json', '--work-dir', 'w']
    assert cli.run(evaluate.main, ['out/config.py', 'out/level_1/best.pth', *options]) == 0
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(levels[1]['test'])
