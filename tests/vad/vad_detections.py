"""Samples as the metrics get them, with predictions made from the annotations of a synthetic data set."""

from pathlib import Path

import numpy as np

from vadslim.checkpoint import load_info
from vadslim.nuscenes_data import converter
from vadslim.vad.datasets import infos
from vadslim.vad.datasets.nuscenes_vad import CLASSES

VERSION = 'v1.0-mini'


def val_infos(root: Path, folder: Path) -> list[dict]:
    """The frames of the val scene, converted into ``folder``."""
    (file,) = [path for path, _ in converter.convert(root, folder, root, VERSION) if path.stem.endswith('val')]
    return load_info(file)['infos']


def meta(root: Path) -> dict:
    """What the data set tells its metrics."""
    return {'classes': CLASSES, 'data_root': str(root), 'version': VERSION}


def perfect_sample(info: dict) -> dict:
    """A sample whose objects of the ten classes were all detected, the first ones with a higher score."""
    agents = infos.agents(info, CLASSES, use_valid_flag=True)
    known = agents['gt_labels_3d'] >= 0
    return {
        'sample_idx': info['token'],
        'ego2global': infos.ego2global(info),
        'lidar2global': infos.lidar2global(info),
        'pred_instances_3d': {
            'bboxes_3d': agents['gt_bboxes_3d'][known].copy(),
            'labels_3d': agents['gt_labels_3d'][known].copy(),
            'scores_3d': np.linspace(0.9, 0.5, known.sum(), dtype=np.float32),
        },
    }


def whole_sample(info: dict, seed: int) -> dict:
    """A sample with all that a result file takes, and detections with mistakes of all kinds."""
    g = np.random.default_rng(seed)
    sample = perfect_sample(info)
    pred = sample['pred_instances_3d']
    pred = {key: np.concatenate([value, value[::3]]) for key, value in pred.items()}  # some are found twice
    num = len(pred['scores_3d'])
    noise = g.normal(size=(num, 9)).astype(np.float32) * [0.7, 0.7, 0.1, 0, 0, 0, 0.2, 0.4, 0.4]
    pred['bboxes_3d'] = (pred['bboxes_3d'] + noise).astype(np.float32)
    pred['bboxes_3d'][:, 3:6] *= np.exp(0.1 * g.normal(size=(num, 3)))
    pred['scores_3d'] = g.uniform(0, 1, num).astype(np.float32)
    swapped = g.uniform(size=num) < 0.2
    pred['labels_3d'] = np.where(swapped, g.integers(0, 10, num), pred['labels_3d'])
    pred['trajs_3d'] = g.normal(size=(num, 6, 12)).astype(np.float32)
    pred['traj_scores_3d'] = g.uniform(size=(num, 6)).astype(np.float32)
    sample['pred_instances_3d'] = pred
    sample['pred_map'] = {
        'pts': g.normal(size=(4, 20, 2)).astype(np.float32),
        'labels': np.array([0, 1, 2, 0]),
        'scores': g.uniform(size=4).astype(np.float32),
    }
    sample['pred_ego'] = {'fut_preds': g.normal(size=(3, 6, 2)).astype(np.float32)}
    sample['gt_ego'] = infos.ego(info)
    return sample
