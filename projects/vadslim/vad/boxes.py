"""The one place where VAD's box numbers meet the box classes of MMDetection3D 1.x and of the nuScenes devkit.

VAD keeps the numbers of mmdetection3d 0.17 everywhere: network outputs, info files, targets and metrics.
One row, in metres, radians and metres per second, in the LiDAR frame (x right, y forward, z up), is

    [x, y, z, w, l, h, yaw(, vx, vy)]

* ``w`` is the extent across the heading, ``l`` along it, ``h`` upwards.
* ``yaw = -heading - pi / 2``, where ``heading`` is the counter-clockwise angle from the x axis to the
  direction the object faces. So the number grows clockwise, and is 0 for an object facing backwards (-y):
  its width lies along x.
* ``z`` is the centre of the *bottom* face. Only ``gt_boxes`` of an info file hold the gravity centre instead;
  :func:`bottom_centered` converts them.

MMDetection3D 1.x ``LiDARInstance3DBoxes`` hold ``[x, y, z_bottom, l, w, h, heading]``; a devkit ``Box``
holds the gravity centre, ``wlh`` and the heading as a quaternion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from vadslim.nuscenes_data.geometry import heading_to_yaw, quaternion_product, transform, yaw_to_heading

if TYPE_CHECKING:
    from mmdet3d.structures import LiDARInstance3DBoxes
    from nuscenes.utils.data_classes import Box

Array = TypeVar('Array', np.ndarray, Tensor)


def wrap_yaw(yaw: Array) -> Array:
    """The same angle in [-pi, pi)."""
    floor = torch.floor if isinstance(yaw, Tensor) else np.floor
    return yaw - floor(yaw / (2 * np.pi) + 0.5) * (2 * np.pi)


def bottom_centered(boxes: Array) -> Array:
    """Boxes (N, 7+) whose z is the gravity centre (as in info files) -> a copy whose z is the bottom
    centre.
    """
    boxes = boxes.clone() if isinstance(boxes, Tensor) else boxes.copy()
    boxes[..., 2] -= boxes[..., 5] / 2
    return boxes


def to_lidar_boxes(boxes: Tensor) -> LiDARInstance3DBoxes:
    """VAD boxes (N, 7 or 9) -> MMDetection3D 1.x boxes with the same corners and velocities."""
    from mmdet3d.structures import LiDARInstance3DBoxes

    boxes = torch.as_tensor(boxes)
    if boxes.ndim != 2 or boxes.shape[1] not in (7, 9):
        raise ValueError(f'boxes must have the shape (N, 7) or (N, 9), got {tuple(boxes.shape)}')
    columns = [
        boxes[:, :3],
        boxes[:, 4:5],
        boxes[:, 3:4],
        boxes[:, 5:6],
        yaw_to_heading(boxes[:, 6:7]),
        boxes[:, 7:],
    ]
    return LiDARInstance3DBoxes(torch.cat(columns, dim=1), box_dim=boxes.shape[1])


def from_lidar_boxes(boxes: LiDARInstance3DBoxes) -> Tensor:
    """MMDetection3D 1.x boxes -> VAD boxes (N, 7 or 9)."""
    t = boxes.tensor
    columns = [t[:, :3], t[:, 4:5], t[:, 3:4], t[:, 5:6], heading_to_yaw(t[:, 6:7]), t[:, 7:]]
    return torch.cat(columns, dim=1)


def to_nuscenes_boxes(
    boxes: Tensor | np.ndarray,
    labels: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
) -> list[Box]:
    """VAD boxes (N, 7 or 9) -> devkit boxes in the LiDAR frame, with velocities where given."""
    from nuscenes.utils.data_classes import Box
    from pyquaternion import Quaternion

    rows = np.asarray(boxes, dtype=np.float64)
    result = []
    for i, row in enumerate(rows):
        velocity = (*row[7:9], 0.0) if row.size >= 9 else (np.nan,) * 3
        result.append(
            Box(
                center=[row[0], row[1], row[2] + row[5] / 2],
                size=row[3:6],
                orientation=Quaternion(axis=[0, 0, 1], radians=yaw_to_heading(row[6])),
                label=np.nan if labels is None else int(labels[i]),
                score=np.nan if scores is None else float(scores[i]),
                velocity=velocity,
            )
        )
    return result


def to_global(boxes: np.ndarray, lidar2global: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """VAD boxes (N, 9) -> the numbers of the devkit in the global frame, all boxes at once.

    Args:
        boxes: in the LiDAR frame.
        lidar2global: (4, 4) pose of the LiDAR, which may be tilted.

    Returns:
        gravity centres (N, 3) in metres, w, l, h (N, 3), quaternions w, x, y, z (N, 4), velocities vx, vy (N, 2) in
        m/s; float64.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    rotation = lidar2global[:3, :3]
    size = boxes[:, 3:6].copy()
    centre = boxes[:, :3] + size * [0, 0, 0.5]
    half = yaw_to_heading(boxes[:, 6]) / 2
    heading = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=1)
    pose = np.roll(Rotation.from_matrix(rotation).as_quat(), 1)  # scipy has w last
    return transform(lidar2global, centre), size, quaternion_product(pose, heading), boxes[:, 7:9] @ rotation[:2, :2].T


def from_nuscenes_boxes(boxes: Sequence[Box]) -> np.ndarray:
    """Devkit boxes in the LiDAR frame -> VAD boxes (N, 9), float64. Only the heading of a tilted box is
    kept.
    """
    rows = np.zeros((len(boxes), 9))
    for row, box in zip(rows, boxes):
        row[:3], row[3:6], row[7:] = box.center, box.wlh, box.velocity[:2]
        row[2] -= box.wlh[2] / 2
        row[6] = heading_to_yaw(box.orientation.yaw_pitch_roll[0])
    return rows
