"""Camera images: flat-shaded polygons, far things first.

The ground plane is exact (every polygon is projected and cut at the image's near plane), boxes show their visible faces
in shades of their category's colour, so that position, size and heading can be read off an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .catalogue import CATEGORIES, IMAGE_HEIGHT, IMAGE_WIDTH, Camera
from .geometry import box_corners
from .ground import GRASS, Ground

VIEW_RADIUS = 70.0  # metres; what is farther away is not drawn
_NEAR = 0.35  # near plane, metres
_SHIFT = 3  # sub-pixel bits of OpenCV's polygon coordinates
SKY = (178, 205, 235)

# Faces of ``box_corners`` as seen from outside, with their brightness.
_FACES = (
    ((0, 1, 5, 4), 0.92, np.array([1.0, 0.0, 0.0])),  # front
    ((2, 3, 7, 6), 0.58, np.array([-1.0, 0.0, 0.0])),  # rear
    ((3, 0, 4, 7), 0.74, np.array([0.0, 1.0, 0.0])),  # left
    ((1, 2, 6, 5), 0.74, np.array([0.0, -1.0, 0.0])),  # right
    ((4, 5, 6, 7), 1.00, np.array([0.0, 0.0, 1.0])),  # top
)
_GLASS = (36, 42, 52)


@dataclass(frozen=True)
class Box:
    """A box to draw: centre (x, y, z) in the map frame, nuScenes size (w, l, h), yaw, category, paint brightness."""

    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    category: str
    tint: float = 1.0


class View:
    """A camera at one ego pose (x, y, yaw in the map frame)."""

    def __init__(self, camera: Camera, pose: tuple[float, float, float]) -> None:
        x, y, yaw = pose
        c, s = np.cos(yaw), np.sin(yaw)
        ego = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        self.rotation = ego @ camera.rotation  # camera to map
        self.position = ego @ camera.translation + np.array([x, y, 0.0])
        self.intrinsic = camera.intrinsic

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Map points (N, 3) in camera axes (x right, y down, z forward)."""
        return (points - self.position) @ self.rotation

    def may_see(self, centre: np.ndarray, radius: float) -> bool:
        """False when a ball around a map point is surely outside the image."""
        x, _, depth = (centre - self.position) @ self.rotation
        if depth < -radius:
            return False
        focal, middle = self.intrinsic[0, 0], self.intrinsic[0, 2]
        # Distance to the planes through the image's left and right edge.
        left = (focal * x + middle * depth) / np.hypot(focal, middle)
        right = (-focal * x + (IMAGE_WIDTH - middle) * depth) / np.hypot(focal, IMAGE_WIDTH - middle)
        return left > -radius and right > -radius

    def polygon(self, points: np.ndarray) -> np.ndarray | None:
        """Pixels (N, 2) of a map polygon (N, 3), cut at the near plane; None when it is out of sight."""
        camera = self.to_camera(points)
        depth = camera[:, 2]
        if depth.max() <= _NEAR:
            return None
        if depth.min() < _NEAR:
            camera = _cut_near(camera)
        pixels = camera @ self.intrinsic.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        if (high < 0).any() or low[0] > IMAGE_WIDTH or low[1] > IMAGE_HEIGHT:
            return None
        return pixels


