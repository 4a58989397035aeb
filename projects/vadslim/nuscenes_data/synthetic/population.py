"""Fills a scene: scripted actors, the ego's drive, and the traffic around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from shapely.geometry import LineString, Polygon

from . import traffic
from .geometry import Path
from .roads import LANE_WIDTH, PARKING_WIDTH, SIDEWALK_WIDTH, Crossing, District, Piece
from .scenarios import SCENARIOS, Scenario
from .traffic import STEP, Actor, Drive

SAMPLE_PERIOD = 0.5  # keyframes at 2 Hz
_NEAR = 55.0  # population is placed within this distance of the ego's drive, metres


@dataclass
class Scene:
    """Everything that happens in one scene.

    Attributes:
        times: (T,) seconds from the first sample, the time grid of all actors.
        samples: number of keyframes.
    """

    name: str
    script: Scenario
    drive: Drive
    times: np.ndarray
    actors: list[Actor]
    samples: int

    def state(self, actor: Actor, time: float) -> tuple[float, float, float, float]:
        """x, y (m), yaw (rad), speed (m/s) of the box centre at ``time``."""
        return tuple(float(np.interp(time, self.times, v)) for v in (actor.x, actor.y, actor.yaw, actor.speed))


def make_scene(name: str, district: District, seed: int, samples: int) -> Scene:
    """Simulate one official mini scene with ``samples`` keyframes."""
    return _Builder(name, district, seed, samples).build()


class _Builder:
    def __init__(self, name: str, district: District, seed: int, samples: int) -> None:
        self.name, self.district, self.samples = name, district, samples
        self.script = SCENARIOS[name]
        self.rng = np.random.default_rng([seed, int(name[-4:])])
        self.duration = (samples - 1) * SAMPLE_PERIOD
        last = self.duration + traffic.LEAD_TIME
        self.times = np.round(np.arange(-traffic.LEAD_TIME, last + STEP / 2, STEP), 6)
        self.actors: list[Actor] = []
        self._middles = district.warp(np.stack([p.point((p.low + p.high) / 2, 0.0) for p in district.pieces]))

    def build(self) -> Scene:
        script = self.script
        first = self.district.arriving_lane(script.node, script.direction, script.lane, script.turns[0])
        path = self.district.route(first, script.turns)
        start = self.district.lane_path(first.key).length - script.ahead
        leads = [self._lead(k, path, start) for k in range(len(script.leads))]
        free = self._drive(path, start, leads, [])
        walkers, gates = self._walkers(path, free)
        self.drive = self._drive(path, start, leads + walkers, gates)
        ego = self.drive.as_actor(self.times)
        for actor in [*leads, *walkers]:
            if not traffic.is_clear(actor, [ego]):
                raise RuntimeError(f'{self.name}: the script lets {actor.name} touch the ego')
        self.actors = [*leads, *walkers]
        self._keep_clear = [ego, *self.actors]
        self._populate()
        return Scene(self.name, self.script, self.drive, self.times, self.actors, self.samples)

    # -- scripted ---------------------------------------------------------------------------------------------------

    def _drive(self, path: Path, start: float, others: list[Actor], gates: list[tuple[float, float, float]]) -> Drive:
        script = self.script
        return traffic.drive_ego(
            path, start, script.start_speed, script.cruise, self.duration, self.times, others, gates
        )

    def _lead(self, k: int, path: Path, start: float) -> Actor:
        lead = self.script.leads[k]
        steps = np.array(lead.speeds)
        wanted = steps[np.searchsorted(steps[:, 0], self.times, side='right').clip(1) - 1, 1]
        size = traffic.draw_size(lead.category, self.rng)
        s, speed = traffic.drive_actor(path, start + lead.gap, wanted, None, (size[0] / 2, size[1] / 2))
        attributes = traffic.RIDDEN if 'cycle' in lead.category else traffic.DRIVEN
        return traffic.place(f'lead{k}', lead.category, path, s, speed, attributes, self.rng, size)

    def _walkers(self, path: Path, free: Drive) -> tuple[list[Actor], list[tuple[float, float, float]]]:
        """People who cross when the unhindered ego would arrive, and the times at which it has to wait for them."""
        walkers, gates = [], []
        ahead = self._crossings_along(path, float(free.s[0]))
        for event in self.script.walkers:
            if event.crossing >= len(ahead):
                continue
            s_crossing, crossing = ahead[event.crossing]
            arrival = float(np.interp(s_crossing - 6.0, free.s, free.times))
            for k, category in enumerate(event.people):
                speed = float(self.rng.uniform(1.15, 1.45)) * (0.9 if category.endswith('child') else 1.0)
                walk = _walk_across(
                    crossing,
                    reverse=(k + event.crossing) % 2 == 1,
                    shift=0.8 * (k - len(event.people) / 2 + 0.5),
                )
                to_lane = float(walk.project(np.stack(path.pose(np.array([s_crossing]))[:2], axis=1))[0][0])
                go = arrival + 0.9 * k - (to_lane - 2.2) / speed
                wanted = np.where((self.times >= go) & (self.times < go + (walk.length - 1.0) / speed), speed, 0.0)
                s, v = traffic.drive_actor(walk, 0.4, wanted, None, (0.35, 0.35))
                name = f'walker{event.crossing}-{k}'
                walkers.append(traffic.place(name, category, walk, s, v, traffic.ON_FOOT, self.rng))
                inside = self.times[np.abs(s - to_lane) < 2.6]
                if len(inside):
                    gates.append((s_crossing - 2.8, float(inside[0]) - 2.5, float(inside[-1])))
        return walkers, gates

    def _crossings_along(self, path: Path, start: float) -> list[tuple[float, Crossing]]:
        """Arc length of the middle of every zebra crossing ahead on the path."""
        line = LineString(path.xy)
        found = []
        for crossing in self.district.crossings:
            part = line.intersection(Polygon(crossing.ring))
            if not part.is_empty:
                s = line.project(part.interpolate(0.5, normalized=True))
                if s > start + 8.0:
                    found.append((s, crossing))
        return sorted(found, key=lambda pair: pair[0])

    # -- background -------------------------------------------------------------------------------------------------

    def _populate(self) -> None:
        self._roadworks()
        self._repeat(16, 60, self._parked)
        self._repeat(12, 60, self._moving_vehicle)
        self._repeat(9, 40, self._walker)
        self._repeat(4, 30, self._crossing_walker)
        self._repeat(6, 40, self._bystander)

    def _repeat(self, wanted: int, tries: int, make) -> None:
        """Call ``make(name)`` until ``wanted`` actors stood the test of distance, at most ``tries`` times."""
        done = 0
        for k in range(tries):
            actor = make(f'{make.__name__.strip("_")}{k}')
            if actor is not None and self._add(actor):
                done += 1
                if done == wanted:
                    return

    def _add(self, actor: Actor, margin: float = traffic.MARGIN) -> bool:
        near = np.hypot(actor.x - self._ego_x(), actor.y - self._ego_y()).min() < _NEAR
        if not near or not traffic.is_clear(actor, self._keep_clear, margin):
            return False
        self.actors.append(actor)
        self._keep_clear.append(actor)
        return True

    def _ego_x(self) -> np.ndarray:
        return self._keep_clear[0].x

    def _ego_y(self) -> np.ndarray:
        return self._keep_clear[0].y

    def _near_piece(self) -> Piece:
        """A street piece close to where the ego is at a random moment."""
        k = self.rng.integers(len(self.times))
        here = np.array([self._ego_x()[k], self._ego_y()[k]])
        order = np.argsort(np.hypot(*(self._middles - here).T))
        return self.district.pieces[order[self.rng.integers(4)]]

    def _along(self, piece: Piece, across: float) -> Path:
        """Path along a piece at a constant distance from its centre line, in traffic's direction on that side."""
        line = piece.side(piece.low, piece.high, across, spacing=1.0)
        forward = np.sign(self.district.lane_offset(piece.axis, 0))
        return Path(self.district.warp(line if np.sign(across) == forward else line[::-1]))

    def _still(self, name: str, category: str, path: Path, s: float, attributes: tuple[str, str]) -> Actor:
        zeros = np.zeros(len(self.times))
        return traffic.place(name, category, path, zeros + s, zeros, attributes, self.rng)

    def _draw(self, choices: dict[str, float]) -> str:
        weights = np.array(list(choices.values()))
        return list(choices)[self.rng.choice(len(weights), p=weights / weights.sum())]

    def _parked(self, name: str) -> Actor | None:
        piece = self._near_piece()
        if not piece.street.parking:
            return None
        category = self._draw(
            {'vehicle.car': 10, 'vehicle.truck': 1.5, 'vehicle.trailer': 0.5, 'vehicle.motorcycle': 1}
        )
        across = (piece.street.half_width - PARKING_WIDTH / 2 + 0.15) * self.rng.choice([-1.0, 1.0])
        path = self._along(piece, across)
        if path.length < 24.0:
            return None
        s = 9.0 + 6.2 * self.rng.integers(int((path.length - 18.0) / 6.2) + 1)  # bays, clear of the crossings
        attributes = traffic.PUT_DOWN if 'cycle' in category else traffic.PARKED
        return self._still(name, category, path, float(s), attributes)

    def _moving_vehicle(self, name: str) -> Actor | None:
        category = self._draw(
            {
                'vehicle.car': 10,
                'vehicle.truck': 1.5,
                'vehicle.bus.rigid': 1.2,
                'vehicle.motorcycle': 1.5,
                'vehicle.bicycle': 2.0,
                'vehicle.emergency.police': 0.3,
                'vehicle.emergency.ambulance': 0.2,
            }
        )
        piece = self._near_piece()
        lanes = [x for x in self.district.lanes.values() if x.piece is piece and x.end is not None]
        if not lanes:
            return None
        lane = lanes[self.rng.integers(len(lanes))]
        path = self.district.route(lane, ''.join(self.rng.choice(list('SSSLR'), 5)), change_lanes=False)
        if category == 'vehicle.bicycle':
            path = path.shifted(-self.district.side * (LANE_WIDTH / 2 - 0.9))
        size = traffic.draw_size(category, self.rng)
        start = float(self.rng.uniform(4.0, 34.0))
        cruise = float(self.rng.uniform(3.0, 5.0) if category == 'vehicle.bicycle' else self.rng.uniform(5.0, 10.5))
        wanted = np.full(len(self.times), cruise if self.rng.random() < 0.85 else 0.0)
        attributes = traffic.RIDDEN if 'cycle' in category else traffic.DRIVEN
        if not self._is_free(path, start, size):
            return None
        s, speed = traffic.drive_actor(path, start, wanted, self._keep_clear, (size[0] / 2, size[1] / 2))
        if s[-1] > path.length - size[1]:  # it would have to vanish where the street ends
            return None
        return traffic.place(name, category, path, s, speed, attributes, self.rng, size)

    def _is_free(self, path: Path, s: float, size: tuple[float, float, float]) -> bool:
        """Whether a body fits in at the beginning of the simulation."""
        x, y, _ = path.pose(s)
        return all(
            np.hypot(other.x[0] - x, other.y[0] - y) > max(other.size[0], size[0]) + 0.5 for other in self._keep_clear
        )

    def _walker(self, name: str) -> Actor | None:
        piece = self._near_piece()
        category = self._draw(
            {
                'human.pedestrian.adult': 10,
                'human.pedestrian.child': 1,
                'human.pedestrian.stroller': 0.3,
                'human.pedestrian.wheelchair': 0.2,
                'human.pedestrian.personal_mobility': 0.3,
                'human.pedestrian.police_officer': 0.3,
            }
        )
        path = self._sidewalk(piece)
        speed = float(self.rng.uniform(0.9, 1.6))
        start = float(self.rng.uniform(0.5, max(path.length - 1.0, 1.0)))
        s = start + speed * (self.times - self.times[0])
        stop = min(path.length - 0.5, start + speed * float(self.rng.uniform(3.0, 30.0)))
        moving = s < stop
        return traffic.place(
            name, category, path, np.minimum(s, stop), np.where(moving, speed, 0.0), traffic.ON_FOOT, self.rng
        )

    def _sidewalk(self, piece: Piece) -> Path:
        side = self.rng.choice([-1.0, 1.0])
        across = side * (piece.street.half_width + SIDEWALK_WIDTH * float(self.rng.uniform(0.25, 0.75)))
        path = self._along(piece, across)
        return path if self.rng.random() < 0.5 else Path(path.xy[::-1])

    def _crossing_walker(self, name: str) -> Actor | None:
        k = self.rng.integers(len(self.times))
        here = np.array([self._ego_x()[k], self._ego_y()[k]])
        close = [c for c in self.district.crossings if np.hypot(*(c.walk.mean(axis=0) - here)) < 45.0]
        if not close:
            return None
        crossing = close[self.rng.integers(len(close))]
        walk = _walk_across(crossing, bool(self.rng.integers(2)), float(self.rng.uniform(-1.0, 1.0)))
        speed = float(self.rng.uniform(1.1, 1.5))
        go = float(self.rng.uniform(-6.0, self.times[-1] - 4.0))
        s = np.clip((self.times - go) * speed, 0.3, walk.length - 0.3)
        moving = np.gradient(s, self.times) > 0.5
        return traffic.place(
            name, 'human.pedestrian.adult', walk, s, np.where(moving, speed, 0.0), traffic.ON_FOOT, self.rng
        )

    def _bystander(self, name: str) -> Actor | None:
        """Something that stands on a sidewalk."""
        category = self._draw(
            {
                'human.pedestrian.adult': 4,
                'vehicle.bicycle': 2,
                'vehicle.motorcycle': 1,
                'movable_object.trafficcone': 1,
                'movable_object.pushable_pullable': 0.7,
                'movable_object.debris': 0.5,
                'static_object.bicycle_rack': 0.5,
                'animal': 0.3,
            }
        )
        path = self._sidewalk(self._near_piece())
        attributes = traffic.THING
        if category.startswith('human'):
            attributes = (
                'pedestrian.standing',
                self.rng.choice(['pedestrian.standing', 'pedestrian.sitting_lying_down']),
            )
            attributes = (str(attributes[1]), str(attributes[1]))
        elif 'cycle' in category and category.startswith('vehicle'):
            attributes = traffic.PUT_DOWN
        return self._still(name, category, path, float(self.rng.uniform(1.0, path.length - 1.0)), attributes)

    def _roadworks(self) -> None:
        """Barriers and cones along the kerb on two pieces near the drive, with a machine and a worker."""
        for site in range(2):
            piece = self._near_piece()
            side = self.rng.choice([-1.0, 1.0])
            edge = piece.street.half_width - (PARKING_WIDTH - 0.45 if piece.street.parking else -0.5)
            rail, inner = self._along(piece, side * edge), self._along(piece, side * (edge + 1.9))
            if rail.length < 34.0:
                continue
            start = float(self.rng.uniform(8.0, rail.length - 26.0))
            across = np.pi / 2  # a barrier's long side is its width: turned along the street
            for k in range(4):
                barrier = self._still(
                    f'barrier{site}-{k}', 'movable_object.barrier', rail, start + 4.0 + 3.1 * k, traffic.THING
                )
                barrier.yaw = barrier.yaw + across
                self._add(barrier, 0.2)
            for k in range(5):
                cone_s = start + (0.0, 1.4, 2.8, 16.0, 17.4)[k]
                self._add(
                    self._still(f'cone{site}-{k}', 'movable_object.trafficcone', rail, cone_s, traffic.THING),
                    0.2,
                )
            machine = self._still(
                f'machine{site}', 'vehicle.construction', inner.shifted(0.0), start + 7.0, traffic.PARKED
            )
            self._add(machine, 0.05)
            worker = self._still(
                f'worker{site}', 'human.pedestrian.construction_worker', inner, start + 13.0, traffic.ON_FOOT
            )
            self._add(worker, 0.2)


def _walk_across(crossing: Crossing, reverse: bool, shift: float) -> Path:
    """Path from one sidewalk over the crossing to the other, ``shift`` metres beside its middle."""
    ends = crossing.walk[::-1] if reverse else crossing.walk
    steps = np.linspace(0.0, 1.0, 30)[:, None]
    return Path(ends[0] + steps * (ends[1] - ends[0])).shifted(shift)
