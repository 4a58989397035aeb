"""Simulation of one scene: the ego's drive, and everybody else's.

People and vehicles that the script names move first; the ego reacts to them (intelligent driver model along its lane);
then the scene is filled with traffic that reacts to all who are there already. Whoever would come too close to somebody
at any time is left out, so nobody ever touches anybody.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .catalogue import CATEGORIES, EGO_CENTRE, EGO_SIZE
from .geometry import Path, cover_circles

STEP = 0.1  # seconds between an actor's stored states
EGO_STEP = 0.02  # the CAN bus reports the pose at 50 Hz
LEAD_TIME = 1.0  # the simulation starts this long before the first sample and ends as long after the last
MARGIN = 0.45  # least distance between any two bodies, metres
DRIVEN = ('vehicle.moving', 'vehicle.stopped')
RIDDEN = ('cycle.with_rider', 'cycle.with_rider')
ON_FOOT = ('pedestrian.moving', 'pedestrian.standing')
PARKED = ('vehicle.parked', 'vehicle.parked')
PUT_DOWN = ('cycle.without_rider', 'cycle.without_rider')
THING = ('', '')


@dataclass
class Actor:
    """Somebody or something with a box, on the time grid ``Drive.times``.

    Attributes:
        name: unique within the scene.
        category: official nuScenes category.
        size: width, length, height (m).
        x, y, yaw, speed: (T,) state of the box centre in the map frame; the box stands on z = 0.
        attributes: official attributes when moving and when still, '' for things that have none.
        tint: brightness of its paint.
    """

    name: str
    category: str
    size: tuple[float, float, float]
    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray
    speed: np.ndarray
    attributes: tuple[str, str]
    tint: float = 1.0

    def attribute(self, index: int) -> str:
        """Official attribute at a time index."""
        return self.attributes[0 if self.speed[index] > 0.15 else 1]

    def __getstate__(self) -> dict[str, object]:
        """Without the cached circles: scenes travel to the worker processes."""
        return {name: value for name, value in self.__dict__.items() if name != 'circles'}

    @functools.cached_property
    def circles(self) -> tuple[np.ndarray, float]:
        """Centres (T, k, 2) and radius of circles that cover the body."""
        offsets, radius = cover_circles(self.size[0], self.size[1])
        heading = np.stack([np.cos(self.yaw), np.sin(self.yaw)], axis=1)
        return np.stack([self.x, self.y], axis=1)[:, None] + offsets[None, :, None] * heading[:, None], radius


@dataclass
class Drive:
    """The ego's motion at ``EGO_STEP``: times from the first sample (s), route position and its derivatives.

    ``x``, ``y``, ``yaw`` are the ego frame (rear axle) in the map; ``speed``, ``accel`` are longitudinal,
    ``yaw_rate`` and ``curvature`` positive to the left.
    """

    path: Path
    times: np.ndarray
    s: np.ndarray
    speed: np.ndarray
    accel: np.ndarray
    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray
    curvature: np.ndarray

    @property
    def yaw_rate(self) -> np.ndarray:
        """(N,) rad/s, positive to the left."""
        return self.curvature * self.speed

    def pose(self, time: float) -> tuple[float, float, float]:
        """x, y (m) and yaw (rad) at ``time`` seconds after the first sample."""
        return tuple(float(np.interp(time, self.times, value)) for value in (self.x, self.y, self.yaw))

    def as_actor(self, times: np.ndarray) -> Actor:
        """The ego's body on the actors' time grid."""
        x, y, yaw, speed = (np.interp(times, self.times, v) for v in (self.x, self.y, self.yaw, self.speed))
        x, y = x + EGO_CENTRE * np.cos(yaw), y + EGO_CENTRE * np.sin(yaw)
        return Actor('ego', 'vehicle.car', EGO_SIZE, x, y, yaw, speed, DRIVEN)


class Obstacles:
    """Where the bodies of others get in the way along one path.

    Args:
        path: the follower's path.
        others: actors on one common time grid.
        half_width: of the follower, metres.
    """

    def __init__(self, path: Path, others: list[Actor], half_width: float) -> None:
        self._fronts: list[tuple[np.ndarray, np.ndarray]] = []
        for other in others:
            centres, radius = other.circles
            s, distance = path.project(centres.reshape(-1, 2))
            rears = np.where(distance < half_width + radius + 0.25, s - radius, np.inf).reshape(centres.shape[:2])
            if np.isfinite(rears).any():
                self._fronts.append((rears.min(axis=1), other.speed))

    def ahead(self, index: int, s: float) -> tuple[float, float]:
        """Nearest obstacle beyond ``s`` at a time index: its rear's arc length (inf: none) and its speed (m/s)."""
        best, speed = np.inf, 0.0
        for front, speeds in self._fronts:
            if s < front[index] < best:
                best, speed = float(front[index]), float(speeds[index])
        return best, speed


def follow(speed: float, wanted: float, gap: float, other_speed: float) -> float:
    """Acceleration (m/s^2) of the intelligent driver model, bounded to what a careful driver does."""
    free = 1.0 - (speed / max(wanted, 0.1)) ** 4
    if speed > wanted:  # brake gently for a lower limit
        free = max(free, -(speed - wanted))
    desired = 2.5 + max(0.0, speed * 1.1 + speed * (speed - other_speed) / (2.0 * np.sqrt(1.8 * 2.2)))
    interaction = (desired / max(gap, 0.3)) ** 2  # 0 when there is nobody: the gap is infinite
    return min(max(1.8 * (free - interaction), -5.0), 1.8)


