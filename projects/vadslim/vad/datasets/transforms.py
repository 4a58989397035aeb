"""Transforms of one frame of VAD: six camera images, boxes and attributes of agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import BaseDataElement, InstanceData

from vadslim.cli import UserError

AGENT_KEYS = ('gt_bboxes_3d', 'gt_labels_3d', 'gt_attr_labels')


@TRANSFORMS.register_module()
class VADLoadMultiViewImages(BaseTransform):
    """Read the images of ``img_path`` into ``img``: a list of (H, W, 3) float32 BGR arrays, values 0..255.

    Args:
        reduced: decode at 1, 1/2, 1/4 or 1/8 of the size (rounded up), which is faster; ``lidar2img`` is scaled too.
    """

    FLAGS = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }

    def __init__(self, reduced: int = 1) -> None:
        if reduced not in self.FLAGS:
            raise ValueError(f'reduced: {reduced}, allowed are {sorted(self.FLAGS)}')
        self.reduced = reduced

    def transform(self, results: dict) -> dict:
        results['img'] = [_read(path, self.FLAGS[self.reduced]) for path in results['img_path']]
        if self.reduced > 1:  # pixel i of the reduced image covers pixels i * reduced ... (i + 1) * reduced - 1
            matrix = np.diag([1 / self.reduced, 1 / self.reduced, 1.0, 1.0])
            results['lidar2img'] = [matrix @ projection for projection in results['lidar2img']]
        results['ori_shape'] = [image.shape for image in results['img']]
        return results


def _read(path: str, flag: int) -> np.ndarray:
    try:
        image = mmcv.imread(path, flag)
    except FileNotFoundError:
        raise UserError(f'{path}: no such image; data_root must be the nuScenes folder') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}') from None
    except cv2.error:  # an empty file
        image = None
    if image is None:
        raise UserError(f'{path}: not a readable image')
    return image.astype(np.float32)


@TRANSFORMS.register_module()
class PhotoMetricDistortionMultiViewImage(BaseTransform):
    """Distort the colours of each image on its own; every step has a chance of one half.

    Brightness, contrast, saturation, hue and the order of the channels; contrast comes either before or after
    the two colour steps. Draws from NumPy's global generator. Images are float32 BGR.

    Args:
        brightness_delta: largest change of brightness, grey levels.
        contrast_range: factors of contrast.
        saturation_range: factors of saturation.
        hue_delta: largest change of hue, degrees.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: float = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def transform(self, results: dict) -> dict:
        results['img'] = [self._distort(image) for image in results['img']]
        return results

    def _distort(self, image: np.ndarray) -> np.ndarray:
        """Three affine maps of the channels around the two changes of colour space: one pass over the
        pixels each.
        """
        random = np.random  # seeded per worker by MMEngine

        def draw(low: float, high: float, neutral: float) -> float:
            return random.uniform(low, high) if random.randint(2) else neutral

        brightness = draw(-self.brightness_delta, self.brightness_delta, 0.0)
        contrast_first = random.randint(2)
        contrast = draw(*self.contrast_range, 1.0) if contrast_first else 1.0
        image = _affine(image, contrast * np.eye(3), [contrast * brightness] * 3)

        saturation = draw(*self.saturation_range, 1.0)
        hue = draw(-self.hue_delta, self.hue_delta, 0.0)
        if saturation != 1 or hue != 0:
            hsv = _affine(mmcv.bgr2hsv(image), np.diag([1.0, saturation, 1.0]), [hue, 0.0, 0.0])
            hsv[..., 0] -= 360 * np.floor(hsv[..., 0] / 360)  # OpenCV errs on hues outside 0..360 degrees
            image = mmcv.hsv2bgr(hsv)

        contrast = 1.0 if contrast_first else draw(*self.contrast_range, 1.0)
        channels = random.permutation(3) if random.randint(2) else np.arange(3)
        return _affine(image, contrast * np.eye(3)[channels], [0.0] * 3)


def _affine(image: np.ndarray, matrix: np.ndarray, shift: Sequence[float]) -> np.ndarray:
    """``matrix @ pixel + shift`` for every pixel of a (H, W, 3) image."""
    if not np.any(shift) and np.array_equal(matrix, np.eye(3)):
        return image
    return cv2.transform(image, np.column_stack([matrix, shift]))


