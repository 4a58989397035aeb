"""Frames for tracing, counting and timing: deterministic images, six cameras as they are mounted on a nuScenes car.

Geometry decides how much work the encoder has (which cells a camera sees), so it is realistic; pictures and targets
are not.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

IMAGE_HW = (900, 1600)  # nuScenes, pixels
# Per camera: heading in degrees counter-clockwise from the front, focal length and principal point in pixels,
# position in metres of the lidar frame (x right, y forward, z up). FRONT, FRONT_RIGHT, FRONT_LEFT, BACK, BACK_LEFT,
# BACK_RIGHT.
CAMERAS = (
    (0.0, 1266.0, (816.0, 491.0), (0.02, 0.75, -0.33)),
    (-55.0, 1260.0, (807.0, 495.0), (0.45, 0.62, -0.35)),
    (55.0, 1272.0, (826.0, 479.0), (-0.48, 0.60, -0.34)),
    (180.0, 809.0, (829.0, 481.0), (-0.01, -0.95, -0.30)),
    (110.0, 1256.0, (792.0, 492.0), (-0.49, 0.25, -0.32)),
    (-110.0, 1259.0, (795.0, 488.0), (0.47, 0.27, -0.33)),
)

Frame = tuple[dict[str, Tensor], list[Det3DDataSample]]


def camera_matrices(scale: float) -> list[np.ndarray]:
    """Matrices (4, 4) from the lidar frame in metres to pixels of the image scaled by ``scale``, one per camera."""
    matrices = []
    for heading, focal, (cx, cy), position in CAMERAS:
        angle = math.radians(heading)
        right = [math.cos(angle), math.sin(angle), 0.0]
        forward = [-math.sin(angle), math.cos(angle), 0.0]
        rotation = np.array([right, [0.0, 0.0, -1.0], forward])
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = rotation
        extrinsic[:3, 3] = -rotation @ np.array(position)
        intrinsic = np.eye(4)
        intrinsic[:2, :3] = [[focal * scale, 0.0, cx * scale], [0.0, focal * scale, cy * scale]]
        matrices.append(intrinsic @ extrinsic)
    return matrices


def can_bus(index: int) -> np.ndarray:
    """The absolute pose and motion of a car that drives a left bend at about 3.6 m/s, two frames a second, (18,)."""
    yaw = math.radians(40.0 + 4.0 * index)
    vector = np.zeros(18)
    vector[:3] = 600.0 + 1.3 * index, 1600.0 + 1.3 * index, 0.0
    vector[3:7] = math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
    vector[7:10] = 0.3, -0.1, 9.8
    vector[12] = 0.07
    vector[13] = 3.6
    vector[16], vector[17] = yaw, math.degrees(yaw)
    return vector


def example_frames(hw: Any = (384, 640), num_frames: int = 2) -> list[Frame]:
    """Consecutive frames of one scene, batch size 1, with targets.

    Args:
        hw: Height and width of the padded images, multiples of 32.
        num_frames: How many.

    Returns:
        Arguments of :meth:`VAD.forward`: ``dict(img=(1, 1, 6, 3, H, W))`` and one sample with an absolute ``can_bus``.
    """
    height, width = hw
    return [({'img': _images(i, height, width)[None, None]}, [_sample(i, height, width)]) for i in range(num_frames)]


def example_queue(hw: Any = (384, 640), num_frames: int = 3) -> Frame:
    """The same frames as one training sample for ``mode='loss'``.

    Returns:
        ``dict(img=(1, T, 6, 3, H, W))`` and one sample, whose ``can_bus`` are relative to the frame before.
    """
    frames = example_frames(hw, num_frames)
    poses = [sample.metainfo['can_bus'].copy() for _, (sample,) in frames]
    metas = []
    for i, (_, (sample,)) in enumerate(frames):
        relative = poses[i].copy()
        relative[[0, 1, 2, 17]] = poses[i][[0, 1, 2, 17]] - poses[i - 1][[0, 1, 2, 17]] if i else 0.0
        sample.set_metainfo({'can_bus': relative, 'prev_bev_exists': i > 0})
        metas.append(dict(sample.metainfo))
    current = frames[-1][1][0]
    current.set_metainfo({'history_metas': metas[:-1]})
    return {'img': torch.cat([inputs['img'] for inputs, _ in frames], 1)}, [current]


def run_example(model: nn.Module, frames: Sequence[Frame], mode: str = 'tensor') -> list[Any]:
    """What ``model`` says of each frame in turn; it starts without a previous frame, and forgets the last one
    afterwards.

    Gradients are recorded if they are enabled; the model's mode is left as it is.
    """
    model.reset_history()
    outputs = [model(inputs, [sample.clone() for sample in samples], mode=mode) for inputs, samples in frames]
    model.reset_history()
    return outputs


def _images(index: int, height: int, width: int) -> Tensor:
    """Smooth waves and noise of about unit variance, a 16:9 picture padded with zeros, (6, 3, height, width)."""
    rng = np.random.default_rng(zlib.crc32(f'example/{index}'.encode()))
    y, x = np.mgrid[:height, :width]
    waves = rng.uniform(1, 6, (6, 3, 2, 1, 1)) * np.stack([x / width, y / height])
    img = np.sin(2 * math.pi * waves.sum(2)) + 0.5 * rng.standard_normal((6, 3, height, width))
    img[..., _valid_height(height, width) :, :] = 0.0
    return torch.from_numpy(img.astype(np.float32))


def _valid_height(height: int, width: int) -> int:
    return min(height, round(IMAGE_HW[0] * width / IMAGE_HW[1]))


def _sample(index: int, height: int, width: int) -> Det3DDataSample:
    sample = Det3DDataSample(
        metainfo={
            'lidar2img': camera_matrices(width / IMAGE_HW[1]),
            'can_bus': can_bus(index),
            'scene_token': 'example',
            'sample_idx': f'example-{index}',
            'frame_idx': index,
            'prev_bev_exists': index > 0,
            'img_shape': [(height, width, 3)] * 6,
            'ori_shape': [(_valid_height(height, width), width, 3)] * 6,
            'fut_valid_flag': True,
        }
    )
    # Two cars beside the lane, one of them moving; two lane lines and a road edge; the car goes straight on.
    attrs = torch.zeros(2, 34)
    attrs[0, 1:12:2] = 1.5
    attrs[:, 12:18] = 1.0
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=torch.tensor(
            [[3.5, 9.0, -1.7, 1.9, 4.5, 1.6, -1.57, 0.0, 3.0], [-3.5, 14.0, -1.7, 1.9, 4.4, 1.6, 1.57, 0.0, 0.0]]
        ),
        labels_3d=torch.tensor([0, 0]),
        attr_labels=attrs,
    )
    xs = torch.tensor([1.8, -1.8, 7.5])
    line = torch.stack([xs[:, None].expand(-1, 20), torch.linspace(-30, 30, 20).expand(3, -1)], -1)
    points = torch.full((3, 19, 20, 2), -10000.0)
    points[:, 0], points[:, 1] = line, line.flip(1)
    sample.gt_map = InstanceData(
        labels=torch.tensor([0, 0, 2]), pts=points, bboxes=torch.cat([line.amin(1), line.amax(1)], -1)
    )
    straight = torch.tensor([[0.0, 1.8]])
    sample.gt_ego = BaseDataElement(
        his_trajs=straight.repeat(2, 1),
        fut_trajs=straight.repeat(6, 1),
        fut_masks=torch.ones(6),
        fut_cmd=torch.tensor([0.0, 0.0, 1.0]),
        lcf_feat=torch.tensor([0.0, 3.6, 0.0, 0.3, 0.07, 4.08, 1.85, 3.6, 0.0]),
    )
    return sample