def drive_ego(
    path: Path,
    start: float,
    speed: float,
    cruise: float,
    duration: float,
    actor_times: np.ndarray,
    others: list[Actor],
    gates: list[tuple[float, float, float]],
) -> Drive:
    """Drive the ego along ``path``.

    Args:
        start: arc length of the ego frame at the beginning of the simulation.
        speed, cruise: m/s at the beginning, and where nothing is in the way.
        duration: seconds from the first sample to the last.
        others: scripted actors on ``actor_times``.
        gates: (arc length of a stop line, from, until): the ego waits there while the gate is closed.
    """
    times = np.round(np.arange(-LEAD_TIME, duration + LEAD_TIME + EGO_STEP / 2, EGO_STEP), 6)
    limit = path.speed_limit(lateral_accel=2.0, braking=1.4)
    obstacles = Obstacles(path, others, EGO_SIZE[0] / 2)
    front = EGO_CENTRE + EGO_SIZE[1] / 2
    s, v, a = start, speed, 0.0
    rows = []
    for time in times:
        rows.append((s, v, a))
        index = min(int((time - actor_times[0]) / STEP), len(actor_times) - 1)
        ahead, other_speed = obstacles.ahead(index, s + EGO_CENTRE)
        for line, closes, opens in gates:
            possible = line - (s + front) > v * v / (2 * 4.0) - 0.5  # too late to stop: keep going
            if closes <= time < opens and s + front < line + 1.0 and possible and line + 1.5 < ahead:
                ahead, other_speed = line + 1.5, 0.0  # the model keeps 2.5 m to an obstacle: stop 1 m short
        wanted = min(cruise, float(np.interp(s, path.s, limit)))
        target = follow(v, wanted, ahead - s - front, other_speed)
        a += min(max(target - a, -8.0 * EGO_STEP), 4.0 * EGO_STEP)  # bounded jerk
        if v + a * EGO_STEP < 0.0:
            a = -v / EGO_STEP
        s, v = s + v * EGO_STEP + 0.5 * a * EGO_STEP**2, max(v + a * EGO_STEP, 0.0)
        if v < 0.02 and target <= 0.0:
            v, a = 0.0, 0.0
    s_all, v_all, a_all = np.array(rows).T
    x, y, yaw = path.pose(s_all)
    return Drive(path, times, s_all, v_all, a_all, x, y, yaw, path.curvature_at(s_all))


def drive_actor(
    path: Path, start: float, wanted: np.ndarray, others: list[Actor] | None, half: tuple[float, float]
) -> np.ndarray:
    """Arc lengths and speeds (2, T) of an actor that wants ``wanted[t]`` m/s, slows in bends, follows others.

    Args:
        half: half width and half length of its body.
        others: whom it reacts to; None reacts to nobody.
    """
    limit = path.speed_limit(lateral_accel=2.0, braking=1.4)
    obstacles = Obstacles(path, others, half[0]) if others else None
    s, v = start, min(float(wanted[0]), float(np.interp(start, path.s, limit)))
    rows = np.zeros((2, len(wanted)))
    for k, target in enumerate(wanted):
        rows[:, k] = s, v
        ahead, other_speed = obstacles.ahead(k, s) if obstacles else (np.inf, 0.0)
        accel = follow(v, min(float(target), float(np.interp(s, path.s, limit))), ahead - s - half[1], other_speed)
        if target <= 0.0:
            accel = max(accel, -2.5)
        new = max(v + accel * STEP, 0.0)
        if target <= 0.0 and new < 0.05:
            new = 0.0
        s, v = s + (v + new) / 2 * STEP, new
    return rows


def place(
    name: str,
    category: str,
    path: Path,
    s: np.ndarray,
    speed: np.ndarray,
    attributes: tuple[str, str],
    rng: np.random.Generator,
    size: tuple[float, float, float] | None = None,
) -> Actor:
    """An actor at arc lengths ``s`` of ``path``; its size varies by a few percent around the category's."""
    size = size or draw_size(category, rng)
    x, y, yaw = path.pose(s)
    return Actor(name, category, size, x, y, yaw, speed, attributes, float(rng.uniform(0.88, 1.06)))


def draw_size(category: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Width, length, height of a new instance (m)."""
    return tuple(float(np.round(value * rng.uniform(0.95, 1.05), 3)) for value in CATEGORIES[category].size)


def is_clear(candidate: Actor, others: list[Actor], margin: float = MARGIN) -> bool:
    """Whether the candidate keeps ``margin`` metres from everybody at all times (bodies covered by circles)."""
    centres, radius = candidate.circles
    for other in others:
        far = np.hypot(candidate.x - other.x, candidate.y - other.y).min()
        if far > (candidate.size[1] + other.size[1]) / 2 + 4.0:
            continue
        others_centres, others_radius = other.circles
        gap = np.linalg.norm(centres[:, :, None] - others_centres[:, None], axis=-1) - radius - others_radius
        if gap.min() < margin:
            return False
    return True
