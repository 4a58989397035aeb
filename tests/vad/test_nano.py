"""VAD-nano on synthetic nuScenes: trained and evaluated by the real Runner, in one process and in two."""

import copy
import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner

from processes import Forked, fork_for_torchrun
from vadslim import cli, train
from vadslim import evaluate as evaluation
from vadslim.checkpoint import dump_info, load_info
from vadslim.evaluate import evaluate, parse_args
from vadslim.nuscenes_data import converter
from vadslim.vad.blank_images import LOSSES, blank_images, mean_losses
from vadslim.vad.results import read_results

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs' / 'VAD' / 'VAD_nano_synthetic.py'
SMALL = """
_base_ = {base!r}
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={root!r}, ann_file={infos!r}, indices=[2, 3, 4, 14, 15, 16, 17, 18]))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}, ann_file={infos!r}))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
"""


@HOOKS.register_module(force=True)
class NanoProbe(Hook):
    """Each rank writes its weights into the run's folder."""

    def after_train(self, runner):
        torch.save(runner.model.module.state_dict(), f'{runner.work_dir}/../rank_{get_rank()}.pth')


@pytest.fixture(scope='module')
def config(synthetic_root, tmp_path_factory) -> Path:
    """The config on the small data set; both of its scenes are in both splits."""
    folder = tmp_path_factory.mktemp('nano')
    files = [path for path, _ in converter.convert(synthetic_root, folder, synthetic_root, 'v1.0-mini')]
    infos = [info for file in files for info in load_info(file)['infos']]
    dump_info({'infos': infos, 'metadata': {'version': 'v1.0-mini'}}, folder / 'both.pkl')
    path = folder / 'nano.py'
    path.write_text(SMALL.format(base=str(CONFIG), root=f'{synthetic_root}/', infos=str(folder / 'both.pkl')))
    return path


def test_a_runner_trains_and_evaluates(config, tmp_path):
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.experiment_name, cfg.launcher = str(tmp_path), 'nano', 'none'
    cfg.train_dataloader.dataset.indices = [4, 5]
    cfg.val_dataloader.dataset.indices = [0, 1]
    cfg.train_cfg.val_interval = 1
    cfg.randomness = dict(seed=0)
    runner = Runner.from_cfg(cfg)
    before = copy.deepcopy(runner.model.state_dict())
    runner.train()
    assert runner.iter == 1
    history = runner.message_hub.log_scalars
    losses = {name: float(buffer.current()) for name, buffer in history.items() if 'loss' in name}
    assert {'train/loss', 'train/loss_cls', 'train/d0.loss_map_pts', 'train/loss_plan_reg'} <= set(losses)
    assert all(math.isfinite(value) for value in losses.values())
    for name in ('img_backbone.conv1.weight', 'pts_bbox_head.transformer.can_bus_mlp.0.weight'):
        assert not torch.equal(before[name], runner.model.state_dict()[name]), name
    for second in (1, 2, 3):
        assert 0 < history[f'val/plan_L2_{second}s'].current() < 100
        assert 0 <= history[f'val/plan_obj_box_col_{second}s'].current() <= 1
    assert 0 <= history['val/pts_bbox_NuScenes/NDS'].current() <= 1
    argv = f'{config} {tmp_path}/epoch_1.pth --work-dir {tmp_path} --json_dir {tmp_path}/json'.split()
    metrics = evaluate(parse_args([*argv, '--format-only', '--cfg-options', 'test_dataloader.dataset.indices=[0,1]']))
    assert not any('NuScenes' in name or 'plan' in name for name in metrics)
    results = read_results(tmp_path / 'json' / 'results_nusc.json')
    assert len(results['results']) == len(results['map_results']) == 2
    assert all(np.shape(plan['plans']) == (3, 6, 2) for plan in results['plan_results'].values())


def test_blank_images_are_blank_only_inside(config):
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    from mmdet3d.registry import MODELS

    model = MODELS.build(cfg.model)
    cfg.train_dataloader.dataset.indices = [4, 5]
    cfg.train_dataloader.sampler.shuffle = False
    batches = list(Runner.build_dataloader(cfg.train_dataloader))

    def measure() -> dict[str, float]:
        return mean_losses(model, [copy.deepcopy(batch) for batch in batches])

    seen = measure()
    with blank_images(model):
        blank = measure()
        (batch,) = copy.deepcopy(batches)
        assert not model.data_preprocessor(batch)['inputs']['img'].any()
    assert set(seen) == set(LOSSES)
    assert seen['box loss'] != blank['box loss']
    assert measure() == seen


def run(script: str, main, *argv) -> None:
    """What one of the scripts in tools/ starts."""
    command = ['bash', str(ROOT / 'tools' / script), *map(str, argv)]
    program, *argv = subprocess.check_output(command, env={**os.environ, 'PYTHON': 'echo'}, text=True).split()
    assert program == str(ROOT / 'tools' / f'{main.__module__.split(".")[-1].replace("evaluate", "test")}.py')
    process = Forked(lambda argv: cli.run(main, argv), argv, before=fork_for_torchrun)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_two_ranks(config, tmp_path):
    """Training leaves equal weights and one set of files; evaluation says the same as one process does."""
    few = tmp_path / 'few.py'  # to validate on, of both scenes; a number that leaves one rank with more
    few.write_text(
        f'_base_ = {str(config)!r}\n'
        "custom_hooks = [dict(type='NanoProbe')]\n"
        'val_dataloader = dict(dataset=dict(indices=[0, 1, 5, 6, 12, 13, 14]))\n'
        'test_dataloader = val_dataloader\n'
    )
    work_dir = tmp_path / 'run'
    run('dist_train.sh', train.main, few, 2, '--work-dir', work_dir)
    first, second = (torch.load(tmp_path / f'rank_{rank}.pth') for rank in (0, 1))
    own = ('running_mean', 'running_var')  # each rank's batch norms have seen other images
    for name in first:
        if not name.endswith(own):
            assert torch.equal(first[name], second[name]), name
    assert not torch.equal(first['img_backbone.bn1.running_mean'], second['img_backbone.bn1.running_mean'])
    files = sorted(path.name for path in work_dir.iterdir() if path.is_file())
    assert files == ['epoch_1.pth', 'few.py', 'last_checkpoint', 'latest.pth']
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    losses = [row['loss'] for row in map(json.loads, scalars.read_text().splitlines()) if 'loss' in row]
    assert len(losses) == 2  # eight frames, two ranks, two each
    assert all(math.isfinite(loss) for loss in losses)

    out, latest = tmp_path / 'metrics.json', work_dir / 'latest.pth'
    run('dist_test.sh', evaluation.main, few, latest, 2, '--out', out, '--work-dir', tmp_path / 'two')
    alone = evaluate(parse_args([str(few), str(latest), '--work-dir', str(tmp_path / 'one')]))
    assert alone['plan_L2_3s'] > 0
    assert json.loads(out.read_text()) == pytest.approx(alone, rel=1e-12, nan_ok=True)
