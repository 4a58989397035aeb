"""The reference data that the tests of matching, losses, decoding and metrics share.

The arrays under tests/data/vad were written by the original VAD (hustvl/VAD 1688c4b on mmdet3d 0.17.1).
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import BaseDataElement, InstanceData

DATA = Path(__file__).parents[1] / 'data' / 'vad'
FOCAL = {'type': 'FocalLoss', 'use_sigmoid': True, 'gamma': 2.0, 'alpha': 0.25}
PC_RANGE = [-15.0, -30.0, -2.0, 15.0, 30.0, 2.0]

# The losses of VAD_tiny_stage_2.py as the original writes them.
HEAD_CFG = {
    'num_query': 300,  # belongs to the head only
    'sync_cls_avg_factor': True,
    'bbox_coder': {'type': 'CustomNMSFreeCoder', 'pc_range': PC_RANGE},
    'loss_cls': {**FOCAL, 'loss_weight': 0.8},
    'loss_bbox': {'type': 'L1Loss', 'loss_weight': 0.1},
    'loss_traj': {'type': 'L1Loss', 'loss_weight': 0.2},
    'loss_traj_cls': {**FOCAL, 'loss_weight': 0.2},
    'loss_iou': {'type': 'GIoULoss', 'loss_weight': 0.0},
    'loss_map_cls': {**FOCAL, 'loss_weight': 0.8},
    'loss_map_bbox': {'type': 'L1Loss', 'loss_weight': 0.0},
    'loss_map_iou': {'type': 'GIoULoss', 'loss_weight': 0.0},
    'loss_map_pts': {'type': 'PtsL1Loss', 'loss_weight': 0.4},
    'loss_map_dir': {'type': 'PtsDirCosLoss', 'loss_weight': 0.005},
    'loss_plan_reg': {'type': 'L1Loss', 'loss_weight': 1.0},
    'loss_plan_bound': {'type': 'PlanMapBoundLoss', 'loss_weight': 1.0, 'dis_thresh': 1.0},
    'loss_plan_col': {'type': 'PlanCollisionLoss', 'loss_weight': 1.0},
    'loss_plan_dir': {'type': 'PlanMapDirectionLoss', 'loss_weight': 0.5},
}
TRAIN_CFG = {
    'grid_size': [512, 512, 1],
    'assigner': {
        'type': 'HungarianAssigner3D',
        'cls_cost': {'type': 'FocalLossCost', 'weight': 0.8},
        'reg_cost': {'type': 'BBox3DL1Cost', 'weight': 0.1},
        'iou_cost': {'type': 'IoUCost', 'weight': 0.0},
        'pc_range': PC_RANGE,
    },
    'map_assigner': {
        'type': 'MapHungarianAssigner3D',
        'cls_cost': {'type': 'FocalLossCost', 'weight': 0.8},
        'reg_cost': {'type': 'BBoxL1Cost', 'weight': 0.0, 'box_format': 'xywh'},
        'iou_cost': {'type': 'IoUCost', 'iou_mode': 'giou', 'weight': 0.0},
        'pts_cost': {'type': 'OrderedPtsL1Cost', 'weight': 0.4},
        'pc_range': PC_RANGE,
    },
}


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of a file; callers must not write into them."""
    with np.load(DATA / name) as file:
        return {key: file[key] for key in file.files}


def tensors(name: str, prefix: str) -> dict[str, torch.Tensor]:
    """Copies of the arrays under a prefix, keyed by the rest of their names."""
    return {k[len(prefix) :]: torch.tensor(v) for k, v in arrays(name).items() if k.startswith(prefix)}


def ego_ground_truth(frame: int = 2) -> BaseDataElement:
    """The ego vehicle's past and future in the reference runs: going straight, slightly to the right."""
    t = torch.arange(6, dtype=torch.float64)
    fut = torch.stack([0.10 + 0.03 * t + 0.02 * frame, 1.80 - 0.05 * t], -1).float()
    return BaseDataElement(
        his_trajs=torch.tensor([[-0.12, 1.70], [0.04, 1.76]]),
        fut_trajs=fut,
        fut_masks=torch.ones(6),
        fut_cmd=torch.tensor([0.0, 0.0, 1.0]),
    )


def train_sample() -> Det3DDataSample:
    """The ground truth of the training reference."""
    agents = tensors('golden_metrics_inputs.npz', 'motion/gt_')
    vectors = tensors('golden_train.npz', 'map_gt/')
    sample = Det3DDataSample()
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=agents['boxes'], labels_3d=agents['labels'], attr_labels=agents['attr']
    )
    sample.gt_map = InstanceData(
        labels=vectors['labels'], pts=vectors['shift_fixed_num_sampled_points_v2'], bboxes=vectors['bbox']
    )
    sample.gt_ego = ego_ground_truth()
    return sample


def train_outputs() -> dict[str, torch.Tensor]:
    """The head's outputs in the training reference."""
    return tensors('golden_train.npz', 'head/')


def small_sample(frame: int) -> Det3DDataSample:
    """Ground truth and the original's decoded predictions of a frame of the reference run on small images."""
    decoded = tensors('golden_tiny_test_small.npz', f'frame{frame}/decoded/')
    sample = train_sample()
    sample.gt_ego = ego_ground_truth(frame)
    sample.pred_instances_3d = InstanceData(
        bboxes_3d=decoded['boxes_3d'],
        scores_3d=decoded['scores_3d'],
        labels_3d=decoded['labels_3d'],
        trajs_3d=decoded['trajs_3d'],
    )
    sample.pred_map = InstanceData(
        pts=decoded['map_pts_3d'], scores=decoded['map_scores_3d'], labels=decoded['map_labels_3d']
    )
    sample.pred_ego = BaseDataElement(fut_preds=decoded['ego_fut_preds'])
    sample.set_metainfo({'sample_idx': f'sample-{frame}', 'fut_valid_flag': True})
    return sample
