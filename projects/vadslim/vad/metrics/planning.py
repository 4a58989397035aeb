"""Open-loop planning: displacement (L2) and collision of the planned trajectory, in both conventions in use.

The numbers are meant to be comparable with published ones, and keep what is odd in them:

- ``plan_L2_1s`` and their like, as VAD and ST-P3 report them, are means over the steps **up to** that time;
  ``plan_L2_at_1s`` and their like are the values **at** it, as UniAD reports them (docs/evaluation.md).
- ``obj_col`` looks up one cell for the ego vehicle, shifted by half the grid's origin: that of
  (x - 25.1 m, y + 25.1 m). Only ``obj_box_col`` looks where the vehicle is.
- The vehicle's footprint is 0.5 m ahead of the trajectory, is never turned, and is clipped to the border cells
  where it leaves the grid.
- A step at which the true trajectory's footprint collides counts as free of collision.

Grid: 200 x 200 cells of 0.5 m around the lidar; rows run from y = +50 m to -50 m, columns from x = -50 m to 50 m.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .task import accumulate, as_array, register_task

STEPS = 6
STEPS_PER_SECOND = 2
EGO_WIDTH, EGO_LENGTH = 1.85, 4.084
CELL = 0.5
GRID = 200
_ENDS = np.arange(STEPS_PER_SECOND, STEPS + 1, STEPS_PER_SECOND)  # steps up to 1, 2, 3 s
_FIRST_CELL = -49.75  # centre of the first cell, metres

# nuScenes category ids as the annotation stores them
_HUMANS = range(2, 9)
_VEHICLES = range(14, 24)


def _footprint() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (32,) of the cells under the ego vehicle at the origin, rows from y = -50 m up."""
    rear, front = ((np.array([-EGO_LENGTH, EGO_LENGTH]) / 2 + 0.5) - _FIRST_CELL) / CELL
    right, left = (np.array([-EGO_WIDTH, EGO_WIDTH]) / 2 - _FIRST_CELL) / CELL
    rows = np.arange(np.ceil(rear), np.floor(front) + 1)
    columns = np.arange(np.ceil(right), np.floor(left) + 1)
    rows, columns = np.meshgrid(rows, columns, indexing='ij')
    return rows.ravel(), columns.ravel()


_FOOTPRINT = _footprint()


