"""Map: average precision of predicted lines, matched by their chamfer distance.

As VAD and MapTR report it. Every line is resampled to 100 points at equal distances. The distance of two lines is the
mean, over both directions, of the mean distance from a point to the nearest point of the other line. In the order of
their scores, predictions of a class match the nearest true line of their class and sample: a hit if that is within the
threshold and not taken yet.

Two things are kept as they are, for numbers that compare with published ones:

- Lines whose surroundings (2 m to the sides, nothing beyond the ends) do not meet never match, however short the way
  from the end of one to the start of the other.
- In ``mAP`` a class without any true line counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from mmengine.dist import broadcast_object_list, is_main_process
from rich.console import Console
from rich.progress import track
from scipy.spatial.distance import cdist

from vadslim.cli import UserError
from vadslim.nuscenes_data.vector_map import MAP_CLASSES
from vadslim.vad.datasets.map_truth import MapTruth, Truth

from .task import as_array, register_task

THRESHOLDS = (0.5, 1.0, 1.5)
NUM_POINTS = 100
_SURROUNDINGS = 2.0  # metres


class MapScore(NamedTuple):
    """One sample.

    labels (P,) uint8 and scores (P,) of the predictions; hits (T, P) bool, one row per threshold; truths (C,), the
    number of true lines of each class.
    """

    labels: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    truths: np.ndarray


def resample(lines: Sequence[np.ndarray], num_points: int = NUM_POINTS) -> np.ndarray:
    """Points at equal distances along polylines, both ends included.

    Args:
        lines: N arrays (P, 2); P > 1 may differ.
        num_points: per line.

    Returns:
        (N, num_points, 2) float64.
    """
    points = np.zeros((len(lines), num_points, 2))
    fractions = np.linspace(0, 1, num_points)
    for line, row in zip(lines, points):
        line = np.asarray(line, np.float64)
        steps = line[1:] - line[:-1]
        ends = np.hypot(steps[:, 0], steps[:, 1]).cumsum()
        ends = np.r_[0.0, ends]
        at = fractions * ends[-1]
        row[:, 0], row[:, 1] = np.interp(at, ends, line[:, 0]), np.interp(at, ends, line[:, 1])
    return points


def chamfer_distances(lines: np.ndarray, others: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Chamfer distances between polylines.

    Args:
        lines, others: (N, P, 2) and (M, Q, 2) metres, float64.
        limit: larger distances need not be known.

    Returns:
        (N, M) metres; infinite above the limit, and for lines whose surroundings do not meet.
    """
    distances = np.full((len(lines), len(others)), np.inf)
    if not distances.size:
        return distances
    maybe = np.ones_like(distances, bool) if np.isinf(limit) else _lower_bounds(lines, others) <= limit
    # shapely's surroundings of a line much shorter than they are wide are not always what they should be
    usual = np.logical_and.outer(*(np.ptp(side, axis=1).max(1) > _SURROUNDINGS / 2 for side in (lines, others)))
    for i, j in np.argwhere(maybe):
        squared = cdist(lines[i], others[j], 'sqeuclidean')
        ways = squared.min(0), squared.min(1)
        distance = sum(np.sqrt(way).sum() / len(way) for way in ways) / 2
        if distance <= limit:
            meet = (usual[i, j] and _beside(squared, ways)) or _surroundings_meet(lines[i], others[j])
            distances[i, j] = distance if meet else np.inf
    return distances


