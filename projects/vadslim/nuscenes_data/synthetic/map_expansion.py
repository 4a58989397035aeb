"""The map expansion (version 1.3) and the map mask of a district."""

from __future__ import annotations

import cv2
import numpy as np

from .catalogue import token
from .geometry import Path
from .roads import LANE_WIDTH, SIDEWALK_WIDTH, District, Lane, Piece

Record = dict[str, object]
_LAYERS = (
    'polygon', 'line', 'node', 'drivable_area', 'road_segment', 'road_block', 'lane', 'ped_crossing', 'walkway',
    'stop_line', 'carpark_area', 'road_divider', 'lane_divider', 'traffic_light', 'lane_connector',
)  # fmt: skip
_MASK_SCALE = 10  # pixels per metre, fixed by the devkit


class MapWriter:
    """Collects the records of one location.

    Equal points share one node, so that neighbouring roads are connected as the devkit expects.
    """

    def __init__(self, district: District) -> None:
        self.district = district
        self.layers: dict[str, list[Record]] = {name: [] for name in _LAYERS}
        self.arcs: dict[str, list[Record]] = {}
        self.connectivity: dict[str, Record] = {}
        self._nodes: dict[tuple[float, float], str] = {}
        for piece in district.pieces:
            self._piece(piece)
        for key, ring in district.nodes.items():
            self._add(
                'road_segment',
                f'crossroads{key}',
                polygon_token=self._polygon(ring),
                is_intersection=True,
                drivable_area_token=self._token('drivable_area', 0),
            )
        self._lanes()
        self._crossings()
        surface = district.surface
        holes = [np.array(ring.coords)[:-1] for ring in surface.interiors]
        outline = self._polygon(np.array(surface.exterior.coords)[:-1], holes)
        self._add('drivable_area', 0, polygon_tokens=[outline])

    def to_dict(self) -> dict[str, object]:
        """The json document."""
        return {
            'version': '1.3',
            'canvas_edge': list(self.district.canvas),
            **self.layers,
            'arcline_path_3': self.arcs,
            'connectivity': self.connectivity,
        }

    # -- geometry records -------------------------------------------------------------------------------------------

    def _token(self, layer: str, key: object) -> str:
        return token(self.district.location, layer, key)

    def _add(self, layer: str, key: object, **fields: object) -> str:
        name = self._token(layer, key)
        self.layers[layer].append({'token': name, **fields})
        return name

    def _node(self, point: np.ndarray) -> str:
        key = (round(float(point[0]), 4), round(float(point[1]), 4))
        if key not in self._nodes:
            self._nodes[key] = self._add('node', key, x=key[0], y=key[1])
        return self._nodes[key]

    def _polygon(self, ring: np.ndarray, holes: list[np.ndarray] | None = None) -> str:
        return self._add(
            'polygon',
            len(self.layers['polygon']),
            exterior_node_tokens=[self._node(p) for p in ring],
            holes=[{'node_tokens': [self._node(p) for p in hole]} for hole in holes or []],
        )

    def _line(self, points: np.ndarray) -> str:
        return self._add('line', len(self.layers['line']), node_tokens=[self._node(p) for p in points])

    # -- layers -----------------------------------------------------------------------------------------------------

    def _piece(self, piece: Piece) -> None:
        warp, half = self.district.warp, piece.street.half_width
        segment = self._add(
            'road_segment',
            piece.key,
            polygon_token=self._polygon(warp(piece.rectangle(piece.low, piece.high, -half, half))),
            is_intersection=False,
            drivable_area_token=self._token('drivable_area', 0),
        )
        middle = self._along(piece, 0.0)
        self._add('road_divider', piece.key, line_token=self._line(middle), road_segment_token=segment)
        for k in range(1, piece.street.lanes):
            for side in (-1, 1):
                points = self._along(piece, side * k * LANE_WIDTH)
                self._add(
                    'lane_divider',
                    (piece.key, side * k),
                    line_token=self._line(points),
                    lane_divider_segments=self._divider_segments(points, 'SINGLE_DASHED_WHITE'),
                )
        for side in (-1, 1):
            strip = sorted((side * half, side * (half + SIDEWALK_WIDTH)))
            self._add(
                'walkway',
                (piece.key, side),
                polygon_token=self._polygon(warp(piece.rectangle(piece.low, piece.high, *strip))),
            )
            if piece.street.parking:
                strip = sorted((side * piece.street.lanes * LANE_WIDTH, side * half))
                bays = warp(piece.rectangle(piece.low + 6.0, piece.high - 6.0, *strip))
                direction = piece.axis if np.sign(self.district.lane_offset(piece.axis, 0)) == side else piece.axis + 2
                self._add(
                    'carpark_area',
                    (piece.key, side),
                    polygon_token=self._polygon(bays),
                    orientation=float(np.arctan2(*(bays[1] - bays[0])[::-1])),
                    road_block_token=self._token('road_block', (piece.key, direction)),
                )
        for direction in (piece.axis, piece.axis + 2):
            outer = self.district.lane_offset(direction, piece.street.lanes - 0.5)
            strip = sorted((0.0, outer))
            first, last = self._edges(piece, direction, 0.0, outer)
            self._add(
                'road_block',
                (piece.key, direction),
                polygon_token=self._polygon(warp(piece.rectangle(piece.low, piece.high, *strip))),
                from_edge_line_token=self._line(first),
                to_edge_line_token=self._line(last),
                road_segment_token=segment,
            )

    def _along(self, piece: Piece, across: float) -> np.ndarray:
        """Map points along a piece, with the sampling of its outline."""
        return self.district.warp(piece.side(piece.low, piece.high, across))

    def _edges(self, piece: Piece, direction: int, inner: float, outer: float) -> tuple[np.ndarray, np.ndarray]:
        ends = (piece.low, piece.high) if direction < 2 else (piece.high, piece.low)
        first, last = (np.array([piece.point(e, inner), piece.point(e, outer)]) for e in ends)
        return self.district.warp(first), self.district.warp(last)

    def _divider_segments(self, points: np.ndarray, kind: str) -> list[Record]:
        return [{'node_token': self._node(p), 'segment_type': kind} for p in points]

    def _lanes(self) -> None:
        incoming: dict[str, list[str]] = {}
        for lane in self.district.lanes.values():
            for follower in lane.followers:
                incoming.setdefault(follower, []).append(lane.key)
        for lane in self.district.lanes.values():
            layer = 'lane_connector' if lane.connector else 'lane'
            name, path = self._token(layer, lane.key), self.district.lane_path(lane.key)
            self.arcs[name] = _arcline(path, 2.0 if lane.connector else 8.0)
            self.connectivity[name] = {
                'incoming': [self._lane_token(key) for key in incoming.get(lane.key, [])],
                'outgoing': [self._lane_token(key) for key in lane.followers],
            }
            if lane.connector:
                s = np.linspace(0.0, path.length, max(int(path.length / 3.0), 2))
                left, right = path.beside(s, LANE_WIDTH / 2), path.beside(s, -LANE_WIDTH / 2)
                outline = self._polygon(np.concatenate([left, right[::-1]]))
                self._add('lane_connector', lane.key, polygon_token=outline)
            else:
                self._lane(lane)

    def _lane_token(self, key: str) -> str:
        return self._token('lane_connector' if self.district.lanes[key].connector else 'lane', key)

    def _lane(self, lane: Lane) -> None:
        piece = lane.piece
        assert piece is not None
        inner = self.district.lane_offset(lane.direction, lane.index - 0.5)
        outer = self.district.lane_offset(lane.direction, lane.index + 0.5)
        first, last = self._edges(piece, lane.direction, inner, outer)
        flip = slice(None) if lane.direction < 2 else slice(None, None, -1)
        inside = self._divider_segments(
            self._along(piece, inner)[flip],
            'DOUBLE_SOLID_YELLOW' if lane.index == 0 else 'SINGLE_DASHED_WHITE',
        )
        outside = self._divider_segments(
            self._along(piece, outer)[flip],
            'NIL' if lane.index == piece.street.lanes - 1 else 'SINGLE_DASHED_WHITE',
        )
        left, right = (inside, outside) if self.district.side > 0 else (outside, inside)
        self._add(
            'lane',
            lane.key,
            polygon_token=self._polygon(
                self.district.warp(piece.rectangle(piece.low, piece.high, *sorted((inner, outer))))
            ),
            lane_type='CAR',
            from_edge_line_token=self._line(first),
            to_edge_line_token=self._line(last),
            left_lane_divider_segments=left,
            right_lane_divider_segments=right,
        )

    def _crossings(self) -> None:
        for crossing in self.district.crossings:
            name = self._add(
                'ped_crossing',
                crossing.key,
                polygon_token=self._polygon(crossing.ring),
                road_segment_token=self._token('road_segment', crossing.piece.key),
            )
            direction = crossing.piece.axis + (2 if crossing.key.endswith('x0') else 0)
            self._add(
                'stop_line',
                crossing.key,
                polygon_token=self._polygon(crossing.stop_line),
                stop_line_type='PED_CROSSING',
                ped_crossing_tokens=[name],
                traffic_light_tokens=[],
                road_block_token=self._token('road_block', (crossing.piece.key, direction)),
            )

    def mask(self) -> np.ndarray:
        """(H, W) uint8 image of carriageways and sidewalks, 255 inside; row 0 is the northern edge."""
        width, height = (round(edge * _MASK_SCALE) for edge in self.district.canvas)
        image = np.zeros((height, width), np.uint8)
        paved = self.district.surface.buffer(SIDEWALK_WIDTH, join_style='mitre')
        for ring, value in [(paved.exterior, 255), *((hole, 0) for hole in paved.interiors)]:
            pixels = np.array(ring.coords) * [_MASK_SCALE, -_MASK_SCALE] + [0, height]
            cv2.fillPoly(image, [np.round(pixels).astype(np.int32)], value)
        return image


def _arcline(path: Path, length: float) -> list[Record]:
    """Circular arcs of about ``length`` metres that follow a lane's centre line."""
    count = max(int(np.ceil(path.length / length)), 1)
    s = np.linspace(0.0, path.length, count + 1)
    x, y, yaw = path.pose(s)
    arcs = []
    for k in range(count):
        bend = (yaw[k + 1] - yaw[k]) / (s[k + 1] - s[k])
        arcs.append(
            {
                'start_pose': [_r(x[k]), _r(y[k]), _r(yaw[k])],
                'end_pose': [_r(x[k + 1]), _r(y[k + 1]), _r(yaw[k + 1])],
                'shape': 'LSL' if bend > 0 else 'RSR',
                'radius': _r(1.0 / max(abs(bend), 1e-6)),
                'segment_length': [_r(s[k + 1] - s[k]), 0.0, 0.0],
            }
        )
    return arcs


def _r(value: float) -> float:
    """Rounded to a tenth of a millimetre or milliradian, without minus zero."""
    return round(float(value), 4) + 0.0