@TRANSFORMS.register_module()
class CustomObjectRangeFilter(BaseTransform):
    """Keep agents whose centre lies inside the range, seen from above.

    Args:
        point_cloud_range: x1, y1, z1, x2, y2, z2, metres in the LiDAR frame; z is not looked at.
    """

    def __init__(self, point_cloud_range: Sequence[float]) -> None:
        self.low = np.array(point_cloud_range[:2], dtype=np.float32)
        self.high = np.array(point_cloud_range[3:5], dtype=np.float32)

    def transform(self, results: dict) -> dict:
        centers = results['gt_bboxes_3d'][:, :2] if 'gt_bboxes_3d' in results else None
        if centers is not None:
            _keep(results, ((centers > self.low) & (centers < self.high)).all(axis=1))
        return results


@TRANSFORMS.register_module()
class CustomObjectNameFilter(BaseTransform):
    """Keep agents of the known classes (label >= 0).

    Args:
        classes: the class names; labels beyond their number are dropped too.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.num_classes = len(classes)

    def transform(self, results: dict) -> dict:
        if 'gt_labels_3d' in results:
            labels = results['gt_labels_3d']
            _keep(results, (labels >= 0) & (labels < self.num_classes))
        return results


def _keep(results: dict, mask: np.ndarray) -> None:
    for key in AGENT_KEYS:
        results[key] = results[key][mask]


@TRANSFORMS.register_module()
class RandomScaleImageMultiViewImage(BaseTransform):
    """Scale all images by one factor drawn from ``scales`` and the projections with them.

    Args:
        scales: factors; one of them is drawn per frame, so with one there is no randomness.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f'scales: {scales}, positive factors are needed')
        self.scales = tuple(scales)

    def transform(self, results: dict) -> dict:
        scale = self.scales[np.random.randint(len(self.scales))] if len(self.scales) > 1 else self.scales[0]
        results['img'] = [
            mmcv.imresize(image, (int(image.shape[1] * scale), int(image.shape[0] * scale))) for image in results['img']
        ]
        matrix = np.diag([scale, scale, 1.0, 1.0])
        results['lidar2img'] = [matrix @ projection for projection in results['lidar2img']]
        results['ori_shape'] = [image.shape for image in results['img']]
        return results


@TRANSFORMS.register_module()
class VADPackInputs(BaseTransform):
    """Pack one frame for the model.

    Result: ``inputs['img']`` (1, 6, 3, H, W) float32 and ``data_samples``, a Det3DDataSample with

    * ``metainfo``: ``meta_keys`` and ``prev_bev_exists=False``, ``history_metas=[]``; ``ori_shape`` and
      ``img_shape`` are the shapes before padding, the data preprocessor sets ``img_shape`` to the padded
      ones;
    * ``gt_instances_3d``: bboxes_3d (N, 9) VAD numbers, labels_3d (N,), attr_labels (N, 34);
    * ``gt_map``: labels (M,), pts (M, S, 20, 2), bboxes (M, 4), if the dataset loads the map;
    * ``gt_ego``: his_trajs (2, 2), fut_trajs (6, 2), fut_masks (6,), fut_cmd (3,), lcf_feat (9,).

    Args:
        meta_keys: what goes into ``metainfo``.
    """

    META_KEYS = (
        'lidar2img',
        'can_bus',
        'scene_token',
        'sample_idx',
        'frame_idx',
        'timestamp',
        'ori_shape',
        'img_path',
        'fut_valid_flag',
        'ego2global',
        'lidar2global',
    )

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict[str, Any]:
        images = np.stack(results['img']).transpose(0, 3, 1, 2)[None]
        meta = {key: results[key] for key in self.meta_keys if key in results}
        meta |= {
            'img_shape': [image.shape for image in results['img']],
            'prev_bev_exists': False,
            'history_metas': [],
        }
        sample = Det3DDataSample(metainfo=meta)
        if 'gt_bboxes_3d' in results:
            sample.gt_instances_3d = InstanceData(
                bboxes_3d=torch.from_numpy(results['gt_bboxes_3d']),
                labels_3d=torch.from_numpy(results['gt_labels_3d']),
                attr_labels=torch.from_numpy(results['gt_attr_labels']),
            )
        if 'gt_ego' in results:
            sample.gt_ego = BaseDataElement(**{k: torch.from_numpy(v) for k, v in results['gt_ego'].items()})
        if 'gt_map' in results:
            sample.gt_map = results['gt_map']
        return {
            'inputs': {'img': torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))},
            'data_samples': sample,
        }
