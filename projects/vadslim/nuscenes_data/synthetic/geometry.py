"""Plane geometry shared by the simulation, the renderer and the map writer.

Everything is in metres and radians; yaw is counter-clockwise from +x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STEP = 0.25  # spacing of a Path's own samples: the chord error of a 6 m turn is below 2 mm
REACH = 6  # metres around a path within which points are projected onto it


class Path:
    """A smooth polyline that is parametrised by its arc length.

    Args:
        xy: (N, 2) points in the global frame, close enough together to be followed by chords.
    """

    def __init__(self, xy: np.ndarray) -> None:
        xy = np.asarray(xy, dtype=np.float64)
        step = np.hypot(*np.diff(xy, axis=0).T)
        xy = xy[np.concatenate([[True], step > 1e-6])]
        length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
        count = max(int(np.ceil(length[-1] / _STEP)), 2)
        self.s = np.linspace(0.0, length[-1], count + 1)
        self.xy = np.stack([np.interp(self.s, length, xy[:, k]) for k in range(2)], axis=1)
        tangent = np.gradient(self.xy, self.s, axis=0)
        self.yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
        # A short moving average removes the kinks between the chords the path was given as.
        self.yaw = _smooth(self.yaw, 7)
        self.curvature = _smooth(np.gradient(self.yaw, self.s), 9)
        self._grid: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def length(self) -> float:
        """Total arc length in metres."""
        return float(self.s[-1])

    def pose(self, s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position and heading at arc length ``s``: x, y (m) and yaw (rad), each shaped like ``s``."""
        return (
            np.interp(s, self.s, self.xy[:, 0]),
            np.interp(s, self.s, self.xy[:, 1]),
            np.interp(s, self.s, self.yaw),
        )

    def curvature_at(self, s: np.ndarray | float) -> np.ndarray:
        """Signed curvature (1/m, positive to the left) at arc length ``s``."""
        return np.interp(s, self.s, self.curvature)

    def beside(self, s: np.ndarray, left: float) -> np.ndarray:
        """Points (N, 2) ``left`` metres to the left of the path (negative: to the right) at arc lengths ``s``."""
        x, y, yaw = self.pose(s)
        return np.stack([x - left * np.sin(yaw), y + left * np.cos(yaw)], axis=1)

    def shifted(self, left: float) -> Path:
        """The parallel path ``left`` metres to the left."""
        return Path(self.beside(self.s, left))

    def project(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arc length and distance of the nearest metre mark for points (N, 2); inf beyond ``REACH`` metres."""
        if self._grid is None:
            self._grid = self._make_grid()
        low, grid = self._grid
        marks, cells = self.xy[::4], np.floor(xy - low).astype(int)
        inside = ((cells >= 0) & (cells < grid.shape)).all(axis=1)
        guess = np.full(len(xy), -1)
        guess[inside] = grid[tuple(cells[inside].T)]
        rows = np.flatnonzero(guess >= 0)
        nearby = np.clip(guess[rows, None] + np.arange(-3, 4), 0, len(marks) - 1)
        squared = ((xy[rows, None] - marks[nearby]) ** 2).sum(axis=-1)
        best = squared.argmin(axis=1)
        distance = np.full(len(xy), np.inf)
        distance[rows] = np.sqrt(squared[np.arange(len(rows)), best])
        s = np.zeros(len(xy))
        s[rows] = self.s[::4][nearby[np.arange(len(rows)), best]]
        return s, distance

    def _make_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Its lower corner, and per square metre around the path about the nearest metre mark, -1 farther away."""
        marks = self.xy[::4]
        low = np.floor(marks.min(axis=0)) - REACH - 1
        shape = np.ceil(marks.max(axis=0) - low).astype(int) + REACH + 2
        grid = np.full(shape, -1)
        cells = np.floor(marks - low).astype(int)
        steps = np.arange(-REACH, REACH + 1)
        offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        for offset in offsets[np.argsort(-(offsets**2).sum(axis=1), kind='stable')]:  # nearer ones overwrite
            grid[tuple((cells + offset).T)] = np.arange(len(marks))
        return low, grid

    def speed_limit(self, lateral_accel: float, braking: float) -> np.ndarray:
        """Highest speed (m/s) at every sample that keeps to a lateral acceleration, braking in time."""
        limit = np.sqrt(lateral_accel / np.maximum(np.abs(self.curvature), 1e-4))
        step = self.s[1] - self.s[0]
        for k in range(len(limit) - 2, -1, -1):
            limit[k] = min(limit[k], np.sqrt(limit[k + 1] ** 2 + 2.0 * braking * step))
        return limit


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Moving average that keeps the length and the end values' level."""
    padded = np.pad(values, width // 2, mode='reflect', reflect_type='odd')
    return np.convolve(padded, np.full(width, 1.0 / width), mode='valid')


def quintic(start: np.ndarray, heading_in: np.ndarray, end: np.ndarray, heading_out: np.ndarray) -> np.ndarray:
    """A turn with zero curvature at both ends, as a quintic Hermite curve.

    Args:
        start, end: (2,) end points.
        heading_in, heading_out: (2,) unit tangents there.

    Returns:
        (25, 2) points from start to end.
    """
    chord = np.hypot(*(end - start))
    # 1.0 for straight on; 1.1 gives a right angle its smallest peak curvature (found by trying).
    scale = chord * (1.0 + 0.1 * (1.0 - float(heading_in @ heading_out)))
    t = np.linspace(0.0, 1.0, 25)[:, None]
    h1 = 10 * t**3 - 15 * t**4 + 6 * t**5
    d0 = t - 6 * t**3 + 8 * t**4 - 3 * t**5
    d1 = -4 * t**3 + 7 * t**4 - 3 * t**5
    return start + (end - start) * h1 + scale * (heading_in * d0 + heading_out * d1)


def strips(line: np.ndarray, width: float, dash: float = 0.0, gap: float = 0.0) -> list[np.ndarray]:
    """Painted line as quadrilaterals (4, 2): solid in short pieces, or dashes of ``dash`` metres."""
    path = Path(line)
    period, painted = (dash + gap, dash) if dash else (4.0, 4.0)
    starts = np.arange(0.0, path.length - 0.2, period)
    s = np.stack([starts, np.minimum(starts + painted, path.length)], axis=1).ravel()
    left, right = (path.beside(s, side * width / 2).reshape(-1, 2, 2) for side in (1, -1))
    return list(np.concatenate([left, right[:, ::-1]], axis=1))


def box_corners(centre: Sequence[float], size: Sequence[float], yaw: float) -> np.ndarray:
    """Corners (8, 3) of a nuScenes box: size is (width, length, height), length along the heading.

    Order: bottom front-left, front-right, rear-right, rear-left, then the same four on top.
    """
    width, length, height = size
    x = np.array([1, 1, -1, -1]) * length / 2
    y = np.array([1, -1, -1, 1]) * width / 2
    c, s = np.cos(yaw), np.sin(yaw)
    plan = np.stack([c * x - s * y + centre[0], s * x + c * y + centre[1]], axis=1)
    low, high = centre[2] - height / 2, centre[2] + height / 2
    return np.concatenate([np.column_stack([plan, np.full(4, z)]) for z in (low, high)])


def cover_circles(width: float, length: float) -> tuple[np.ndarray, float]:
    """Circles on the long axis that cover a rectangle: offsets along the heading (k,) and their radius."""
    count = max(int(np.ceil(length / max(width, 0.3))), 1)
    piece = length / count
    offsets = (np.arange(count) + 0.5) * piece - length / 2
    return offsets, float(np.hypot(piece / 2, width / 2))
