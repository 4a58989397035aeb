"""How well strokes are found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import max_pool2d

from ...registry import METRICS

_COUNTS = ('found', 'predicted', 'true')
_POINTS = ('ends', 'joints')  # the heat maps of key points
NEAR = 2.0  # pixels between a key point and what is taken for it, at most


@METRICS.register_module()
class SkeletonMetric(BaseMetric):
    """IoU, precision, recall and F1 of the skeleton's pixels, over all pixels of all images.

    A pixel is predicted where the skeleton's probability is above the threshold, and right only where the skeleton
    has this very pixel. F1 is given per curriculum stage too: ``skeleton/f1_stage_2``. Besides, on the pixels of the
    true skeleton and where the network has the head: ``tangent`` is the mean angle to the true line in degrees,
    ``width`` and ``offset`` mean absolute errors in pixels. ``ends`` and ``joints`` are F1 of the key points: the
    peaks of a heat map (the greatest of their 3 x 3 pixels, above the threshold), paired one to one with the true
    ones, of which they are at most :data:`NEAR` away.

    Args:
        threshold: of the probabilities.
        collect_device, prefix: as for MMEngine's metrics.
    """

    default_prefix = 'skeleton'

    def __init__(self, threshold: float = 0.5, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.threshold = threshold

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of each image, and sum its errors."""
        for sample in data_samples:
            maps = {name: value.float() for name, value in sample['maps'].items()}
            true = sample['targets']['skeleton'] > 0.5
            predicted = maps['skeleton'] > self.threshold
            counts = [float((true & predicted).sum()), float(predicted.sum()), float(true.sum())]
            result = dict(zip(_COUNTS, counts), stage=int(sample.get('stage', -1)))
            for name in ('tangent', 'width', 'offset'):
                if name in maps:
                    result[name] = float(_errors(name, maps[name], sample['targets'][name])[true[0]].sum())
            for kind, heat, target in zip(_POINTS, maps.get('keypoints', ()), sample['targets'].get('keypoints', ())):
                result |= {f'{kind}_{count}': value for count, value in self._count(heat, target == 1).items()}
            self.results.append(result)

    def _count(self, heat: torch.Tensor, true: torch.Tensor) -> dict[str, int]:
        """Pair the peaks of a heat map (H, W) with the true ones."""
        peaks = (heat > self.threshold) & (heat == max_pool2d(heat[None], 3, 1, 1)[0])
        found, wanted = (mask.nonzero().cpu().numpy() for mask in (peaks, true))
        near = np.linalg.norm(found[:, None] - wanted[None], axis=2) <= NEAR
        pairs = linear_sum_assignment(near, maximize=True)
        return {'found': int(near[pairs].sum()), 'predicted': len(found), 'true': len(wanted)}

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Over all images of all ranks."""
        found, predicted, true = (sum(result[name] for result in results) for name in _COUNTS)
        metrics = {
            'f1': f1(results),
            'precision': found / max(predicted, 1),
            'recall': found / max(true, 1),
            'iou': found / max(predicted + true - found, 1),
        }
        for name in ('tangent', 'width', 'offset'):
            if name in results[0]:
                metrics[name] = sum(result[name] for result in results) / max(true, 1)
        for kind in _POINTS:
            if f'{kind}_true' in results[0]:
                metrics[kind] = f1(results, f'{kind}_')
        stages = sorted({int(result['stage']) for result in results})
        if len(stages) > 1:
            for stage in stages:
                metrics[f'f1_stage_{stage}'] = f1([result for result in results if result['stage'] == stage])
        return metrics


def f1(results: Sequence[dict[str, float]], kind: str = '') -> float:
    """Compute 2 * found / (predicted + true) of the counts whose names begin with ``kind``; 0 when there is nothing."""
    found, predicted, true = (sum(result[kind + name] for result in results) for name in _COUNTS)
    return 2 * found / max(predicted + true, 1)


def _errors(name: str, value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The error of each pixel, (H, W)."""
    if name != 'tangent':
        return (value - target).abs().mean(0)
    cross, dot = value[0] * target[1] - value[1] * target[0], (value * target).sum(0)
    return torch.atan2(cross, dot).abs().rad2deg() / 2  # the maps hold twice the angle
