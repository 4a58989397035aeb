"""Map ground truth against the original's recorded values."""

from pathlib import Path

import numpy as np
from shapely import LineString

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
