"""Vector map around the vehicle, read from the nuScenes map expansion (``maps/expansion/LOCATION.json``).

The five layers that VAD uses are read straight from the json into one spatial index per layer: opening a
location takes a second or two instead of the tens of seconds of ``NuScenesMap``, and a frame takes
milliseconds instead of a scan over all records. Results equal those of the devkit's
``NuScenesMapExplorer`` (tested).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import shapely
from shapely import LineString, Polygon, STRtree
from shapely.affinity import rotate
from shapely.geometry.base import BaseGeometry

from vadslim.cli import UserError

MAP_CLASSES = ('divider', 'ped_crossing', 'boundary')
LINE_LAYERS = ('road_divider', 'lane_divider')
POLYGON_LAYERS = ('ped_crossing', 'road_segment', 'lane')
# Boundaries end a little inside the patch, so that the patch's own border is not taken for the edge of
# the road; crossings end outside it, so that they stay closed.
MARGIN = 0.2


def expansion_file(data_root: str | Path, location: str) -> Path:
    return Path(data_root) / 'maps' / 'expansion' / f'{location}.json'


def check_maps(data_root: str | Path, locations: Iterable[str]) -> None:
    """Raise UserError if the map of one of the locations is missing or cut off."""
    for location in sorted(set(locations)):
        path = expansion_file(data_root, location)
        if not path.is_file():
            maps = Path(data_root) / 'maps'
            raise UserError(f'{path}: no such file; unpack the map expansion (v1.3) of nuScenes into {maps}')
        with path.open('rb') as file:
            file.seek(max(path.stat().st_size - 64, 0))
            if not file.read().rstrip().endswith(b'}'):
                raise UserError(f'{path}: is truncated; unpack the map expansion (v1.3) of nuScenes again')


class LocationMap:
    """The map layers of one location, in global coordinates (metres).

    Args:
        path: the map expansion json.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            tables = json.loads(Path(path).read_text())
            version = str(tables.get('version', '1.0'))
            self._layers = _read_layers(tables) if version >= '1.3' else {}
        except OSError as error:
            raise UserError(f'{path}: cannot be read: {error.strerror}') from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f'{path}: not a map expansion file ({type(error).__name__}: {error})') from None
        if not self._layers:
            raise UserError(f'{path}: map expansion {version} is outdated, 1.3 is needed')

    def layer_in_patch(
        self, layer: str, center: Sequence[float], angle: float, size: tuple[float, float]
    ) -> list[BaseGeometry]:
        """Shapes of one layer clipped to a rotated patch, in the patch's frame, in the order of the records.

        Args:
            layer: one of LINE_LAYERS or POLYGON_LAYERS.
            center: (x, y) of the patch, global metres.
            angle: rotation of the patch, degrees, counter-clockwise.
            size: (extent along the patch's y, along its x), metres.
        """
        (x, y), (height, width) = center, size
        patch = shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        patch = rotate(patch, angle, origin=(x, y))
        tree = self._layers[layer]
        hits = np.sort(tree.query(patch, predicate='intersects'))
        clipped = shapely.intersection(tree.geometries[hits], patch)
        clipped = clipped[~shapely.is_empty(clipped)]
        radians = np.deg2rad(-angle)
        turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        return list(shapely.transform(clipped, lambda points: (points - [x, y]) @ turn.T))