def _cut_near(points: np.ndarray) -> np.ndarray:
    """Cut a camera-frame polygon (N, 3) at the near plane (Sutherland-Hodgman)."""
    following = np.roll(points, -1, axis=0)
    kept = []
    for a, b in zip(points, following):
        if a[2] >= _NEAR:
            kept.append(a)
        if (a[2] >= _NEAR) != (b[2] >= _NEAR):
            kept.append(a + (b - a) * ((_NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept)


def _fill(image: np.ndarray, pixels: np.ndarray, colour: tuple[float, ...], light: float) -> None:
    # Pixel centres are integers in OpenCV, and continuous image coordinates put them at +0.5.
    fixed = np.round((pixels - 0.5) * (1 << _SHIFT)).astype(np.int32)
    bgr = [min(round(float(c) * light), 255) for c in colour[::-1]]
    cv2.fillPoly(image, [fixed], bgr, cv2.LINE_8, _SHIFT)


def _sky(view: View, image: np.ndarray, light: float) -> None:
    """Fill everything above the horizon."""
    _fill(
        image,
        np.array([[0, 0], [IMAGE_WIDTH, 0], [IMAGE_WIDTH, IMAGE_HEIGHT], [0, IMAGE_HEIGHT]]),
        GRASS,
        light,
    )
    up = view.rotation.T @ np.array([0.0, 0.0, 1.0])
    # Pixels whose viewing ray does not point down: a half-plane in the image.
    normal = np.linalg.inv(view.intrinsic).T @ up
    columns = np.array([0.0, IMAGE_WIDTH])
    rows = -(normal[0] * columns + normal[2]) / normal[1]
    corners = np.array([[0, 0], [IMAGE_WIDTH, 0], [IMAGE_WIDTH, rows[1]], [0, rows[0]]])
    _fill(image, corners, SKY, light)


def _draw_ground(view: View, image: np.ndarray, ground: Ground, pose: tuple[float, float, float], light: float) -> None:
    """All flat polygons around the ego, projected together."""
    vertices, starts, colours = ground.near(pose[0], pose[1], VIEW_RADIUS)
    points = np.column_stack([vertices, np.zeros(len(vertices))])
    camera = view.to_camera(points)
    first = starts[:-1]
    farthest = np.maximum.reduceat(camera[:, 2], first)
    nearest = np.minimum.reduceat(camera[:, 2], first)
    pixels = camera @ view.intrinsic.T
    pixels = pixels[:, :2] / np.maximum(pixels[:, 2:], _NEAR)
    low, high = np.minimum.reduceat(pixels, first), np.maximum.reduceat(pixels, first)
    inside = (high >= 0).all(axis=1) & (low[:, 0] < IMAGE_WIDTH) & (low[:, 1] < IMAGE_HEIGHT)
    inside &= high[:, 1] - low[:, 1] > 0.5  # thinner ones only flicker at the horizon
    cut = (nearest < _NEAR) & (farthest > _NEAR)
    for k in np.flatnonzero(cut | (inside & (nearest >= _NEAR))):
        part = slice(starts[k], starts[k + 1])
        polygon = view.polygon(points[part]) if cut[k] else pixels[part]
        if polygon is not None:
            _fill(image, polygon, tuple(colours[k]), light)


def _draw_box(view: View, image: np.ndarray, box: Box, light: float) -> None:
    if not view.may_see(np.array(box.centre), float(np.linalg.norm(box.size)) / 2):
        return
    corners = box_corners(box.centre, box.size, box.yaw)
    c, s = np.cos(box.yaw), np.sin(box.yaw)
    offset = view.position - np.array(box.centre)
    local = np.array([c * offset[0] + s * offset[1], -s * offset[0] + c * offset[1], offset[2]])
    half = np.array([box.size[1], box.size[0], box.size[2]]) / 2
    colour = np.array(CATEGORIES[box.category].colour) * box.tint
    for indices, shade, normal in _FACES:
        if normal @ local <= np.abs(normal) @ half:
            continue
        face = corners[list(indices)]
        pixels = view.polygon(face)
        if pixels is None:
            continue
        _fill(image, pixels, tuple(colour * shade), light)
        if box.category.startswith('vehicle') and 'cycle' not in box.category and normal[2] == 0 and shade != 0.58:
            _draw_window(view, image, face, light)


def _draw_window(view: View, image: np.ndarray, face: np.ndarray, light: float) -> None:
    """A dark pane in the upper half of a side or front face; the rear has none, which tells the heading."""
    low, high = 0.52, 0.86
    a, b, c, d = face
    left, right = a + 0.14 * (b - a), a + 0.86 * (b - a)
    rise_left, rise_right = d - a, c - b
    pane = np.array(
        [left + low * rise_left, right + low * rise_right, right + high * rise_right, left + high * rise_left]
    )
    pixels = view.polygon(pane)
    if pixels is not None:
        _fill(image, pixels, _GLASS, light)


def render(
    camera: Camera, pose: tuple[float, float, float], ground: Ground, boxes: list[Box], light: float
) -> np.ndarray:
    """One image.

    Args:
        pose: ego x, y (m), yaw (rad) at the time of exposure.
        boxes: everybody at that time.
        light: brightness, 1 for noon.

    Returns:
        (900, 1600, 3) uint8 BGR.
    """
    view = View(camera, pose)
    image = np.empty((IMAGE_HEIGHT, IMAGE_WIDTH, 3), np.uint8)
    _sky(view, image, light)
    _draw_ground(view, image, ground, pose, light)
    here = view.position[:2]
    distance = [float(np.hypot(box.centre[0] - here[0], box.centre[1] - here[1])) for box in boxes]
    for k in np.argsort(distance)[::-1]:
        if distance[k] < VIEW_RADIUS:
            _draw_box(view, image, boxes[k], light)
    return image


def encode(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of a BGR image."""
    return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes()
