"""Agent fields of the info files: boxes, velocities, futures and attributes of every annotated object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vadslim.cli import UserError
from vadslim.nuscenes_data import geometry
from vadslim.nuscenes_data.geometry import heading_to_yaw
from vadslim.nuscenes_data.tables import AGAIN, are_numbers

if TYPE_CHECKING:
    from nuscenes import NuScenes

STATIC_GOAL = 9
LOST = -2  # a neighbour that is named but not there; -1: none


class AnnotationTable:
    """All annotations of a dataset as arrays, in the order of the ``sample_annotation`` table.

    Args:
        nusc: the devkit's reader.
        fut_ts: number of future key frames.

    Raises:
        UserError: a record lacks a field.
    """

    def __init__(self, nusc: NuScenes, fut_ts: int = 6) -> None:
        from nuscenes.eval.detection.utils import category_to_detection_name

        records = nusc.sample_annotation
        self.fut_ts = fut_ts
        try:
            self.translation, self.size, self.rotation = (
                _numbers([r[name] for r in records], width)
                for name, width in (('translation', 3), ('size', 3), ('rotation', 4))
            )
            self.lidar_pts = np.array([r['num_lidar_pts'] for r in records], dtype=int)
            self.radar_pts = np.array([r['num_radar_pts'] for r in records], dtype=int)
            index = {'': -1} | {r['token']: i for i, r in enumerate(records)}
            self.next, self.prev = (
                np.array([index.get(r[name], LOST) for r in records], dtype=int) for name in ('next', 'prev')
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'sample_annotation.json: is damaged ({type(error).__name__}: {error}); {AGAIN}') from None
        self.tokens = [r['token'] for r in records]
        stamps = {s['token']: s['timestamp'] for s in nusc.sample}
        self.seconds = np.array([stamps[r['sample_token']] for r in records], dtype=float) * 1e-6
        categories = [c['name'] for c in nusc.category]
        self.category = np.array([categories.index(r['category_name']) for r in records], dtype=int)
        self.name = [category_to_detection_name(r['category_name']) or r['category_name'] for r in records]
        self._of_sample: dict[str, list[int]] = {}
        for i, record in enumerate(records):
            self._of_sample.setdefault(record['sample_token'], []).append(i)

    def of_sample(self, token: str) -> np.ndarray:
        """Rows of a key frame's annotations, (N,).

        Raises:
            UserError: names one that is no box, or whose ``next`` or ``prev`` leads nowhere.
        """
        rows = np.array(self._of_sample.get(token, []), dtype=int)
        numbers = np.concatenate([self.translation[rows], self.size[rows], self.rotation[rows]], axis=1)
        is_box = (self.size[rows] > 0).all(1) & (np.abs(np.linalg.norm(self.rotation[rows], axis=1) - 1) < 0.01)
        for fine, what in (
            (np.isfinite(numbers).all(1) & is_box, 'is no box (three finite metres, three positive ones, a rotation)'),
            ((self.next[rows] != LOST) & (self.prev[rows] != LOST), 'has a neighbour in time that is not there'),
        ):
            if not fine.all():
                lost = self.tokens[rows[np.argmin(fine)]]
                raise UserError(f'sample_annotation.json: record {lost} {what}; {AGAIN}')
        return rows

    def velocity(self, rows: np.ndarray, max_seconds: float = 1.5) -> np.ndarray:
        """(N, 3) m/s, global frame: centred differences where both neighbours exist, one-sided ones where
        one does.

        NaN without neighbours or where they are more than ``max_seconds`` apart (twice that for centred
        ones).
        """
        prev, following = self.prev[rows], self.next[rows]
        first = np.where(prev >= 0, prev, rows)
        last = np.where(following >= 0, following, rows)
        seconds = (self.seconds[last] - self.seconds[first])[:, None]
        limit = np.where((prev >= 0) & (following >= 0), 2 * max_seconds, max_seconds)[:, None]
        usable = (first != last)[:, None] & (seconds <= limit)
        with np.errstate(divide='ignore', invalid='ignore'):
            return np.where(usable, (self.translation[last] - self.translation[first]) / seconds, np.nan)

    def fields(self, rows: np.ndarray, lidar2global: np.ndarray, lidar_rotation: np.ndarray) -> dict:
        """The annotation part of one info, N objects.

        Args:
            rows: (N,) rows of the table.
            lidar2global: (4, 4) pose of the LiDAR.
            lidar_rotation: (4,) its rotation as a quaternion.

        Returns:
            dict of the published fields: gt_boxes (N, 7) VAD numbers with z at the gravity centre, gt_names (N,),
            gt_velocity (N, 2) LiDAR frame (NaN where unknown), num_lidar_pts, num_radar_pts, valid_flag (N,),
            gt_agent_fut_trajs (N, 2T) per-step offsets in the LiDAR frame of now, gt_agent_fut_masks (N, T),
            gt_agent_fut_yaw (N, T) per-step changes of heading, gt_agent_fut_goal (N,) direction class,
            gt_agent_lcf_feat (N, 9) x, y, heading, vx, vy, w, l, h, category.
        """
        num, steps = len(rows), self.fut_ts
        global2lidar = geometry.rigid_inverse(lidar2global)
        to_lidar = geometry.quaternion_inverse(lidar_rotation)

        chain = np.empty((num, steps + 1), dtype=int)
        chain[:, 0] = rows
        for t in range(steps):
            chain[:, t + 1] = np.where(chain[:, t] >= 0, self.next[chain[:, t]], -1)
        exists = chain[:, 1:] >= 0
        centers = geometry.transform(global2lidar, self.translation[chain])
        rotations = geometry.quaternion_product(to_lidar, self.rotation[chain])
        headings = geometry.extrinsic_yaw(rotations)
        offsets = np.where(exists[..., None], np.diff(centers[..., :2], axis=1), 0.0)
        turns = np.where(exists, np.diff(headings, axis=1), 0.0)

        velocity = (self.velocity(rows) @ global2lidar[:3, :3].T)[:, :2]
        heading = geometry.intrinsic_yaw(rotations[:, 0])
        size = self.size[rows]
        lcf = [centers[:, 0, :2], heading[:, None], velocity, size, self.category[rows, None]]
        return {
            'gt_boxes': np.concatenate([centers[:, 0], size, heading_to_yaw(heading)[:, None]], axis=1),
            'gt_names': np.array([self.name[row] for row in rows], dtype=str),
            'gt_velocity': velocity,
            'num_lidar_pts': self.lidar_pts[rows],
            'num_radar_pts': self.radar_pts[rows],
            'valid_flag': self.lidar_pts[rows] + self.radar_pts[rows] > 0,
            'gt_agent_fut_trajs': offsets.reshape(num, 2 * steps).astype(np.float32),
            'gt_agent_fut_masks': exists.astype(np.float32),
            'gt_agent_lcf_feat': np.concatenate(lcf, axis=1).astype(np.float32),
            'gt_agent_fut_yaw': turns.astype(np.float32),
            'gt_agent_fut_goal': goal_class(offsets).astype(np.float32),
        }


def _numbers(lists: list, width: int) -> np.ndarray:
    """(N, width); NaN in the rows that are not so many numbers."""
    try:
        return np.array(lists, dtype=float).reshape(len(lists), width)
    except (TypeError, ValueError):
        return np.array([row if are_numbers(row, width) else [np.nan] * width for row in lists], dtype=float)


def goal_class(offsets: np.ndarray) -> np.ndarray:
    """Direction class of per-step offsets (N, T, 2): 0..7 (8 at +pi exactly), eighths of a turn counted
    from -x counter-clockwise, or 9 for an object that gains less than 1 m along both axes (sic: signed)
    after the first step.
    """
    gain = offsets[:, 1:].sum(axis=1)
    direction = (np.arctan2(gain[:, 1], gain[:, 0]) + np.pi) // (np.pi / 4)
    return np.where(gain.max(axis=1) < 1.0, STATIC_GOAL, direction)