def _lower_bounds(lines: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) what the chamfer distances are not below, from every third point.

    A point left out is one step from a point kept, and distances to a line change by no more than one moves.
    """
    (kept, weights, step), (kept_others, weights_others, step_others) = _thinned(lines), _thinned(others)
    squared = cdist(kept.reshape(-1, 2), kept_others.reshape(-1, 2), 'sqeuclidean')
    squared = squared.reshape(*kept.shape[:2], *kept_others.shape[:2])
    there = (np.sqrt(squared.min(3)) * weights[:, None]).sum(1)
    back = (np.sqrt(squared.min(1)) * weights_others).sum(2)
    return (there + back) / 2 - (step[:, None] + step_others)


def _thinned(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every third point and the last (N, K, 2), the share of all points that is nearest to each (K,), the longest step
    between two points of each line (N,).
    """
    last = lines.shape[1] - 1
    kept = np.unique(np.r_[0 : last + 1 : 3, last])
    owner = np.minimum(np.rint(np.arange(last + 1) / 3).astype(int), len(kept) - 1)
    steps = np.linalg.norm(np.diff(lines, axis=1), axis=-1).max(1)
    return lines[:, kept], np.bincount(owner, minlength=len(kept)) / (last + 1), steps


def _beside(squared: np.ndarray, ways: Sequence[np.ndarray]) -> bool:
    """Whether some point of a line lies beside the other, surely within its surroundings: near to a point that is not
    one of its ends. That is quick to say, and true of nearly all lines with a small distance.
    """
    return any(
        bool(((way < np.minimum(ends[0], ends[-1])) & (way < (0.95 * _SURROUNDINGS) ** 2)).any())
        for way, ends in zip(ways, (squared, squared.T))
    )


def _surroundings_meet(line: np.ndarray, other: np.ndarray) -> bool:
    shapes = shapely.buffer(
        [shapely.linestrings(line), shapely.linestrings(other)], _SURROUNDINGS, cap_style='flat', join_style='mitre'
    )
    return bool(shapely.intersects(*shapes))


