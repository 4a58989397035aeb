"""What one panel of a picture shows of a frame, and where it comes from: annotations, a network, a result file.

Coordinates are metres in the LiDAR frame (x right, y forward), boxes are VAD's numbers (:mod:`vadslim.vad.boxes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vadslim.nuscenes_data.geometry import heading_to_yaw, quaternion_matrix
from vadslim.nuscenes_data.vector_map import MAP_CLASSES
from vadslim.vad.metrics.task import as_array

COMMANDS = ('right', 'left', 'straight')
STEPS = 6  # of half a second


def _empty(*shape: int) -> Any:
    return field(default_factory=lambda: np.zeros(shape))


@dataclass(frozen=True)
class View:
    """A driving scene as somebody sees it.

    Attributes:
        title: one line over the panel.
        boxes: (N, 7+) agents.
        kinds: (N,) the agents' classes, positions in the data set's classes.
        futures: (N, M, 6, 2) where the agents will be, M guesses each; nan where it is not known.
        future_scores: (N, M) how likely the guesses are.
        map_lines: (class, points (n, 2)) per map element.
        plan: (T, 2) where the car drives; None if that is not known.
        driven: whether ``plan`` is the recorded path.
    """

    title: str = ''
    boxes: np.ndarray = _empty(0, 9)
    kinds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    futures: np.ndarray = _empty(0, 1, STEPS, 2)
    future_scores: np.ndarray = _empty(0, 1)
    map_lines: Sequence[tuple[int, np.ndarray]] = ()
    plan: np.ndarray | None = None
    driven: bool = False


def truth(sample: Mapping[str, Any], title: str = 'ground truth') -> View:
    """What the annotations say.

    Args:
        sample: a data sample as nested dicts, or the dataset's numbers of a frame before they are packed
            (``gt_bboxes_3d``, ...). Whatever it lacks (the test set has no annotation) stays empty.
        title: of the panel.
    """
    parts: dict[str, Any] = {}
    agents = sample.get('gt_instances_3d')
    if agents is None and 'gt_bboxes_3d' in sample:
        agents = {key: sample[f'gt_{key}'] for key in ('bboxes_3d', 'labels_3d', 'attr_labels')}
    if agents is not None:
        boxes, attributes = as_array(agents['bboxes_3d']), as_array(agents['attr_labels'])
        known = attributes[:, 2 * STEPS : 3 * STEPS, None] == 1
        futures = boxes[:, None, :2] + attributes[:, : 2 * STEPS].reshape(-1, STEPS, 2).cumsum(1)
        parts |= {
            'boxes': boxes,
            'kinds': as_array(agents['labels_3d']),
            'futures': np.where(known, futures, np.nan)[:, None],
            'future_scores': np.ones((len(boxes), 1)),
        }
    lines = sample.get('gt_map')
    if lines is not None:
        parts['map_lines'] = [(int(kind), points[0]) for kind, points in zip(lines['labels'], as_array(lines['pts']))]
    ego = sample.get('gt_ego')
    if ego is not None:
        known = np.asarray(ego['fut_masks'] if 'fut_masks' in ego else np.ones(STEPS)).astype(bool)
        if known.any():
            parts |= {'plan': as_array(ego['fut_trajs']).cumsum(0)[known], 'driven': True}
    return View(title, **parts)


def command(sample: Mapping[str, Any]) -> int | None:
    """The driving command of a frame, a position in ``COMMANDS``; None without annotations."""
    ego = sample.get('gt_ego')
    return None if ego is None else int(np.argmax(as_array(ego['fut_cmd'])))


def predicted(sample: Mapping[str, Any], score_thr: float, map_score_thr: float, title: str = 'prediction') -> View:
    """What a network said of a data sample, as nested dicts (``pred_instances_3d``, ``pred_map``, ``pred_ego``).

    Args:
        sample: its ``gt_ego`` tells the command.
        score_thr: agents with a lower score are left out.
        map_score_thr: likewise, of map elements.
        title: of the panel.
    """
    agents, lines = sample['pred_instances_3d'], sample['pred_map']
    keep = as_array(agents['scores_3d']) >= score_thr
    boxes, trajectories = as_array(agents['bboxes_3d'])[keep], as_array(agents['trajs_3d'])[keep]
    futures = boxes[:, None, None, :2] + trajectories.reshape(*trajectories.shape[:2], STEPS, 2).cumsum(2)
    scored = zip(as_array(lines['labels']), as_array(lines['pts']), as_array(lines['scores']))
    plans = as_array(sample['pred_ego']['fut_preds']).cumsum(1)
    return View(
        title,
        boxes,
        as_array(agents['labels_3d'])[keep],
        futures,
        as_array(agents['traj_scores_3d'])[keep],
        [(int(kind), points) for kind, points, score in scored if score >= map_score_thr],
        plans[_plan_of(command(sample))],
    )


def from_results(
    results: Mapping[str, Mapping[str, Any]],
    token: str,
    lidar2global: np.ndarray,
    classes: Sequence[str],
    score_thr: float,
    map_score_thr: float,
    title: str = 'prediction',
) -> View:
    """What a result file says of a frame; parts that the file lacks stay empty.

    Args:
        results: what :func:`~vadslim.vad.results.read_results` returns.
        token: of the frame.
        lidar2global: (4, 4) pose of the LiDAR: boxes of a result file are global.
        classes: names of the classes.
        score_thr: agents with a lower score are left out.
        map_score_thr: likewise, of map elements.
        title: of the panel.
    """
    rows = [
        row
        for row in results['results'].get(token, ())
        if row['detection_score'] >= score_thr and row['detection_name'] in classes
    ]
    futures = [np.asarray(row.get('fut_traj', np.zeros((0, STEPS, 2))), float) for row in rows]
    guesses = max((len(future) for future in futures), default=0)
    lines = results.get('map_results', {}).get(token, ())
    plan = results.get('plan_results', {}).get(token)
    return View(
        title,
        _lidar_boxes(rows, lidar2global),
        np.array([classes.index(row['detection_name']) for row in rows], np.int64),
        _padded(futures, (guesses, STEPS, 2)),
        _padded([np.asarray(row.get('fut_score', ()), float) for row in rows], (guesses,)),
        [
            (MAP_CLASSES.index(line['cls_name']), np.asarray(line['pts'], float))
            for line in lines
            if line['score'] >= map_score_thr and line['cls_name'] in MAP_CLASSES
        ],
        None if plan is None else np.asarray(plan['plans'], float)[_plan_of(plan['command'])],
    )


def _plan_of(told: int | None) -> int:
    """Which of the plans is shown: the one for the command, the one for going straight where there is none."""
    return COMMANDS.index('straight') if told is None else told


def _lidar_boxes(rows: Sequence[Mapping[str, Any]], lidar2global: np.ndarray) -> np.ndarray:
    """Detections of a result file -> VAD boxes (N, 9)."""
    if not rows:
        return np.zeros((0, 9))
    rotation, origin = lidar2global[:3, :3], lidar2global[:3, 3]
    size = np.array([row['size'] for row in rows], float)
    center = (np.array([row['translation'] for row in rows], float) - origin) @ rotation
    center[:, 2] -= size[:, 2] / 2
    forward = quaternion_matrix([row['rotation'] for row in rows])[..., 0] @ rotation
    yaw = heading_to_yaw(np.arctan2(forward[:, 1], forward[:, 0]))
    velocity = np.array([[*row.get('velocity', (0.0, 0.0))[:2], 0.0] for row in rows], float) @ rotation
    return np.column_stack([center, size, yaw, velocity[:, :2]])


def _padded(items: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays of up to this shape in one, nan where they are shorter."""
    result = np.full((len(items), *shape), np.nan)
    for row, item in zip(result, items):
        row[: len(item)] = item
    return result
