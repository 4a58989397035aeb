"""From one record of an info file to the numbers of one frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vadslim.nuscenes_data import geometry
from vadslim.vad.boxes import bottom_centered, wrap_yaw

ATTRIBUTES = ('fut_trajs', 'fut_masks', 'fut_goal', 'lcf_feat', 'fut_yaw')
NUM_ATTRIBUTES = 34  # 6 x 2 + 6 + 1 + 9 + 6
EGO_FIELDS = ('his_trajs', 'fut_trajs', 'fut_masks', 'fut_cmd', 'lcf_feat')

_IN_ROOT = re.compile(r'(?:^|/)((?:samples|sweeps)/.+)$')


def resolve_path(recorded: str, data_root: str | Path) -> str:
    """Where a file of an info record lies.

    Records hold the path as the converter saw it (the published ones './data/nuscenes/samples/...'); what
    counts is the part from ``samples`` or ``sweeps`` on, below the data root of today. Other paths are
    taken as they are.
    """
    match = _IN_ROOT.search(recorded.replace('\\', '/'))
    return str(Path(data_root) / match.group(1)) if match else recorded


def ego2global(info: dict) -> np.ndarray:
    """(4, 4) pose of the vehicle at the time of the LiDAR's scan."""
    return geometry.rigid(info['ego2global_rotation'], info['ego2global_translation'])


def lidar2global(info: dict) -> np.ndarray:
    """(4, 4) pose of the LiDAR."""
    return ego2global(info) @ geometry.rigid(info['lidar2ego_rotation'], info['lidar2ego_translation'])


def lidar2img(camera: dict) -> np.ndarray:
    """(4, 4) float64 projection: LiDAR metres -> (u d, v d, d, 1), pixels of the original image."""
    camera2lidar = np.eye(4)
    camera2lidar[:3, :3] = camera['sensor2lidar_rotation']
    camera2lidar[:3, 3] = camera['sensor2lidar_translation']
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = camera['cam_intrinsic']
    return intrinsic @ np.linalg.inv(camera2lidar)


def can_bus(info: dict) -> np.ndarray:
    """(18,) float64: position (m) and rotation [w, x, y, z] of the ego pose, global; acceleration,
    rotation rate and velocity of the CAN bus; heading in radians [-2] and in degrees [-1], both in [0,
    360) degrees.
    """
    vector = np.array(info['can_bus'], dtype=np.float64)
    rotation = np.asarray(info['ego2global_rotation'], dtype=np.float64)
    vector[:3] = info['ego2global_translation']
    vector[3:7] = rotation
    forward = geometry.quaternion_matrix(rotation)[:, 0]
    degrees = np.degrees(np.arctan2(forward[1], forward[0]))
    degrees += 360 if degrees < 0 else 0
    vector[-2], vector[-1] = np.radians(degrees), degrees
    return vector


def agents(info: dict, class_names: Sequence[str], use_valid_flag: bool) -> dict[str, np.ndarray]:
    """Annotated objects of a frame.

    Args:
        info: the record.
        class_names: label = position of the object's name in these, -1 for others.
        use_valid_flag: keep objects hit by a LiDAR or radar point; otherwise by a LiDAR point.

    Returns:
        gt_bboxes_3d (N, 9) float32 VAD numbers with yaw in [-pi, pi) and unknown velocities 0,
        gt_labels_3d (N,) int64, gt_attr_labels (N, 34) float32: future offsets (6 x 2), masks (6), goal
        class, x, y, heading, vx, vy, w, l, h, category, and future turns (6).
    """
    keep = np.asarray(info['valid_flag'] if use_valid_flag else info['num_lidar_pts'] > 0, dtype=bool)
    velocity = np.nan_to_num(info['gt_velocity'][keep])
    boxes = bottom_centered(np.concatenate([info['gt_boxes'][keep], velocity], axis=1))
    boxes[:, 6] = wrap_yaw(boxes[:, 6])
    labels = {name: i for i, name in enumerate(class_names)}
    columns = [np.asarray(info[f'gt_agent_{name}'])[keep] for name in ATTRIBUTES]
    columns = [column if column.ndim == 2 else column[:, None] for column in columns]
    attributes = np.concatenate(columns, axis=1, dtype=np.float32)
    return {
        'gt_bboxes_3d': boxes.astype(np.float32),
        'gt_labels_3d': np.array([labels.get(str(n), -1) for n in np.asarray(info['gt_names'])[keep]], np.int64),
        'gt_attr_labels': np.nan_to_num(attributes),
    }


def ego(info: dict) -> dict[str, np.ndarray]:
    """Ego arrays, float32: his_trajs (2, 2), fut_trajs (6, 2), fut_masks (6,), fut_cmd (3,), lcf_feat
    (9,).
    """
    return {name: np.asarray(info[f'gt_ego_{name}'], dtype=np.float32) for name in EGO_FIELDS}


def relative_can_bus(vectors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Motion since the frame before, for a queue of frames (oldest first): position [:3] and heading in
    degrees [-1] become differences, zeros in the first frame; the other entries stay absolute. Copies.
    """
    result = [np.array(vector) for vector in vectors]
    previous = vectors[0]
    for relative, absolute in zip(result, vectors):
        relative[:3] -= previous[:3]
        relative[-1] -= previous[-1]
        previous = absolute
    return result
