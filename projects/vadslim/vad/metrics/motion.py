"""Prediction of the agents' motion: ADE, FDE, miss rate and end-to-end prediction accuracy (EPA).

After ViP3D (Gu et al., CVPR 2023) as VAD computes them, for the classes ``car`` (all four-wheeled vehicles
except construction vehicles) and ``pedestrian``. Detections are matched to agents by their centres, whatever
their class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from .task import accumulate, as_array, register_task

STEPS = 6
_CLASSES = ('car', 'pedestrian')
_COUNTS = ('gt', 'cnt_ade', 'cnt_fde', 'hit', 'fp', 'ADE', 'FDE', 'MR')
_DYNAMIC = (0, 1, 3, 4, 6, 7, 8)
# VAD's class index -> row of _CLASSES; -1: not evaluated
_GROUP = np.array([0, 0, -1, 0, 0, -1, -1, -1, 1, -1])


def match_centres(
    pred_centres: np.ndarray,
    pred_labels: np.ndarray,
    gt_centres: np.ndarray,
    gt_labels: np.ndarray,
    max_distance: float = 2.0,
) -> np.ndarray:
    """The detection of each agent.

    Args:
        pred_centres, gt_centres: (P, 2) and (G, 2) metres.
        pred_labels, gt_labels: (P,) and (G,) class indices; only dynamic classes are matched, any with any.
        max_distance: metres.

    Returns:
        (G,) index of the detection, -1 for none.
    """
    far = 1e6
    distance = np.linalg.norm(pred_centres[:, None] - gt_centres, axis=-1)
    distance[~np.isin(pred_labels, _DYNAMIC)] = far
    distance[:, ~np.isin(gt_labels, _DYNAMIC)] = far
    distance[distance > max_distance] = far
    rows, columns = linear_sum_assignment(distance)
    near = distance[rows, columns] <= max_distance
    matched = np.full(len(gt_labels), -1)
    matched[columns[near]] = rows[near]
    return matched


def motion_counts(
    pred_boxes: np.ndarray,
    pred_labels: np.ndarray,
    pred_trajs: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_attrs: np.ndarray,
    max_distance: float = 2.0,
) -> dict[str, float]:
    """Counts and sums of one sample.

    Args:
        pred_boxes: (P, >=2) boxes of the confident detections, x and y first, metres.
        pred_labels: (P,) class indices.
        pred_trajs: (P, M, 12) offsets per step of each mode.
        gt_boxes: (G, >=2).
        gt_labels: (G,).
        gt_attrs: (G, 34) with future offsets [0:12] and their masks [12:18].
        max_distance: metres for a match, and at the last step for a hit.

    Returns:
        ``{count}_{class}``: agents with a whole future, matches with any and with a whole future, hits, false
        positives, sums of the best mode's ADE and FDE, misses.
    """
    centres, gt_centres = pred_boxes[:, :2].astype(np.float32), gt_boxes[:, :2].astype(np.float32)
    matched = match_centres(centres, pred_labels, gt_centres, gt_labels, max_distance)
    counts = {f'{count}_{name}': 0.0 for count in _COUNTS for name in _CLASSES}

    unmatched = np.ones(len(pred_labels), bool)
    unmatched[matched[matched >= 0]] = False
    valid = (gt_attrs[:, 12:18] == 1).sum(-1)  # the known steps come first
    whole = valid == STEPS
    pairs = np.flatnonzero(matched >= 0)
    truth = gt_attrs[pairs, :12].reshape(-1, 1, STEPS, 2).astype(np.float32)
    pred = pred_trajs[matched[pairs]].astype(np.float32).reshape(len(pairs), pred_trajs.shape[1], STEPS, 2)
    truth = accumulate(truth, 2) + gt_centres[pairs][:, None, None]
    pred = accumulate(pred, 2) + centres[matched[pairs]][:, None, None]
    distance = np.linalg.norm(truth - pred, axis=-1)  # (pairs, M, 6)
    known = np.arange(STEPS) < valid[pairs, None]
    ade, fde = np.zeros((2, len(gt_labels)), np.float32)
    ade[pairs] = (distance * known[:, None]).sum(-1).min(-1) / valid[pairs].clip(1)
    fde[pairs] = distance[..., -1].min(-1)
    for index, name in enumerate(_CLASSES):
        own = _GROUP[gt_labels] == index
        some, full = own & (matched >= 0) & (valid > 0), own & (matched >= 0) & whole
        hit = full & (fde <= max_distance)
        values = {
            'gt': (own & whole).sum(),
            'cnt_ade': some.sum(),
            'cnt_fde': full.sum(),
            'hit': hit.sum(),
            'fp': ((_GROUP[pred_labels] == index) & unmatched).sum(),
            'ADE': ade[some].sum(),
            'FDE': fde[full].sum(),
            'MR': (full & ~hit).sum(),
        }
        counts.update({f'{count}_{name}': float(value) for count, value in values.items()})
    return counts


@register_task
class MotionTask:
    """Scores detections above ``score_threshold``.

    Args:
        score_threshold: detections of a lower or equal score do not exist.
        alpha: what a false positive costs in EPA, in hits.
    """

    name = 'motion'
    classes = _CLASSES
    metrics = ('EPA', 'ADE', 'FDE', 'MR')

    def __init__(self, score_threshold: float = 0.6, alpha: float = 0.5) -> None:
        self.score_threshold = score_threshold
        self.alpha = alpha

    def score(self, sample: dict) -> dict[str, float]:
        """Counts of :func:`motion_counts`.

        ``sample`` holds ``pred_instances_3d`` (``bboxes_3d``, ``scores_3d``, ``labels_3d``, ``trajs_3d``) and
        ``gt_instances_3d`` (``bboxes_3d``, ``labels_3d``, ``attr_labels``).
        """
        pred, gt = sample['pred_instances_3d'], sample['gt_instances_3d']
        sure = as_array(pred['scores_3d']) > self.score_threshold
        return motion_counts(
            *(as_array(pred[key])[sure] for key in ('bboxes_3d', 'labels_3d', 'trajs_3d')),
            *(as_array(gt[key]) for key in ('bboxes_3d', 'labels_3d', 'attr_labels')),
        )

    def summarize(self, scores: Sequence[dict[str, float]]) -> dict[str, float]:
        """``EPA_car`` ... ``MR_pedestrian``, ADE and FDE being those of the best mode; nan where there is nothing to
        divide by. And the counts behind EPA, summed over all samples, ``gt_car`` ... ``fp_pedestrian``.
        """
        metrics = {}
        for name in _CLASSES:
            total = {count: sum(score[f'{count}_{name}'] for score in scores) for count in _COUNTS}
            metrics |= {
                f'EPA_{name}': _ratio(total['hit'] - self.alpha * total['fp'], total['gt']),
                f'ADE_{name}': _ratio(total['ADE'], total['cnt_ade']),
                f'FDE_{name}': _ratio(total['FDE'], total['cnt_fde']),
                f'MR_{name}': _ratio(total['MR'], total['cnt_fde']),
                **{f'{count}_{name}': total[count] for count in ('gt', 'hit', 'fp')},
            }
        return metrics


def _ratio(value: float, count: float) -> float:
    return value / count if count else float('nan')
