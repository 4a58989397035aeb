"""Boxes and planned paths on camera images. Coordinates are metres in the LiDAR frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import PchipInterpolator

from vadslim.cli import UserError
from vadslim.vad.visualization import footprints

LIDAR_HEIGHT = 1.84  # of the nuScenes car above the ground (m)
NEAR = 0.3  # what is nearer to the camera is not drawn (m)
RIBBON_WIDTH = 1.5  # a little narrower than the car: its edges stay inside the lane
RIBBON_ALPHA = (0.8, 0.35)  # now, at the end of the plan
PLACES = ('FRONT_LEFT', 'FRONT', 'FRONT_RIGHT', 'BACK_LEFT', 'BACK', 'BACK_RIGHT')  # in rows of three

_SHIFT = 4  # OpenCV draws at sixteenths of a pixel
_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])

Color = tuple[int, int, int]


def corners(boxes: np.ndarray) -> np.ndarray:
    """Corners (N, 8, 3) of VAD boxes: the bottom as in :func:`footprints`, then the top in the same order."""
    ground = footprints(boxes)
    bottom = np.broadcast_to(boxes[:, None, 2:3], (*ground.shape[:2], 1))
    return np.concatenate([np.dstack([ground, bottom]), np.dstack([ground, bottom + boxes[:, None, 5:6]])], 1)


def project(points: np.ndarray, lidar2img: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (..., 3) -> pixels (..., 2) and depth (...,) in metres; pixels mean something where depth > 0."""
    moved = points @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    depth = moved[..., 2]
    return moved[..., :2] / np.maximum(depth, 1e-6)[..., None], depth


def segments(starts: np.ndarray, ends: np.ndarray, lidar2img: np.ndarray) -> np.ndarray:
    """Lines (S, 3) to (S, 3) -> pixels (K, 2, 2) of their parts in front of the camera."""
    lines = np.stack([starts, ends], 1) @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    lines = lines[(lines[..., 2] > NEAR).any(1)]
    depth = lines[..., 2]
    # a point behind moves along its line up to the plane
    other = lines[:, ::-1]
    part = np.clip((NEAR - depth) / np.where(depth == other[..., 2], 1, other[..., 2] - depth), 0, 1)
    lines = lines + (part * (depth < NEAR))[..., None] * (other - lines)
    return lines[..., :2] / np.maximum(lines[..., 2:], NEAR)


def paint_boxes(
    image: np.ndarray, lidar2img: np.ndarray, boxes: np.ndarray, colors: Sequence[Color], thickness: int = 1
) -> None:
    """Draw wire frames with a filled front, in place; far ones first.

    Args:
        image: (H, W, 3) uint8.
        lidar2img: (4, 4) onto these pixels.
        boxes: (N, 7+).
        colors: one per box, in the image's order of channels.
        thickness: of the lines, pixels.
    """
    points = corners(boxes)
    height, width = image.shape[:2]
    pixels, depth = project(points, lidar2img)
    inside = (pixels > 0) & (pixels < (width, height)) & (depth > NEAR)[..., None]
    visible = np.flatnonzero(inside.all(-1).any(1))
    for i in sorted(visible, key=lambda i: -depth[i].mean()):
        if (depth[i] > NEAR).all():
            front = image.copy()
            cv2.fillConvexPoly(front, _fixed(pixels[i][[0, 1, 5, 4]]), colors[i], cv2.LINE_AA, _SHIFT)
            cv2.addWeighted(front, 0.35, image, 0.65, 0, dst=image)
        lines = segments(points[i][_EDGES[:, 0]], points[i][_EDGES[:, 1]], lidar2img)
        cv2.polylines(image, list(_fixed(lines)), False, colors[i], thickness, cv2.LINE_AA, _SHIFT)


def paint_path(
    image: np.ndarray, lidar2img: np.ndarray, path: np.ndarray, color: Color, width: float = RIBBON_WIDTH
) -> None:
    """Draw a path as a ribbon on the ground, in place, fading with time.

    Args:
        image: (H, W, 3) uint8.
        lidar2img: (4, 4) onto these pixels.
        path: (T, 2) way points after the present place.
        color: in the image's order of channels.
        width: of the ribbon, metres.
    """
    left, right = ribbon(path, width)
    if len(left) < 2:
        return
    sides = [np.column_stack([side, np.full(len(side), -LIDAR_HEIGHT)]) for side in (left, right)]
    (left, left_depth), (right, right_depth) = (project(side, lidar2img) for side in sides)
    ahead = (left_depth > NEAR) & (right_depth > NEAR)
    strength = np.zeros(image.shape[:2], np.float32)
    fade = np.linspace(*RIBBON_ALPHA, len(left))
    for i in np.flatnonzero(ahead[1:] & ahead[:-1])[::-1]:  # the near part covers the far one
        quad = _fixed(np.stack([left[i], right[i], right[i + 1], left[i + 1]]))
        cv2.fillConvexPoly(strength, quad, float(fade[i]), cv2.LINE_8, _SHIFT)
    edges = [_fixed(side[ahead]) for side in (left, right)]
    if not strength.any():
        return
    strength = cv2.GaussianBlur(strength, (3, 3), 0)[..., None]  # smooths the border
    image[:] = (image * (1 - strength) + np.array(color, np.float32) * strength).astype(np.uint8)
    cv2.polylines(image, edges, False, color, 1 + (image.shape[1] > 900), cv2.LINE_AA, _SHIFT)


def ribbon(path: np.ndarray, width: float = RIBBON_WIDTH, spacing: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Left and right border (n, 2) of the lane that a car on this path takes.

    Args:
        path: (T, 2) way points after the present place.
        width: of the lane, metres.
        spacing: of the border's points, metres.

    Returns:
        Two empty arrays for a car that stands.
    """
    points = np.vstack([np.zeros(2), path])
    points = points[np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 0.05])]
    if len(points) < 2 or np.linalg.norm(points[-1]) < 1:
        return np.zeros((0, 2)), np.zeros((0, 2))
    along = np.concatenate([[0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])
    curve = PchipInterpolator(along, points)
    places = np.arange(0, along[-1], spacing)
    center, direction = curve(places), curve(places, 1)
    normal = np.column_stack([-direction[:, 1], direction[:, 0]])
    normal *= width / 2 / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    return center + normal, center - normal


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Pixels as OpenCV takes them at fractions."""
    return np.round(np.clip(pixels, -1e5, 1e5) * 2**_SHIFT).astype(np.int32)


def camera_name(path: str) -> str:
    """``FRONT_LEFT`` for ``.../CAM_FRONT_LEFT/file.jpg``; the folder's name as it is for others."""
    return Path(path).parent.name.removeprefix('CAM_')


def places_of(names: Sequence[str]) -> list[int]:
    """Where cameras stand in two rows of three: forward above, backward below; unknown ones in their order."""
    return [PLACES.index(name) for name in names] if sorted(names) == sorted(PLACES) else list(range(len(names)))


def read_image(path: str) -> np.ndarray:
    """An image (H, W, 3), RGB.

    Raises:
        UserError: it is not there or not an image.
    """
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f'{path}: no readable image')
    return image[..., ::-1]


def resize(image: np.ndarray, width: int) -> tuple[np.ndarray, tuple[float, float]]:
    """An image (H, W, 3) at a given width, and the factors (x, y) of its size."""
    size = (width, round(image.shape[0] * width / image.shape[1]))
    smaller = width < image.shape[1]
    result = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return result, (size[0] / image.shape[1], size[1] / image.shape[0])
