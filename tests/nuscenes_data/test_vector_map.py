"""The vector map around a pose, on a map made by hand; test_converter.py compares its layers with the devkit's."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from vadslim.cli import UserError
from vadslim.nuscenes_data import vector_map


@pytest.fixture
def town(tmp_path) -> Path:
    """A hand-made map: a road 8 m wide along y with a hole, one divider, one crossing made of two
    touching halves.
    """
    nodes, lines, polygons = [], [], []

    def add(points):
        tokens = []
        for x, y in points:
            tokens.append(f'n{len(nodes)}')
            nodes.append({'token': tokens[-1], 'x': x, 'y': y})
        return tokens

    def line(points):
        lines.append({'token': f'l{len(lines)}', 'node_tokens': add(points)})
        return {'token': f'd{len(lines)}', 'line_token': lines[-1]['token']}

    def polygon(points, *holes):
        polygons.append(
            {
                'token': f'p{len(polygons)}',
                'exterior_node_tokens': add(points),
                'holes': [{'node_tokens': add(hole)} for hole in holes],
            }
        )
        return {'token': f's{len(polygons)}', 'polygon_token': polygons[-1]['token']}

    def rect(x1, y1, x2, y2):
        return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]

    bow_tie = [(0, 0), (1, 1), (1, 0), (0, 1)]
    tables = {
        'version': '1.3',
        'road_divider': [line([(100, 0), (100, 200)])],
        'lane_divider': [line([]), line([(500, 0), (500, 10)])],
        'ped_crossing': [
            polygon(rect(96, 105, 100, 108)),
            polygon(rect(100, 105, 104, 108)),
            polygon(bow_tie),
        ],
        'road_segment': [polygon(rect(96, 0, 104, 200), rect(101, 98, 103, 102))],
        'lane': [],
    }
    tables |= {'node': nodes, 'line': lines, 'polygon': polygons}
    path = vector_map.expansion_file(tmp_path, 'town')
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(tables))
    return tmp_path


def pose(x: float, y: float, degrees: float) -> np.ndarray:
    a = np.radians(degrees)
    out = np.eye(4)
    out[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    out[:2, 3] = x, y
    return out


@pytest.mark.parametrize('heading', [0, 90, 180])
def test_hand_made_map(town, heading):
    lines, labels = vector_map.VectorMap(town).lines('town', pose(100, 100, heading))
    assert labels == [0, 1] + [2] * (len(labels) - 2)
    divider, crossing, *edges = lines
    half = 30 if heading in (0, 180) else 15  # how far the patch reaches along the road
    assert divider.length == pytest.approx(2 * half)
    assert crossing.is_closed
    assert crossing.length == pytest.approx(2 * (8 + 3))
    assert len(crossing.coords) == 5 + 2  # both halves in one outline; the shared corners stay
    holes = [edge for edge in edges if edge.is_closed]
    sides = [edge for edge in edges if not edge.is_closed]
    assert [edge.length for edge in holes] == pytest.approx([2 * (2 + 4)])
    assert [edge.length for edge in sides] == pytest.approx([2 * half - 0.4] * 2)
    if heading == 90:  # the patch's x axis points along the road: what was ahead by 5 m is now to the right
        assert crossing.bounds == pytest.approx((5, -4, 8, 4))


def test_only_asked_classes_keep_their_labels(town):
    _, labels = vector_map.VectorMap(town, map_classes=['boundary']).lines('town', pose(100, 100, 0))
    assert set(labels) == {2}
    with pytest.raises(ValueError, match="unknown \\['lane'\\]"):
        vector_map.VectorMap(town, map_classes=['lane'])


def test_far_from_everything(town):
    assert vector_map.VectorMap(town).lines('town', pose(5000, 5000, 0)) == ([], [])


def test_errors_name_the_file(town):
    with pytest.raises(UserError, match='nowhere.json: no such file'):
        vector_map.VectorMap(town).lines('nowhere', np.eye(4))
    bad = vector_map.expansion_file(town, 'bad')
    bad.write_text('{')
    with pytest.raises(UserError, match='bad.json: not a map expansion file'):
        vector_map.LocationMap(bad)
    with pytest.raises(UserError, match='bad.json: is truncated'):
        vector_map.check_maps(town, ['town', 'bad'])
    bad.write_text('{"version": "1.3", "node": []}')
    with pytest.raises(UserError, match="bad.json: not a map expansion file .*'line'"):
        vector_map.LocationMap(bad)
    bad.write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match='1.0 is outdated'):
        vector_map.LocationMap(bad)


def test_touching_corner_gives_no_line():
    touching = shapely.box(0, 0, 1, 1)
    assert vector_map._outlines([touching], shapely.box(1, 1, 2, 2)) == []
