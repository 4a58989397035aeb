"""All tasks evaluated by a real Runner on real-format data: VAD-nano, dense and slim, and networks with one fault."""

import math
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, InstanceData

from vadslim.evaluate import evaluate, parse_args
from vadslim.nuscenes_data import converter
from vadslim.slimming import main as slim
from vadslim.train import main as train

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'VAD' / 'VAD_nano_synthetic.py'
SMALL = """
_base_ = {base!r}
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={root!r}, ann_file={train!r}, indices=6))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}, ann_file={val!r}))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
"""
SWAPPED = torch.tensor([8, 0, 1, 2, 3, 4, 5, 6, 7, 9])  # class -> what a network that confuses classes calls it
TASKS = {
    'detection': 'pts_bbox_NuScenes/',
    'map': 'NuscMap_chamfer/',
    'motion': ('EPA_', 'ADE_', 'FDE_', 'MR_'),
    'planning': 'plan_',
}


@pytest.fixture(scope='module')
def config(synthetic_root, tmp_path_factory) -> Path:
    """The config on the small data set: one scene to learn from, one to be evaluated on."""
    folder = tmp_path_factory.mktemp('all_tasks')
    train, val = (str(path) for path, _ in converter.convert(synthetic_root, folder, synthetic_root, 'v1.0-mini'))
    path = folder / 'nano.py'
    path.write_text(SMALL.format(base=str(CONFIG), root=f'{synthetic_root}/', train=train, val=val))
    return path


class Oracle(BaseModel):
    """Knows the truth and tells it nearly: everything is some centimetres off, and one agent in ten is not seen.

    Args:
        fault: which task it gets wrong; '' none.
    """

    def __init__(self, fault: str = '', data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor)
        self.fault = fault

    def forward(self, inputs, data_samples, mode='tensor'):
        assert mode == 'predict'
        for sample in data_samples:
            noise = torch.Generator().manual_seed(sample.metainfo['frame_idx'])
            sample.pred_instances_3d = self.agents(sample.gt_instances_3d, noise)
            sample.pred_map = self.map(sample.gt_map, noise)
            steps = sample.gt_ego.fut_trajs.repeat(3, 1, 1) + 0.02 * torch.randn(3, 6, 2, generator=noise)
            sample.pred_ego = BaseDataElement(fut_preds=-steps if self.fault == 'planning' else steps)
        return data_samples

    def agents(self, truth, noise):
        seen = torch.rand(len(truth.labels_3d), generator=noise) > 0.1
        boxes = truth.bboxes_3d[seen] + 0.05 * torch.randn(int(seen.sum()), 9, generator=noise)
        trajs = truth.attr_labels[seen, None, :12].repeat(1, 6, 1)
        trajs = trajs + 0.05 * torch.randn(trajs.shape, generator=noise)
        labels = truth.labels_3d[seen]
        return InstanceData(
            bboxes_3d=boxes.float(),
            scores_3d=0.7 + 0.3 * torch.rand(len(labels), generator=noise),
            labels_3d=SWAPPED[labels] if self.fault == 'detection' else labels,
            trajs_3d=-trajs if self.fault == 'motion' else trajs,
        )

    def map(self, truth, noise):
        pts = truth.pts[:, 0] + 0.05 * torch.randn(len(truth.labels), 20, 2, generator=noise)
        if self.fault == 'map':
            pts = pts * torch.tensor([-1.0, 1.0])
        return InstanceData(
            pts=pts,
            bboxes=torch.cat([pts.amin(1), pts.amax(1)], -1),
            scores=0.5 + 0.5 * torch.rand(len(pts), generator=noise),
            labels=truth.labels,
        )


@pytest.fixture(scope='module')
def oracles(config, tmp_path_factory):
    """Fault -> metrics of the network that has it."""
    init_default_scope('mmdet3d')
    MODELS.register_module(module=Oracle, name='TestOracle', force=True)
    folder = tmp_path_factory.mktemp('oracles')
    metrics = {}
    for fault in ('', *TASKS):
        cfg = Config.fromfile(config)
        cfg.model = dict(type='TestOracle', fault=fault, data_preprocessor=cfg.model.data_preprocessor)
        cfg.work_dir, cfg.experiment_name, cfg.launcher = str(folder / (fault or 'none')), f'oracle-{fault}', 'none'
        for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
            cfg[key] = None
        runner = Runner.from_cfg(cfg)
        metrics[fault] = runner.test()
    return metrics


def of_task(metrics: dict, task: str) -> dict:
    return {name: value for name, value in metrics.items() if name.startswith(TASKS[task])}


def test_a_network_that_knows_the_truth_is_nearly_perfect(oracles):
    metrics = oracles['']
    assert metrics['plan_L2_3s'] < 0.1
    assert metrics['NuscMap_chamfer/mAP'] > 0.9
    for name in ('car', 'pedestrian'):
        assert metrics[f'pts_bbox_NuScenes/{name}_AP_dist_0.5'] > 0.7
    assert metrics['EPA_car'] > 0.7 and metrics['ADE_car'] < 0.2 and metrics['MR_car'] == 0


@pytest.mark.parametrize('fault', TASKS)
def test_a_fault_shows_in_its_own_task_only(oracles, fault):
    good, bad = oracles[''], oracles[fault]
    assert good.keys() == bad.keys()
    for task in TASKS:
        before, after = of_task(good, task), of_task(bad, task)
        assert before
        if task != fault and (fault, task) != ('detection', 'motion'):  # motion is told by class, too
            assert after == pytest.approx(before, nan_ok=True, abs=0), task
    if fault == 'planning':
        assert all(bad[f'plan_L2_{s}s'] > 10 * good[f'plan_L2_{s}s'] for s in (1, 2, 3))
    if fault == 'detection':
        assert bad['pts_bbox_NuScenes/mAP'] < 0.3 * good['pts_bbox_NuScenes/mAP']
        assert bad['pts_bbox_NuScenes/NDS'] < good['pts_bbox_NuScenes/NDS']
    if fault == 'map':
        assert bad['NuscMap_chamfer/mAP'] < 0.5 * good['NuscMap_chamfer/mAP']
    if fault == 'motion':
        assert bad['ADE_car'] > 2 * good['ADE_car'] and bad['FDE_car'] > 2 * good['FDE_car']


def test_trained_evaluated_slimmed_and_evaluated_again(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train([str(config), '--work-dir', 'dense'])
    dense = evaluate(parse_args([str(config), 'dense/latest.pth', '--work-dir', 'dense_test', '--eval', 'bbox']))
    options = ['--pruning-ratio', '0.5', '--output-dir', 'slim', '--latency', '0']
    assert slim([str(config), 'dense/latest.pth', *options]) == 0
    checkpoint = 'slim/vad_structured_pruned.pth'
    slimmed = evaluate(parse_args(['slim/nano_slim.py', checkpoint, '--work-dir', 'slim_test', '--eval', 'bbox']))
    assert dense.keys() == slimmed.keys()
    for metrics in (dense, slimmed):
        for task in TASKS:
            assert of_task(metrics, task)
        assert 0 < metrics['plan_L2_3s'] < 100
        assert 0 <= metrics['pts_bbox_NuScenes/NDS'] <= 1
        assert 0 <= metrics['NuscMap_chamfer/mAP'] <= 1
    assert all(math.isfinite(value) for value in of_task(slimmed, 'planning').values())
    assert any(dense[name] != slimmed[name] for name in of_task(dense, 'planning'))
