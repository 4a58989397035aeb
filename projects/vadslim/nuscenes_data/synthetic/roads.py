"""The road network of one map location: gently bent streets on a grid, with lanes, crossings and kerbs.

Streets are laid out in a plain "grid frame" (columns along +v, rows along +u) and every point then passes through
``District.warp``, which bends and turns the plane a little and moves it to map coordinates. So roads curve, crossroads
are skewed, and neighbouring pieces still share their edges exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from shapely.geometry import Polygon
from shapely.ops import unary_union

from .catalogue import LEFT_HAND_TRAFFIC, LOCATIONS
from .geometry import Path, quintic

NODES = 4  # crossroads per street
BLOCK = 76.0  # between neighbouring crossroads
STUB = 48.0  # beyond the outermost crossroads
LANE_WIDTH = 3.5
PARKING_WIDTH = 2.4
SIDEWALK_WIDTH = 3.0
FILLET = 7.5  # kerb radius at crossroads
CANVAS = {  # map size in metres: width, height
    'boston-seaport': (680.0, 620.0),
    'singapore-hollandvillage': (600.0, 660.0),
    'singapore-onenorth': (560.0, 600.0),
    'singapore-queenstown': (640.0, 560.0),
}
_TURN = {
    'boston-seaport': 0.31,
    'singapore-hollandvillage': -0.52,
    'singapore-onenorth': 0.83,
    'singapore-queenstown': 0.12,
}
_SPACING = 6.0  # between the points of outlines: streets bend by less than 3 cm in between

# Travel directions: 0 = +u, 1 = +v, 2 = -u, 3 = -v.
DIRECTIONS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
TURNS = {'S': 0, 'L': 1, 'R': -1}

Node = tuple[int, int]


@dataclass(frozen=True)
class Street:
    """One street's cross section: ``lanes`` per direction, and a parking strip on both sides or none."""

    lanes: int
    parking: bool

    @property
    def half_width(self) -> float:
        """From the centre line to the kerb, metres."""
        return self.lanes * LANE_WIDTH + (PARKING_WIDTH if self.parking else 0.0)

    @property
    def cuts(self) -> list[float]:
        """Where lanes meet, across the street: all outlines get a point there, so that neighbours fit together."""
        cuts = [k * LANE_WIDTH for k in range(-self.lanes, self.lanes + 1)]
        return [cut for cut in cuts if abs(cut) < self.half_width]


@dataclass
class Piece:
    """A street between two crossroads, or from the last one to the street's end.

    Attributes:
        key: unique name.
        axis: 0 for rows (along u), 1 for columns (along v).
        line: coordinate of the centre line across the axis.
        low, high: range along the axis.
        nodes: crossroads at the low and at the high end, None where the street ends.
    """

    key: str
    axis: int
    line: float
    low: float
    high: float
    street: Street
    nodes: tuple[Node | None, Node | None]

    def point(self, along: float, across: float) -> np.ndarray:
        """Grid frame point; ``across`` counts from the centre line towards +u (columns) or +v (rows)."""
        return np.array([along, self.line + across] if self.axis == 0 else [self.line + across, along])

    def side(self, low: float, high: float, across: float, spacing: float = _SPACING) -> np.ndarray:
        """Grid frame points (N, 2) along the piece at a constant distance from its centre line."""
        count = int(np.ceil((high - low) / spacing))
        return np.array([self.point(along, across) for along in np.linspace(low, high, count + 1)])

    def rectangle(self, low: float, high: float, near: float, far: float) -> np.ndarray:
        """Grid frame ring (N, 2) of a part of the piece, ``near`` < ``far`` across it."""
        cuts = [cut for cut in self.street.cuts if near < cut < far]
        end = np.array([self.point(high, cut) for cut in cuts]).reshape(-1, 2)
        start = np.array([self.point(low, cut) for cut in cuts]).reshape(-1, 2)
        return np.concatenate([self.side(low, high, near), end, self.side(low, high, far)[::-1], start[::-1]])


