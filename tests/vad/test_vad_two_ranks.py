"""Losses and metrics of two real processes over gloo."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from vad_goldens import HEAD_CFG, TRAIN_CFG, small_sample, train_outputs, train_sample

import vadslim.vad.map_losses
import vadslim.vad.planning_losses  # noqa: F401, registers the losses
from vadslim.checkpoint import dump_info
from vadslim.vad.datasets.nuscenes_vad import CLASSES
from vadslim.vad.losses import VADCriterion
from vadslim.vad.metrics import VADNuScenesMetric

# Which samples a rank evaluates: scenes of unequal length, and sample 0 once more as a sampler fills up its
# share.
SAMPLES = ([0, 1, 2, 3, 4], [5, 6, 0])


def criterion() -> VADCriterion:
    return VADCriterion.from_head_cfg(TRAIN_CFG, **HEAD_CFG)


def predicted(i: int) -> dict:
    """A frame whose plan is wrong by a different distance for each sample."""
    sample = small_sample(i % 2)
    sample.pred_ego.fut_preds[2] = sample.gt_ego.fut_trajs
    sample.pred_ego.fut_preds[2, 0, 0] += i
    sample.set_metainfo({'sample_idx': f'sample-{i}', 'fut_valid_flag': i != 3})
    return sample.to_dict()


def map_truth(folder: Path) -> dict:
    """Ground truth in a file: for each sample another number of its own predictions."""
    info, file = folder / 'infos.pkl', folder / 'map.json'
    if not info.exists():
        samples = []
        for i in range(7):
            pred = small_sample(i % 2).pred_map[: i + 1]
            vectors = [{'pts': p.tolist(), 'type': int(k), 'cls_name': ''} for p, k in zip(pred.pts, pred.labels)]
            samples.append({'sample_token': f'sample-{i}', 'vectors': vectors})
        file.write_text(json.dumps({'GTs': samples}))
        infos = [{'token': sample['sample_token'], 'map_location': 'nowhere'} for sample in samples]
        dump_info({'infos': infos, 'metadata': {}}, info)
    return {'file': str(file), 'ann_file': str(info), 'data_root': str(folder), 'patch_size': (60.0, 30.0)}


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    sample = train_sample()
    if rank:
        sample.gt_instances_3d = sample.gt_instances_3d[:3]
        sample.gt_map = sample.gt_map[:0]
    losses = criterion()(train_outputs(), [sample])
    metric = VADNuScenesMetric(tasks=('map', 'motion', 'planning'))
    metric.dataset_meta = {'classes': CLASSES, 'map_truth': map_truth(Path(folder))}
    for i in SAMPLES[rank]:
        metric.process(None, [predicted(i)])
    torch.save({'losses': losses, 'metrics': metric.evaluate(7)}, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What both ranks have computed."""
    folder = tmp_path_factory.mktemp('ranks')
    map_truth(folder)
    # forked: two more imports of MMDetection3D would take most of a minute
    mp.start_processes(rank_main, (str(folder),), nprocs=2, start_method='fork')
    return [torch.load(folder / f'{rank}.pth') for rank in range(2)]


def test_losses_are_divided_by_the_mean_number_of_matches(ranks):
    plain = criterion()(train_outputs(), [train_sample()])
    first, second = (rank['losses'] for rank in ranks)
    for name in ('loss_cls', 'loss_bbox', 'loss_traj', 'loss_traj_cls', 'd0.loss_cls'):
        torch.testing.assert_close(first[name] * 6, plain[name] * 9, rtol=1e-5, atol=0)  # (9 + 3) / 2 agents
    for name in ('loss_map_cls', 'loss_map_pts', 'loss_map_dir', 'd1.loss_map_cls'):
        torch.testing.assert_close(first[name] * 3.5, plain[name] * 7, rtol=1e-5, atol=0)
    assert second['loss_map_pts'] == 0
    assert second['loss_bbox'] > 0


def test_metrics_equal_those_of_one_process(ranks, tmp_path):
    metric = VADNuScenesMetric(tasks=('map', 'motion', 'planning'))
    metric.dataset_meta = {'classes': CLASSES, 'map_truth': map_truth(tmp_path)}
    metric.process(None, [predicted(i) for i in range(7)])
    expected = metric.evaluate(7)
    assert expected['plan_L2_1s'] == pytest.approx((0 + 1 + 2 + 4 + 5 + 6) / 6, rel=1e-5)  # 3 does not count
    assert 0 < expected['NuscMap_chamfer/mAP'] < 1
    for rank in ranks:
        assert rank['metrics'] == pytest.approx(expected, nan_ok=True, rel=1e-12)