class VectorMap:
    """Map elements around a pose.

    Args:
        data_root: folder that holds ``maps/expansion``.
        patch_size: (extent along y, along x) of the patch, metres.
        map_classes: which of MAP_CLASSES to return; the label is the position in MAP_CLASSES.
    """

    def __init__(
        self,
        data_root: str | Path,
        patch_size: tuple[float, float] = (60.0, 30.0),
        map_classes: Sequence[str] = MAP_CLASSES,
    ) -> None:
        unknown = set(map_classes) - set(MAP_CLASSES)
        if unknown:
            raise ValueError(f'map_classes: unknown {sorted(unknown)}, allowed are {list(MAP_CLASSES)}')
        self.data_root = str(data_root)
        self.patch_size = patch_size
        self.map_classes = tuple(map_classes)

    def lines(self, location: str, lidar2global: np.ndarray) -> tuple[list[LineString], list[int]]:
        """Polylines (LiDAR frame, metres) and their labels around one LiDAR pose.

        Args:
            location: name of the map, such as 'boston-seaport'.
            lidar2global: (4, 4); only x, y and the heading of its x axis are used.
        """
        location_map = _open(self.data_root, location)
        center = lidar2global[:2, 3]
        angle = np.degrees(np.arctan2(lidar2global[1, 0], lidar2global[0, 0]))

        def shapes(*layers: str) -> list[BaseGeometry]:
            return [
                shape
                for layer in layers
                for shape in location_map.layer_in_patch(layer, center, angle, self.patch_size)
            ]

        lines: list[LineString] = []
        labels: list[int] = []
        for name in self.map_classes:
            if name == 'divider':
                found = _line_parts(shapes(*LINE_LAYERS))
            elif name == 'ped_crossing':
                found = _outlines(shapes('ped_crossing'), self._patch(MARGIN))
            else:
                found = _outlines(shapes('road_segment', 'lane'), self._patch(-MARGIN))
            lines += found
            labels += [MAP_CLASSES.index(name)] * len(found)
        return lines, labels

    def _patch(self, margin: float) -> Polygon:
        y, x = self.patch_size[0] / 2 + margin, self.patch_size[1] / 2 + margin
        return shapely.box(-x, -y, x, y)


@lru_cache(maxsize=8)
def _open(data_root: str, location: str) -> LocationMap:
    """One map per location and process: workers open what they need, forked ones share what is open."""
    check_maps(data_root, [location])
    return LocationMap(expansion_file(data_root, location))


def _read_layers(tables: dict) -> dict[str, STRtree]:
    nodes = {n['token']: (n['x'], n['y']) for n in tables['node']}
    lines = {r['token']: r for r in tables['line']}
    polygons = {r['token']: r for r in tables['polygon']}
    layers: dict[str, STRtree] = {}
    for layer in LINE_LAYERS:
        tokens = (lines[r['line_token']]['node_tokens'] for r in tables[layer])
        layers[layer] = STRtree([LineString([nodes[t] for t in line]) for line in tokens if line])
    for layer in POLYGON_LAYERS:
        shapes = [_polygon(polygons[r['polygon_token']], nodes) for r in tables[layer]]
        layers[layer] = STRtree([shape for shape in shapes if shape.is_valid])
    return layers


def _polygon(record: dict, nodes: dict[str, tuple[float, float]]) -> Polygon:
    holes = [[nodes[t] for t in hole['node_tokens']] for hole in record['holes'] if hole['node_tokens']]
    return Polygon([nodes[t] for t in record['exterior_node_tokens']], holes)


def _line_parts(shapes: Iterable[BaseGeometry]) -> list[LineString]:
    """The lines among (collections of) shapes; points, where a border is only touched, are dropped."""
    parts = shapely.get_parts(shapely.get_parts(list(shapes)))
    return [part for part in parts if part.geom_type in ('LineString', 'LinearRing') and part.length > 0]


def _outlines(polygons: Iterable[BaseGeometry], patch: Polygon) -> list[LineString]:
    """Outlines of the union of polygons inside the patch: the outer ones clockwise, holes counter-
    clockwise.
    """
    union = shapely.union_all(list(polygons))
    parts = [part for part in shapely.get_parts(union) if part.geom_type == 'Polygon' and not part.is_empty]
    rings = [ring.reverse() if ring.is_ccw else ring for ring in (part.exterior for part in parts)]
    for part in parts:
        rings += [ring if ring.is_ccw else ring.reverse() for ring in part.interiors]
    clipped = shapely.intersection(rings, patch)
    return _line_parts(shapely.line_merge(c) if c.geom_type == 'MultiLineString' else c for c in clipped)
