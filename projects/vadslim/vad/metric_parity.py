"""Evaluates a file of stored predictions and ground truth, to be compared with what the original VAD said of it.

The file (npz) holds, each part optional and with any number of cases, samples, predictions and true objects:

- ``motion/gt_boxes`` (G, 9), ``motion/gt_labels`` (G,), ``motion/gt_attr`` (G, 34): the scene, and of each case
  ``motion/case{i}/pred_{boxes,labels,scores,trajs}``: (P, 9), (P,), (P,), (P, modes, 12);
- ``planning/plan/{name}`` and ``planning/gt/{name}``: (6, 2) positions in metres in that scene, every plan to be
  compared with every truth;
- ``map/{sample}/pred{j}/pts`` (N, 2) and ``.../type_score`` (2,), ``map/{sample}/gt{j}/pts`` and ``.../type``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vadslim.nuscenes_data.vector_map import MAP_CLASSES

from .metrics.map import MapScore, MapTask, average_precision, chamfer_distances, resample
from .metrics.motion import MotionTask, match_centres
from .metrics.planning import PlanningTask, means_up_to, planning_steps, rasterize

Arrays = Mapping[str, np.ndarray]
MOTION_COUNTS = ('gt', 'cnt_ade', 'cnt_fde', 'hit', 'fp', 'ADE', 'FDE', 'MR')


def evaluate_inputs(arrays: Arrays) -> dict[str, Any]:
    """All that can be said of the arrays, under the keys of the reference's ``golden_metrics.json``.

    Raises:
        ValueError: the arrays are others.
        KeyError: one of them is missing.
    """
    report: dict[str, Any] = {}
    scene = [arrays.get(f'motion/gt_{key}') for key in ('boxes', 'labels', 'attr')]
    if scene[0] is not None and scene[2] is not None:
        report |= _planning(arrays, *rasterize(scene[0], scene[2]))
        report |= _motion(arrays, *scene)
    samples = [_map_sample(arrays, name) for name in _numbered(arrays, r'map/(\d+)/')]
    if samples:
        report['map'] = {f'same_gt_sample_num_flag={flag}': _map(samples, flag) for flag in (True, False)}
        report['map_score_matrix_divider_sample0_flagFalse'] = _divider_scores(samples[0])
    if not report:
        raise ValueError('holds neither motion/gt_boxes and motion/gt_attr nor map/0/...')
    recall, precision = [0.2, 0.2, 0.4, 0.6], [1.0, 0.5, 0.667, 0.75]
    area = average_precision(np.array(recall), np.array(precision))
    return report | {'average_precision_area_example': {'recall': recall, 'precision': precision, 'ap': area}}


def _planning(arrays: Arrays, vehicles: np.ndarray, humans: np.ndarray) -> dict[str, Any]:
    plans, truths = (
        {key.removeprefix(start): arrays[key] for key in arrays if key.startswith(start)}
        for start in ('planning/plan/', 'planning/gt/')
    )
    steps = {
        f'{plan}|{truth}': planning_steps(plans[plan], truths[truth], vehicles | humans)
        for truth in truths
        for plan in plans
    }
    nothing = np.zeros((3, 6), np.float32)
    cases = {name: {**_named(value), 'fut_valid_flag': True} for name, value in steps.items()}
    return {
        'planning': {**cases, 'invalid_flag': {**_named(nothing), 'fut_valid_flag': False}},
        'planning_occupancy': {
            'note': 'number of cells of the 200 x 200 grid that are taken at each of the six steps',
            'vehicle_cells_per_step': vehicles.sum((1, 2)).tolist(),
            'pedestrian_cells_per_step': humans.sum((1, 2)).tolist(),
        },
        'planning_per_step': {
            name: {'obj_coll': value[1].tolist(), 'obj_box_coll': value[2].tolist()} for name, value in steps.items()
        },
    }


def _named(steps: np.ndarray) -> dict[str, float]:
    names = [f'{name}_{second}s' for name in PlanningTask.metrics for second in (1, 2, 3)]
    return dict(zip(names, means_up_to(steps).ravel().tolist()))


def _motion(arrays: Arrays, boxes: np.ndarray, labels: np.ndarray, attrs: np.ndarray) -> dict[str, Any]:
    task, report, scores = MotionTask(), {}, []
    truth = {'bboxes_3d': boxes, 'labels_3d': labels, 'attr_labels': attrs}
    cases = _numbered(arrays, r'motion/case(\d+)/')
    for case in cases:
        pred = {key: arrays[f'motion/case{case}/pred_{key}'] for key in ('boxes', 'labels', 'scores', 'trajs')}
        sure = pred['scores'] > task.score_threshold
        matched = match_centres(pred['boxes'][sure, :2], pred['labels'][sure], boxes[:, :2], labels)
        pred_instances = {f'{"bboxes" if key == "boxes" else key}_3d': value for key, value in pred.items()}
        score = task.score({'pred_instances_3d': pred_instances, 'gt_instances_3d': truth})
        scores.append(score)
        metric = {f'{count}_{kind}': score[f'{count}_{kind}'] for count in MOTION_COUNTS for kind in task.classes}
        report[f'case{case}'] = {'matched_pred_index_per_gt': matched.tolist(), 'metric': metric}
    summary = task.summarize(scores)
    aggregate = {f'{name}_{kind}': summary[f'{name}_{kind}'] for kind in task.classes for name in task.metrics}
    result = {'motion': report, 'motion_aggregate': aggregate} if cases else {}
    trajs = arrays[f'motion/case{cases[0]}/pred_trajs'] if cases else ()
    if len(trajs) and len(attrs):
        result['metric_motion_helpers'] = _best_mode(trajs[0], attrs[0])
    return result


def _best_mode(trajs: np.ndarray, attrs: np.ndarray) -> dict[str, float]:
    """Displacement of the first mode, and of the one that ends nearest, of one prediction (modes, 12)."""
    difference = (trajs - attrs[:12]).reshape(len(trajs), -1, 2).cumsum(1, dtype=np.float64)
    distance = np.linalg.norm(difference, axis=-1)
    first, best = distance[0], distance[distance[:, -1].argmin()]
    values = (first.mean(), first[-1], best.mean(), best[-1])
    return dict(zip(('ade_mode0', 'fde_mode0', 'best_mode_ade', 'best_mode_fde'), map(float, values)))


Sample = tuple[list[np.ndarray], np.ndarray, np.ndarray, list[tuple[int, np.ndarray]]]


def _map_sample(arrays: Arrays, sample: int) -> Sample:
    """Predicted lines, labels, scores; true lines."""
    pred, truth = (
        [f'map/{sample}/{kind}{j}' for j in _numbered(arrays, rf'map/{sample}/{kind}(\d+)/')] for kind in ('pred', 'gt')
    )
    table = np.array([arrays[f'{name}/type_score'] for name in pred]).reshape(-1, 2)
    lines = [arrays[f'{name}/pts'] for name in pred]
    return lines, table[:, 0].astype(int), table[:, 1], [(int(arrays[f'{t}/type']), arrays[f'{t}/pts']) for t in truth]


def _map(samples: Sequence[Sample], same_gt_sample_num: bool) -> dict[str, Any]:
    task = MapTask(same_gt_sample_num=same_gt_sample_num)
    scores: list[MapScore] = [task.score_lines(*sample) for sample in samples]
    curves, truths = task.curves(scores), np.sum([score.truths for score in scores], 0)
    areas = np.array([[curve.average_precision for curve in curves[name]] for name in MAP_CLASSES])
    per_threshold = {}
    for i, threshold in enumerate(task.thresholds):
        there = areas[truths > 0, i]  # here, a class without any true line does not count
        row: dict[str, Any] = {'mAP': float(there.mean()) if len(there) else 0.0}
        for name, count in zip(MAP_CLASSES, truths):
            curve = curves[name][i]
            row[name] = {
                'ap': curve.average_precision,
                'num_gts': int(count),
                'num_dets': len(curve.recall),
                'recall': curve.recall.tolist(),
                'precision': curve.precision.tolist(),
            }
        per_threshold[str(threshold)] = row
    return {
        'per_threshold': per_threshold,
        'mean_per_class': dict(zip(MAP_CLASSES, areas.mean(1).tolist())),
        'mAP': float(areas.mean()),
    }


def _divider_scores(sample: Sample) -> list[list[float]]:
    """(P, G) negative distances of the first sample's dividers, predictions as they are; -100 for lines apart."""
    lines, labels, _, truth = sample
    own = [np.asarray(line, np.float64)[None] for line, label in zip(lines, labels) if label == 0 and len(line) > 1]
    others = [resample(np.asarray(points, np.float64)[None]) for label, points in truth if label == 0]
    if not own or not others:
        return [[] for _ in own]
    distances = np.concatenate([chamfer_distances(line, np.concatenate(others)) for line in own])
    return np.where(np.isinf(distances), -100.0, -distances).tolist()


def _numbered(arrays: Arrays, pattern: str) -> list[int]:
    """The numbers that the pattern finds in the names, in order."""
    found: Callable[[str], re.Match | None] = re.compile(pattern).match
    return sorted({int(match[1]) for match in map(found, arrays) if match})
