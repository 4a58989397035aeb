"""Rigid transforms and quaternions on arrays. Quaternions are [w, x, y, z], as in nuScenes."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

Angle = TypeVar('Angle')  # a number, an array or a tensor


def yaw_to_heading(yaw: Angle) -> Angle:
    """VAD's box yaw -> counter-clockwise heading from the x axis, radians, not wrapped. Its own inverse."""
    return -yaw - np.pi / 2


heading_to_yaw = yaw_to_heading


def quaternion_matrix(q: ArrayLike) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), which need not be normalised."""
    w, x, y, z = np.moveaxis(_unit(q), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_product(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Hamilton product: the rotation ``b`` followed by ``a``."""
    aw, ax, ay, az = np.moveaxis(np.asarray(a, dtype=float), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b, dtype=float), -1, 0)
    parts = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def quaternion_inverse(q: ArrayLike) -> np.ndarray:
    return _unit(q) * np.array([1.0, -1.0, -1.0, -1.0])


def extrinsic_yaw(q: ArrayLike) -> np.ndarray:
    """Rotation about the fixed z axis (roll, then pitch, then yaw), radians in [-pi, pi]."""
    w, x, y, z = np.moveaxis(_unit(q), -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (z * z + y * y))


def intrinsic_yaw(q: ArrayLike) -> np.ndarray:
    """The first of pyquaternion's ``yaw_pitch_roll``; differs from :func:`extrinsic_yaw` for tilted boxes
    only.
    """
    w, x, y, z = np.moveaxis(_unit(q), -1, 0)
    return np.arctan2(2 * (w * z - x * y), 1 - 2 * (z * z + y * y))


def roll(q: ArrayLike) -> np.ndarray:
    """Rotation about the x axis, radians in [-pi, pi]."""
    w, x, y, z = np.moveaxis(_unit(q), -1, 0)
    return np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))


def rigid(rotation: ArrayLike, translation: ArrayLike) -> np.ndarray:
    """Homogeneous matrices (..., 4, 4) of rotations, as quaternions (..., 4), and translations (..., 3)."""
    translation = np.asarray(translation, dtype=float)
    matrix = np.zeros((*translation.shape[:-1], 4, 4))
    matrix[..., :3, :3] = quaternion_matrix(rotation)
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1
    return matrix


def rigid_inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverses of rigid transforms (..., 4, 4)."""
    inverse = np.zeros_like(matrix)
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -np.einsum('...ij,...j->...i', rotation, matrix[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) moved by one rigid transform (4, 4)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _unit(q: ArrayLike) -> np.ndarray:
    q = np.asarray(q, dtype=float)
    return q / np.linalg.norm(q, axis=-1, keepdims=True)
