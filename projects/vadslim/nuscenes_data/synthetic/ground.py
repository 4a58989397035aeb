"""What lies flat on the ground of a district, as coloured polygons in drawing order."""

from __future__ import annotations

import numpy as np
from shapely.geometry import Polygon

from .geometry import strips
from .roads import LANE_WIDTH, SIDEWALK_WIDTH, District

GRASS = (96, 128, 72)
SIDEWALK = (168, 160, 150)
ASPHALT = (74, 76, 82)
KERB = (222, 205, 176)
WHITE = (246, 246, 246)
YELLOW = (250, 205, 60)


class Ground:
    """Flat polygons of a district, ready for projection.

    Attributes:
        vertices: (V, 2) map points of all polygons, one after the other.
        starts: (P + 1,) first vertex of every polygon.
        colours: (P, 3) RGB.
        centres, radii: (P, 2) and (P,) bounding circles.
    """

    def __init__(self, district: District) -> None:
        rings: list[np.ndarray] = []
        colours: list[tuple[int, int, int]] = []

        def paint(colour: tuple[int, int, int], polygons: list[np.ndarray]) -> None:
            rings.extend(polygons)
            colours.extend([colour] * len(polygons))

        streets = [
            district.warp(p.rectangle(p.low, p.high, -p.street.half_width, p.street.half_width))
            for p in district.pieces
        ]
        roads = [*streets, *district.nodes.values()]
        paint(SIDEWALK, [_grown(ring, SIDEWALK_WIDTH) for ring in roads])
        paint(ASPHALT, roads)
        for piece in district.pieces:
            for across in (-0.18, 0.18):
                paint(YELLOW, strips(district.warp(piece.side(piece.low, piece.high, across)), 0.15))
            for k in range(1, piece.street.lanes):
                for across in (-k * LANE_WIDTH, k * LANE_WIDTH):
                    line = district.warp(piece.side(piece.low, piece.high, across))
                    paint(WHITE, strips(line, 0.18, dash=2.5, gap=1.5))
        for crossing in district.crossings:
            paint(WHITE, crossing.stripes)
            paint(WHITE, [crossing.stop_line])
        for ring in (district.surface.exterior, *district.surface.interiors):
            paint(KERB, strips(np.array(ring.coords), 0.30))

        self.vertices = np.concatenate(rings)
        self.starts = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])])
        self.colours = np.array(colours)
        low = np.minimum.reduceat(self.vertices, self.starts[:-1])
        high = np.maximum.reduceat(self.vertices, self.starts[:-1])
        self.centres = (low + high) / 2
        self.radii = np.hypot(*(high - low).T) / 2

    def near(self, x: float, y: float, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Polygons that reach into a circle, in drawing order: ``vertices``, ``starts`` and ``colours`` of these."""
        chosen = np.hypot(*(self.centres - [x, y]).T) < radius + self.radii
        lengths = np.diff(self.starts)
        starts = np.concatenate([[0], np.cumsum(lengths[chosen])])
        return self.vertices[np.repeat(chosen, lengths)], starts, self.colours[chosen]


def _grown(ring: np.ndarray, by: float) -> np.ndarray:
    return np.array(Polygon(ring).buffer(by, join_style='mitre').exterior.coords)[:-1]
