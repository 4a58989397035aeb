"""LIDAR_TOP sweeps by casting 32 beams at the boxes and the ground."""

from __future__ import annotations

import numpy as np

from .catalogue import LIDAR_TRANSLATION
from .render import Box

BEAMS = 32
COLUMNS = 600
REACH = 70.0
# What is stored of the returns, to keep the dataset small: one ground point of so many, so many points per box.
_GROUND_SHARE = 36
_BOX_POINTS = 24


def cast(pose: tuple[float, float, float], boxes: list[Box], seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One turn of the lidar.

    Args:
        pose: ego x, y (m), yaw (rad).
        boxes: everybody at that time.
        seed: of the noise.

    Returns:
        (P, 5) float32 points in the lidar frame (x right, y forward, z up): x, y, z, intensity 0-255, ring index;
        and per box the share of its rays that nothing in front of it takes away (0 for boxes no ray meets).
    """
    rng = np.random.default_rng(seed)
    elevation = np.deg2rad(np.linspace(-30.67, 10.67, BEAMS))
    azimuth = (np.arange(COLUMNS) + 0.5) * (2 * np.pi / COLUMNS)  # from lidar +x, counter-clockwise
    direction = np.stack(
        [
            np.outer(np.cos(elevation), np.cos(azimuth)),
            np.outer(np.cos(elevation), np.sin(azimuth)),
            np.outer(np.sin(elevation), np.ones(COLUMNS)),
        ],
        axis=-1,
    )
    height = LIDAR_TRANSLATION[2]
    with np.errstate(divide='ignore'):
        depth = np.where(direction[..., 2] < 0, -height / direction[..., 2], np.inf)
    depth[depth > REACH] = np.inf
    owner = np.where(np.isfinite(depth), -1, -2)

    alone = np.zeros(len(boxes), int)
    frames = [_in_lidar(box, pose) for box in boxes]
    for k, (box, (centre, yaw)) in enumerate(zip(boxes, frames)):
        spread = np.hypot(box.size[0], box.size[1]) / 2
        distance = np.hypot(centre[0], centre[1])
        if distance - spread > REACH or distance <= spread:
            continue
        half_angle = np.arcsin(min(spread / distance, 1.0))
        middle = np.arctan2(centre[1], centre[0])
        first = int(np.floor((middle - half_angle) / (2 * np.pi) * COLUMNS))
        last = int(np.ceil((middle + half_angle) / (2 * np.pi) * COLUMNS))
        columns = np.arange(first, last + 1) % COLUMNS
        hit = _slab(direction[:, columns], centre, yaw, box.size)
        alone[k] = np.isfinite(hit).sum()
        closer = hit < depth[:, columns]
        patch_depth, patch_owner = depth[:, columns], owner[:, columns]
        patch_depth[closer], patch_owner[closer] = hit[closer], k
        depth[:, columns], owner[:, columns] = patch_depth, patch_owner

    seen = np.bincount(owner[owner >= 0], minlength=len(boxes))[: len(boxes)] if boxes else np.zeros(0, int)
    visible = np.divide(seen, alone, out=np.zeros(len(boxes)), where=alone > 0)
    # Of a box that fills the view every n-th return is kept; small ones keep all.
    stride = np.maximum(seen // _BOX_POINTS, 1)
    keep = np.zeros(owner.shape, bool)
    for k in np.flatnonzero(seen):
        keep.ravel()[np.flatnonzero(owner.ravel() == k)[:: stride[k]]] = True
    ground = np.flatnonzero(owner.ravel() == -1)
    keep.ravel()[ground[rng.random(len(ground)) < 1.0 / _GROUND_SHARE]] = True
    ring = np.broadcast_to(np.arange(BEAMS)[:, None], owner.shape)[keep]
    points = direction[keep] * (depth[keep] + 0.01)[:, None]  # a centimetre into the surface: inside the box
    intensity = np.where(owner[keep] >= 0, 40.0, 12.0) + rng.integers(0, 25, keep.sum())
    return np.column_stack([points, intensity, ring]).astype(np.float32), visible


def _in_lidar(box: Box, pose: tuple[float, float, float]) -> tuple[np.ndarray, float]:
    """Box centre (3,) and yaw in the lidar frame."""
    x, y, yaw = pose
    dx, dy = box.centre[0] - x, box.centre[1] - y
    c, s = np.cos(yaw), np.sin(yaw)
    forward, left = c * dx + s * dy - LIDAR_TRANSLATION[0], -s * dx + c * dy
    return np.array([-left, forward, box.centre[2] - LIDAR_TRANSLATION[2]]), box.yaw - yaw + np.pi / 2


def _slab(direction: np.ndarray, centre: np.ndarray, yaw: float, size: tuple[float, float, float]) -> np.ndarray:
    """Distance from the origin along unit rays (..., 3) to a box, inf where they miss it."""
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    rays, origin = direction @ turn, -centre @ turn
    half = np.array([size[1], size[0], size[2]]) / 2
    with np.errstate(divide='ignore', invalid='ignore'):
        a, b = (-half - origin) / rays, (half - origin) / rays
    enter, leave = np.minimum(a, b).max(axis=-1), np.maximum(a, b).min(axis=-1)
    return np.where((leave >= enter) & (enter > 0.0), enter, np.inf)


def count_inside(points: np.ndarray, boxes: list[Box], pose: tuple[float, float, float]) -> np.ndarray:
    """How many of the points (P, 5) lie in each box."""
    counts = np.zeros(len(boxes), int)
    for k, box in enumerate(boxes):
        centre, yaw = _in_lidar(box, pose)
        offset = points[:, :3] - centre
        c, s = np.cos(yaw), np.sin(yaw)
        local = offset @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        half = np.array([box.size[1], box.size[0], box.size[2]]) / 2
        counts[k] = int((np.abs(local) <= half).all(axis=1).sum())
    return counts