@dataclass
class Lane:
    """A lane of a piece (``connector=False``) or a way across a crossroads (``connector=True``).

    Attributes:
        key: unique name.
        direction: travel direction at the start; ``exit_direction`` at the end.
        index: 0 next to the street's centre line, counting outwards.
        grid_line: (N, 2) centre line in the grid frame.
        start, end: crossroads where it begins and ends (None at a street's end; a connector has the same twice).
        followers: keys of the lanes and connectors that continue it.
    """

    key: str
    piece: Piece | None
    direction: int
    exit_direction: int
    index: int
    grid_line: np.ndarray
    start: Node | None
    end: Node | None
    connector: bool = False
    followers: list[str] = field(default_factory=list)


@dataclass
class Crossing:
    """A zebra crossing over one arm of a crossroads.

    Attributes:
        ring: (N, 2) map polygon.
        walk: (2, 2) map points on the opposite kerbs' sidewalks, in the middle of the crossing.
        stripes: painted quadrilaterals, map frame.
        stop_lines: per arriving direction the ring of the stop line.
    """

    key: str
    piece: Piece
    ring: np.ndarray
    walk: np.ndarray
    stripes: list[np.ndarray]
    stop_line: np.ndarray


class District:
    """All streets of one location.

    Args:
        location: official nuScenes location.
        seed: dataset seed; the network depends on it and on nothing else.
    """

    def __init__(self, location: str, seed: int) -> None:
        self.location = location
        self.canvas = CANVAS[location]
        self.side = -1 if location in LEFT_HAND_TRAFFIC else 1  # +1: traffic keeps to the right
        rng = np.random.default_rng([seed, LOCATIONS.index(location)])
        self._phase = rng.uniform(0, 2 * np.pi, 4)
        self.columns = self._draw_streets(rng)
        self.rows = self._draw_streets(rng)
        self.pieces = self._make_pieces()
        self.lanes = {lane.key: lane for lane in self._make_lanes()}
        for connector in self._make_connectors():
            self.lanes[connector.key] = connector
        self.nodes = {(i, j): self.warp(self._node_ring(i, j)) for i in range(NODES) for j in range(NODES)}
        self.crossings = self._make_crossings(rng)
        self.surface = self._surface()

    @staticmethod
    def _draw_streets(rng: np.random.Generator) -> list[Street]:
        # Every location has avenues (two lanes each way) and side streets with parked cars.
        kinds = [Street(2, False), Street(1, True), Street(2, True), Street(1, True)]
        return [kinds[k] for k in rng.permutation(NODES)]

    def warp(self, grid: np.ndarray) -> np.ndarray:
        """Grid frame points (..., 2) in map coordinates, rounded to 0.1 mm so that equal points stay equal."""
        grid = np.asarray(grid, dtype=np.float64)
        u, v = grid[..., 0], grid[..., 1]
        # Slopes stay below 0.16: lane widths change by about one percent.
        bent = np.stack(
            [
                u + 3.2 * np.sin(v / 27.0 + self._phase[0]) + 0.4 * np.sin(v / 13.0 + self._phase[1]),
                v + 3.2 * np.sin(u / 27.0 + self._phase[2]) + 0.4 * np.sin(u / 13.0 + self._phase[3]),
            ],
            axis=-1,
        )
        middle = (NODES - 1) * BLOCK / 2
        c, s = np.cos(_TURN[self.location]), np.sin(_TURN[self.location])
        turned = (bent - middle) @ np.array([[c, s], [-s, c]])
        return np.round(turned + np.array(self.canvas) / 2, 4)

    def _street(self, axis: int, k: int) -> Street:
        return self.rows[k] if axis == 0 else self.columns[k]

    def _setback(self, axis: int, line: int, k: int) -> float:
        """Distance from node k's centre to the street's edge of the crossroads."""
        return self._street(1 - axis, k).half_width + FILLET

    def _make_pieces(self) -> list[Piece]:
        pieces = []
        for axis in (0, 1):
            for line in range(NODES):
                for k in range(NODES + 1):
                    low = (k - 1) * BLOCK + self._setback(axis, line, k - 1) if k else -STUB
                    high = k * BLOCK - self._setback(axis, line, k) if k < NODES else (NODES - 1) * BLOCK + STUB
                    ends = [
                        (k - 1, line) if axis == 0 else (line, k - 1),
                        (k, line) if axis == 0 else (line, k),
                    ]
                    nodes = (ends[0] if k else None, ends[1] if k < NODES else None)
                    key = f'{"rc"[axis]}{line}.{k}'
                    pieces.append(Piece(key, axis, line * BLOCK, low, high, self._street(axis, line), nodes))
        return pieces

    def lane_offset(self, direction: int, index: float) -> float:
        """Where a lane's centre lies across its piece, see ``Piece.point``."""
        right = np.array([DIRECTIONS[direction][1], -DIRECTIONS[direction][0]])
        across = right[1 - direction % 2]
        return float(across) * self.side * (index + 0.5) * LANE_WIDTH

    def _make_lanes(self) -> list[Lane]:
        lanes = []
        for piece in self.pieces:
            for direction in (piece.axis, piece.axis + 2):
                forward = direction < 2
                start, end = piece.nodes if forward else piece.nodes[::-1]
                for index in range(piece.street.lanes):
                    offset = self.lane_offset(direction, index)
                    line = piece.side(piece.low, piece.high, offset, spacing=1.0)[:: 1 if forward else -1]
                    key = f'{piece.key}.{direction}{index}'
                    lanes.append(Lane(key, piece, direction, direction, index, line, start, end))
        return lanes

    def _make_connectors(self) -> list[Lane]:
        connectors = []
        lanes = list(self.lanes.values())
        leaving: dict[tuple[Node | None, int], list[Lane]] = {}
        for lane in lanes:
            leaving.setdefault((lane.start, lane.direction), []).append(lane)
        for lane in lanes:
            if lane.end is None:
                continue
            for turn, delta in TURNS.items():
                direction = (lane.direction + delta) % 4
                targets = leaving[lane.end, direction]
                target = self._turn_target(lane, turn, targets)
                if target is None:
                    continue
                curve = quintic(
                    lane.grid_line[-1], DIRECTIONS[lane.direction], target.grid_line[0], DIRECTIONS[direction]
                )
                key = f'{lane.key}{turn}'
                connectors.append(
                    Lane(
                        key,
                        None,
                        lane.direction,
                        direction,
                        lane.index,
                        curve,
                        lane.end,
                        lane.end,
                        True,
                        [target.key],
                    )
                )
                lane.followers.append(key)
        return connectors

    def _turn_target(self, lane: Lane, turn: str, targets: list[Lane]) -> Lane | None:
        """The lane that a turn leads to: near-side turns hug the kerb, far-side turns the centre line."""
        assert lane.piece is not None
        if turn == 'S':
            return targets[lane.index]
        near = (turn == 'R') == (self.side > 0)
        allowed, wanted = (lane.piece.street.lanes - 1, len(targets) - 1) if near else (0, 0)
        return targets[wanted] if lane.index == allowed else None

    def _node_ring(self, i: int, j: int) -> np.ndarray:
        """Grid frame outline of a crossroads with rounded kerbs, counter-clockwise."""
        a, b = self.columns[i].half_width, self.rows[j].half_width
        # Per corner the kerb's arc and the street's end that follows it, both counter-clockwise.
        ends = (
            [(cut, b + FILLET) for cut in self.columns[i].cuts[::-1]],
            [(-a - FILLET, cut) for cut in self.rows[j].cuts[::-1]],
            [(cut, -b - FILLET) for cut in self.columns[i].cuts],
            [(a + FILLET, cut) for cut in self.rows[j].cuts],
        )
        angles = np.linspace(0, np.pi / 2, 13)
        ring: list[np.ndarray] = []
        for (du, dv), end in zip(((1, 1), (-1, 1), (-1, -1), (1, -1)), ends):
            arc = np.stack([a + FILLET * (1 - np.sin(angles)), b + FILLET * (1 - np.cos(angles))], axis=1) * [du, dv]
            ring += [arc if du * dv > 0 else arc[::-1], np.array(end)]
        return np.concatenate(ring) + np.array([i, j]) * BLOCK

    def _make_crossings(self, rng: np.random.Generator) -> list[Crossing]:
        crossings = []
        for piece in self.pieces:
            for end in (0, 1):
                node = piece.nodes[end]
                if node is None or rng.random() < 0.2:
                    continue
                edge, inward = (piece.low, 1.0) if end == 0 else (piece.high, -1.0)
                near, far = sorted((edge + inward * 0.8, edge + inward * 3.8))
                half = piece.street.half_width
                stripes = [
                    self.warp(
                        np.array(
                            [
                                piece.point(near, c),
                                piece.point(far, c),
                                piece.point(far, c + 0.5),
                                piece.point(near, c + 0.5),
                            ]
                        )
                    )
                    for c in np.arange(-half + 0.3, half - 0.5, 1.0)
                ]
                middle = (near + far) / 2
                walk = np.array([piece.point(middle, -half - 1.5), piece.point(middle, half + 1.5)])
                # Traffic that arrives at this end drives towards the node.
                arriving = piece.axis + (2 if end == 0 else 0)
                inner = 0.0
                outer = float(np.sign(self.lane_offset(arriving, 0))) * piece.street.lanes * LANE_WIDTH
                stop = sorted((edge + inward * 4.8, edge + inward * 5.2))
                stop_line = piece.rectangle(stop[0], stop[1], *sorted((inner, outer)))
                crossings.append(
                    Crossing(
                        f'{piece.key}.x{end}',
                        piece,
                        self.warp(piece.rectangle(near, far, -half, half)),
                        self.warp(walk),
                        stripes,
                        self.warp(stop_line),
                    )
                )
        return crossings

    def _surface(self) -> Polygon:
        """Union of all carriageways; its rings are the kerbs."""
        rings = [self.warp(p.rectangle(p.low, p.high, -p.street.half_width, p.street.half_width)) for p in self.pieces]
        return unary_union([Polygon(ring) for ring in (*rings, *self.nodes.values())])

    def lane_path(self, key: str) -> Path:
        """Centre line of one lane or connector in map coordinates."""
        return Path(self.warp(self.lanes[key].grid_line))

    def neighbours(self, lane: Lane) -> list[Lane]:
        """All lanes beside ``lane`` in its direction, itself included, from the centre line outwards."""
        return [x for x in self.lanes.values() if x.piece is lane.piece and x.direction == lane.direction and x.piece]

    def arriving_lane(self, node: Node, direction: int, index: int, turn: str) -> Lane:
        """The lane that reaches ``node`` driving in ``direction`` and offers ``turn``.

        Of several the one nearest to ``index`` is taken; -1 is the lane at the kerb.
        """
        lanes = [x for x in self.lanes.values() if x.end == node and x.direction == direction and not x.connector]
        return self._offering(turn, lanes[index])

    def _offering(self, turn: str, lane: Lane) -> Lane:
        offers = [x for x in self.neighbours(lane) if any(key[-1] == turn for key in x.followers)]
        return min(offers, key=lambda x: abs(x.index - lane.index))

    def route(self, lane: Lane, turns: str, change_lanes: bool = True) -> Path:
        """The way along ``lane`` and on, taking one of 'SLR' at every crossroads until a street ends.

        Where the lane does not offer the turn, the way changes to one that does, half-way along the block; without
        ``change_lanes`` it goes straight on instead.
        """
        lines = []
        for turn in turns:
            if not lane.followers:
                break
            options = {key[-1]: key for key in lane.followers}
            line = lane.grid_line
            if turn not in options and change_lanes:
                other = self._offering(turn, lane)
                options = {key[-1]: key for key in other.followers}
                share = np.clip((np.linspace(0.0, 1.0, len(line))[:, None] - 0.2) / 0.6, 0.0, 1.0)
                share = share**3 * (10 - 15 * share + 6 * share**2)
                line = line + share * (other.grid_line - line)
            connector = self.lanes[options.get(turn, options['S'])]
            lines += [line, connector.grid_line]
            lane = self.lanes[connector.followers[0]]
        return Path(self.warp(np.concatenate([*lines, lane.grid_line])))