def match(distances: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which predictions of one class and sample are hits.

    Args:
        distances: (N, M) to the true lines.
        scores: (N,).
        threshold: metres.

    Returns:
        (N,) bool.
    """
    hits = np.zeros(len(scores), bool)
    if distances.size:
        near = np.flatnonzero(distances.min(1) <= threshold)
        near = near[np.argsort(-scores[near], kind='stable')]
        _, first = np.unique(distances[near].argmin(1), return_index=True)
        hits[near[first]] = True
    return hits


class Curve(NamedTuple):
    """Precision and recall (N,) over the predictions, best score first, and the area below."""

    recall: np.ndarray
    precision: np.ndarray
    average_precision: float


def precision_curve(scores: np.ndarray, hits: np.ndarray, num_truths: int) -> Curve:
    """Sums up one class at one threshold over all samples.

    Args:
        scores: (N,) of all predictions.
        hits: (N,) bool.
        num_truths: number of true lines.
    """
    found = hits[np.argsort(-scores, kind='stable')].cumsum()
    recall = found / max(num_truths, 1)
    precision = found / np.arange(1, len(found) + 1)
    return Curve(recall, precision, average_precision(recall, precision))


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area below the curve (N,), precision being the best at this recall or any higher one."""
    best = np.maximum.accumulate(np.asarray(precision)[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * best).sum())


@register_task
class MapTask:
    """Average precision per class and threshold.

    Args:
        thresholds: chamfer distances in metres up to which a prediction is a hit.
        same_gt_sample_num: resample predictions as true lines are (VAD's ``map_eval_use_same_gt_sample_num_flag``); if
            not, their own points count.
    """

    name = 'map'

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, same_gt_sample_num: bool = True) -> None:
        if not thresholds or min(thresholds) <= 0:
            raise UserError(f'map: thresholds {thresholds}, positive numbers (metres) are needed')
        self.thresholds = tuple(map(float, thresholds))
        self.same_gt_sample_num = same_gt_sample_num
        self.classes: tuple[str, ...] = MAP_CLASSES
        self._source: MapTruth | None = None
        self._truth: Truth | None = None

    def prepare(self, meta: dict[str, Any]) -> None:
        """Makes sure that there is ground truth, before the network runs: rank 0 looks and makes it, the others wait.

        Args:
            meta: of the data set; ``map_truth`` holds the arguments of
                :class:`~vadslim.vad.datasets.map_truth.MapTruth`.
        """
        self._source = MapTruth(**meta['map_truth'])
        self.classes, self._truth = tuple(self._source.classes), None
        problem: list[str] = ['']
        if is_main_process():
            try:
                self._truth = self._source.load(track=_progress)
            except Exception as error:
                broadcast_object_list([str(error) or type(error).__name__])
                raise
        broadcast_object_list(problem)
        if problem[0]:
            raise UserError(f'rank 0: {problem[0]}')

    def score(self, sample: dict) -> MapScore:
        """Scores ``pred_map`` (``pts`` (P, 20, 2) metres in the LiDAR frame, ``labels``, ``scores``) of the sample
        with the token ``sample_idx``.
        """
        if self._truth is None:
            if self._source is None:
                raise RuntimeError('map: prepare(dataset_meta) comes before score()')
            self._truth = self._source.load(keep=False)
        pred = sample['pred_map']
        lines, labels, scores = (as_array(pred[key]) for key in ('pts', 'labels', 'scores'))
        return self.score_lines(list(lines), labels, scores, self._truth[str(sample['sample_idx'])])

    def score_lines(
        self,
        lines: Sequence[np.ndarray],
        labels: np.ndarray,
        scores: np.ndarray,
        truth: Sequence[tuple[int, np.ndarray]],
    ) -> MapScore:
        """Scores one sample.

        Args:
            lines: P predicted polylines (N, 2); of fewer than two points, or with a coordinate that is no number, they
                do not exist.
            labels, scores: (P,).
            truth: true lines: label, and (K, 2) points.
        """
        real = np.array([len(line) > 1 and bool(np.isfinite(line).all()) for line in lines], bool)
        labels, scores = labels[real].astype(np.uint8), scores[real]
        lines = [np.asarray(line, np.float64) for line, keep in zip(lines, real) if keep]
        hits = np.zeros((len(self.thresholds), len(labels)), bool)
        true_labels = np.array([label for label, _ in truth], int)
        for label in np.intersect1d(labels, true_labels):
            own = np.flatnonzero(labels == label)
            others = resample([points for kind, points in truth if kind == label])
            mine = [lines[i] for i in own]
            # one array of lines, or one of each where lines may differ in their number of points
            parts = [resample(mine)] if self.same_gt_sample_num else [line[None] for line in mine]
            distances = np.concatenate([chamfer_distances(part, others, max(self.thresholds)) for part in parts])
            for row, threshold in zip(hits, self.thresholds):
                row[own] = match(distances, scores[own], threshold)
        return MapScore(labels, scores, hits, np.bincount(true_labels, minlength=len(MAP_CLASSES)))

    def curves(self, scores: Sequence[MapScore]) -> dict[str, list[Curve]]:
        """Class -> curve at each threshold."""
        labels, values, hits = (
            np.concatenate([getattr(score, key) for score in scores], -1) for key in ('labels', 'scores', 'hits')
        )
        truths = np.sum([score.truths for score in scores], 0)
        curves = {}
        for name in self.classes:
            label = MAP_CLASSES.index(name)
            own = labels == label
            curves[name] = [precision_curve(values[own], row[own], int(truths[label])) for row in hits]
        return curves

    def summarize(self, scores: Sequence[MapScore]) -> dict[str, float]:
        """``NuscMap_chamfer/mAP``, ``.../{class}_AP`` and ``.../{class}_AP_thr_{threshold}``; nan without samples."""
        names = [f'{name}_AP_thr_{threshold}' for name in self.classes for threshold in self.thresholds]
        table = np.full((len(self.classes), len(self.thresholds)), np.nan)
        if scores:
            table[:] = [[curve.average_precision for curve in row] for row in self.curves(scores).values()]
        metrics = {f'{name}_AP': value for name, value in zip(self.classes, table.mean(1))}
        metrics |= {'mAP': table.mean(), **dict(zip(names, table.ravel()))}
        return {f'NuscMap_chamfer/{name}': float(value) for name, value in metrics.items()}


def _progress(records: Sequence[dict]) -> Any:
    return track(records, description='map ground truth', console=Console(stderr=True), transient=True)