def rasterize(boxes: np.ndarray, attrs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws where the agents will be.

    Args:
        boxes: (N, 9) raw boxes, x, y, ., w, l, ., yaw, ... in the lidar frame, yaw as mmdet3d 0.17 had it.
        attrs: (N, 34) with future offsets [0:12] in metres, their masks [12:18], the category id [27] and
            future yaw offsets [28:34].

    Returns:
        Vehicles and humans, two arrays (6, 200, 200) uint8 of zeros and ones.
    """
    boxes, attrs = np.asarray(boxes, np.float32), np.asarray(attrs, np.float32)
    centres = attrs[:, :12].reshape(-1, STEPS, 2).cumsum(1) + boxes[:, None, :2]
    yaws = attrs[:, 28:34].cumsum(1) - (boxes[:, 6:7] + np.float32(np.pi / 2))
    cos, sin = np.cos(yaws)[..., None], np.sin(yaws)[..., None]
    along = boxes[:, None, 4:5] / 2 * np.array([1, -1, -1, 1], np.float32)
    across = boxes[:, None, 3:4] / 2 * np.array([1, 1, -1, -1], np.float32)
    x = cos * along - sin * across + centres[..., :1]
    y = sin * along + cos * across + centres[..., 1:]
    corners = np.stack([x, -y], -1).astype(np.float64)  # (N, 6, 4, 2), columns and rows of an image
    corners = np.round((corners - _FIRST_CELL + CELL / 2) / CELL).astype(np.int32)

    vehicles, humans = np.zeros((2, STEPS, GRID, GRID), np.uint8)
    category = attrs[:, 27].astype(int)
    visible = (corners.max(2) >= 0).all(-1) & (corners.min(2) < GRID).all(-1) & (attrs[:, 12:18] == 1)
    for grids, categories in ((vehicles, _VEHICLES), (humans, _HUMANS)):
        for agent, step in np.argwhere(visible & np.isin(category, categories)[:, None]):
            cv2.fillPoly(grids[step], [corners[agent, step]], 1)
    return vehicles, humans


def box_collisions(trajectory: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Whether the vehicle's footprint meets an occupied cell at each step.

    Args:
        trajectory: (T, 2) float32 positions x, y in metres.
        occupancy: (T, 200, 200).

    Returns:
        (T,) bool.
    """
    cells = np.asarray(trajectory, np.float32) / np.float32(CELL)
    rows = (GRID - (cells[:, 1:] + _FOOTPRINT[0])).astype(np.int32).clip(0, GRID - 1)
    columns = (cells[:, :1] + _FOOTPRINT[1]).astype(np.int32).clip(0, GRID - 1)
    return occupancy[np.arange(len(cells))[:, None], rows, columns].any(-1)


def point_collisions(trajectory: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Whether the one cell that ``obj_col`` looks up is occupied at each step; arguments as above."""
    trajectory = np.asarray(trajectory, np.float32)
    origin, cell = np.float32(-_FIRST_CELL / 2), np.float32(CELL)
    rows = ((origin - trajectory[:, 1]) / cell).astype(np.int64)
    columns = ((origin + trajectory[:, 0]) / cell).astype(np.int64)
    inside = (rows >= 0) & (rows < GRID) & (columns >= 0) & (columns < GRID)
    rows, columns = rows.clip(0, GRID - 1), columns.clip(0, GRID - 1)
    return inside & occupancy[np.arange(len(trajectory)), rows, columns].astype(bool)


def planning_steps(plan: np.ndarray, truth: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Displacement, point collision and box collision of each step.

    Args:
        plan: (6, 2) planned positions in metres, lidar frame.
        truth: (6, 2) true positions.
        occupancy: (6, 200, 200) cells taken by any agent.

    Returns:
        (3, 6) float32.
    """
    difference = np.asarray(plan, np.float32) - np.asarray(truth, np.float32)
    possible = ~box_collisions(truth, occupancy)
    return np.stack(
        [
            np.sqrt((difference**2).sum(-1)),
            possible & point_collisions(plan, occupancy),
            possible & box_collisions(plan, occupancy),
        ]
    ).astype(np.float32)


def planning_metrics(plan: np.ndarray, truth: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """L2, obj_col and obj_box_col (rows) up to 1, 2 and 3 s (columns) of one sample: (3, 3) float32."""
    return means_up_to(planning_steps(plan, truth, occupancy))


def means_up_to(steps: np.ndarray) -> np.ndarray:
    """(..., 6) values of the steps -> (..., 3) means of those up to 1, 2 and 3 s."""
    return steps.cumsum(-1)[..., _ENDS - 1] / _ENDS.astype(np.float32)


@register_task
class PlanningTask:
    """Means over the samples whose future is fully known (``fut_valid_flag``)."""

    name = 'planning'
    metrics = ('plan_L2', 'plan_obj_col', 'plan_obj_box_col')

    def score(self, sample: dict) -> np.ndarray | None:
        """(3, 6) as in :func:`planning_steps`; None for a sample that does not count.

        ``sample`` holds ``pred_ego.fut_preds`` (3, 6, 2), ``gt_ego.fut_trajs`` (6, 2) and ``.fut_cmd`` (3,),
        ``gt_instances_3d.bboxes_3d`` (N, 9) and ``.attr_labels`` (N, 34), ``fut_valid_flag``.
        """
        if not bool(sample['fut_valid_flag']):
            return None
        command = as_array(sample['gt_ego']['fut_cmd']).argmax()
        plan = accumulate(as_array(sample['pred_ego']['fut_preds'])[command], 0)
        truth = accumulate(as_array(sample['gt_ego']['fut_trajs']), 0)
        agents = sample['gt_instances_3d']
        vehicles, humans = rasterize(as_array(agents['bboxes_3d']), as_array(agents['attr_labels']))
        return planning_steps(plan, truth, vehicles | humans)

    def summarize(self, scores: Sequence[np.ndarray | None]) -> dict[str, float]:
        """``plan_L2_1s`` ... ``plan_obj_box_col_3s``, ``plan_L2_at_1s`` ... ``plan_obj_box_col_at_3s``; nan if no
        sample counts.
        """
        valid = [score for score in scores if score is not None]
        steps = np.stack(valid) if valid else np.full((1, 3, STEPS), np.nan, np.float32)
        tables = {'': means_up_to(steps), 'at_': steps[..., _ENDS - 1]}
        return {
            f'{metric}_{at}{second + 1}s': float(means[row, second])
            for at, means in ((at, table.mean(0, dtype=np.float64)) for at, table in tables.items())
            for row, metric in enumerate(self.metrics)
            for second in range(3)
        }
