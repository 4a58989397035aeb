"""Map ground truth: orderings against the original's recorded values, layers against the devkit's own
clipping.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely import LineString

from vadslim.cli import UserError
from vadslim.vad.datasets import vector_map
from vadslim.vad.datasets.map_lines import PADDING, map_targets, orderings, sample_line

DATA = Path(__file__).parents[1] / 'data' / 'vad'
SQUARE = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0)]


def golden_lines() -> list[tuple[int, np.ndarray]]:
    """The polylines from which the golden map targets were computed."""
    t = np.linspace(-30, 30, 13)
    crossing = [[-6.0, 10.0], [6.0, 10.4], [6.1, 13.9], [-5.9, 13.5], [-6.0, 10.0]]
    polygon = [[-7, -18], [-4.5, -18.5], [3, -18.2], [6.5, -17.6], [6.3, -15], [-6.8, -15.3], [-7, -18]]
    return [
        (0, np.stack([1.6 + 0.4 * np.sin(t / 9.0), t], 1)),
        (0, np.stack([-1.9 + 0.3 * np.cos(t / 11.0), t[::-1]], 1)),
        (2, np.stack([7.4 + 0.5 * np.sin(t / 13.0 + 1), t], 1)),
        (2, np.stack([-8.1 + 0.6 * np.sin(t / 10.0 + 2), t], 1)),
        (1, np.array(crossing)),
        (1, np.array(polygon)),
        (2, np.array([[-15.0, 22.0], [-10.5, 21.0], [-9.0, 24.5], [-9.5, 30.0]])),
    ]


def test_targets_equal_the_original():
    golden = np.load(DATA / 'golden_train.npz')
    labels, lines = zip(*((label, LineString(points)) for label, points in golden_lines()))
    targets = map_targets(lines, labels, (60.0, 30.0), 20)
    assert targets.labels.tolist() == golden['map_gt/labels'].tolist()
    np.testing.assert_allclose(
        targets.pts.numpy(), golden['map_gt/shift_fixed_num_sampled_points_v2'], rtol=0, atol=2e-6
    )
    np.testing.assert_allclose(targets.bboxes.numpy(), golden['map_gt/bbox'], rtol=0, atol=2e-6)
    np.testing.assert_allclose(targets.pts[:, 0].numpy(), golden['map_gt/fixed_num_sampled_points'], rtol=0, atol=2e-6)


def test_samples_are_equally_spaced_along_the_line():
    points = sample_line(LineString([(0, 0), (3, 0), (3, 3)]), 7)
    np.testing.assert_allclose(points, [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)], atol=1e-12)


def test_closed_line_starts_at_each_vertex():
    shifts = orderings(LineString(SQUARE), 9)
    np.testing.assert_allclose(shifts[:, 0], [(0, 0), (0, 4), (4, 4), (4, 0)])
    np.testing.assert_allclose(shifts[:, 0], shifts[:, -1])
    assert {tuple(p) for p in shifts[0]} == {tuple(p) for p in shifts[3]}


def test_many_vertices_draw_distinct_starts_only():
    angles = np.linspace(0, 2 * np.pi, 41)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    circle[-1] = circle[0]
    np.random.seed(0)
    shifts = orderings(LineString(circle), 20)
    assert shifts.shape == (19, 20, 2)
    assert len({tuple(np.round(s[0], 6)) for s in shifts}) == 19


def test_missing_orderings_are_padded_and_points_clamped():
    targets = map_targets([LineString([(0, 0), (0, 40)]), LineString(SQUARE)], [0, 1], (60.0, 30.0), 20)
    assert (targets.pts[0, 2:] == PADDING).all()
    assert (targets.pts[1, 4:] == PADDING).all()
    assert targets.pts[0, :2, :, 1].max() == 30
    assert targets.bboxes[0].tolist() == [0, 0, 0, 30]


def test_no_lines():
    targets = map_targets([], [], (60.0, 30.0), 20)
    assert targets.pts.shape == (0, 19, 20, 2)
    assert targets.labels.shape == (0,)
    assert targets.bboxes.shape == (0, 4)


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
    bad.write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match='1.0 is outdated'):
        vector_map.LocationMap(bad)


def test_touching_corner_gives_no_line():
    touching = shapely.box(0, 0, 1, 1)
    assert vector_map._outlines([touching], shapely.box(1, 1, 2, 2)) == []
