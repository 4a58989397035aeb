"""Strokes: the same numbers draw the same sample, and targets are those that a hand computes."""

import math

import numpy as np
import pytest

from vadslim.examples.ink.strokes import CURRICULUM, TARGETS, Stroke, draw, render, sample


def line(*corners, widths=2.0, ink=1.0):
    """A stroke of straight segments."""
    corners = np.array(corners, float)
    t = np.arange(4)[:, None] / 3
    curves = np.stack([a + t * (b - a) for a, b in zip(corners, corners[1:])])
    return Stroke(curves, np.broadcast_to(widths, len(corners)), ink)


def test_horizontal_line():
    maps = render([line((10, 20.25), (30, 20.25), ink=0.8)])
    on = np.zeros((64, 64), bool)
    on[20, 10:31] = True
    np.testing.assert_array_equal(maps['skeleton'][0] > 0, on)
    np.testing.assert_allclose(maps['tangent'][:, on], np.stack([np.ones(21), np.zeros(21)]), atol=1e-6)
    np.testing.assert_allclose(maps['width'][0, on], 2, rtol=1e-6)
    np.testing.assert_allclose(maps['offset'][:, on], np.stack([np.zeros(21), np.full(21, 0.25)]), atol=1e-5)
    assert all(not maps[name][:, ~on].any() for name in ('tangent', 'width', 'offset'))
    # half the width 1: fully covered up to 0.5 from the line, not at all from 1.5 on
    column = maps['image'][0, :, 20]
    np.testing.assert_allclose(column[18:24], 0.8 * np.array([0, 0.25, 1, 0.75, 0, 0]), atol=1e-5)
    np.testing.assert_allclose(maps['image'][0, 20, 9], 0.8 * (1.5 - math.hypot(1, 0.25)), rtol=1e-5)  # round ends
    assert (maps['image'][0, 20, [8, 32]] == 0).all()


def test_diagonal_line_of_changing_width():
    maps = render([line((10, 10), (30, 30), widths=[2, 4])])
    on = np.arange(10, 31)
    assert maps['skeleton'][0, on, on].all() and maps['offset'][:, on, on] == pytest.approx(0, abs=1e-5)
    assert np.abs(np.diff(np.argwhere(maps['skeleton'][0]))).max() <= 1  # beside it only pixels that it passes through
    np.testing.assert_allclose(maps['tangent'][:, on, on], np.stack([np.zeros(21), np.ones(21)]), atol=1e-6)
    np.testing.assert_allclose(maps['width'][0, on, on], np.linspace(2, 4, 21), rtol=1e-5)


def test_ends_and_joints():
    ends, joints = render([line((10, 20.4), (20, 20.4), (20, 30)), line((40, 40), (45, 40))])['keypoints']
    assert sorted(map(tuple, np.argwhere(ends == 1))) == [(20, 10), (30, 20), (40, 40), (40, 45)]
    assert [tuple(place) for place in np.argwhere(joints == 1)] == [(20, 20)]
    np.testing.assert_allclose(joints[21, 22], math.exp(-(1**2 + 2**2) / (2 * 1.5**2)), rtol=1e-6)
    np.testing.assert_allclose(ends[40, 42], math.exp(-(2**2) / 4.5), rtol=1e-6)  # the greater of two, not their sum


def test_where_strokes_cross_the_nearest_line_counts():
    maps = render([line((10, 20), (30, 20), widths=1.5), line((20.2, 10), (20.2, 30), widths=4)])
    assert maps['width'][0, 20, 20] == 1.5 and maps['width'][0, 19, 20] == 4
    assert maps['image'].max() == 1


def test_nothing_to_draw():
    maps = render([])
    assert {name: value.shape for name, value in maps.items()} == {
        'image': (1, 64, 64),
        **{name: (channels, 64, 64) for name, channels in TARGETS.items()},
    }
    assert not any(value.any() for value in maps.values())


@pytest.mark.parametrize('stage', range(len(CURRICULUM)))
def test_curriculum(stage):
    numbers, segments = CURRICULUM[stage]
    drawn = [draw(3, stage, index) for index in range(150)]
    assert {min(map(len, drawn)), max(map(len, drawn))} == set(numbers)
    lengths = [len(stroke.curves) for one in drawn for stroke in one]
    assert {min(lengths), max(lengths)} == set(segments)
    for one in drawn:
        for stroke in one:
            assert (stroke.curves[1:, 0] == stroke.curves[:-1, 3]).all()  # a chain
            assert stroke.curves[:, [0, 3]].min() >= 5 and stroke.curves[:, [0, 3]].max() <= 58
            assert stroke.widths.shape == (len(stroke.curves) + 1,) and stroke.widths.min() >= 1.5
            assert stroke.widths.max() <= 4 and 0.6 <= stroke.ink <= 1
    for index in range(5):
        check(sample(3, stage, index))


def test_slanted_line():
    """3 - 4 - 5: a pixel 1 below the line is 0.8 from it; the nearest point is 0.48 to the right and 0.64 above."""
    maps = render([line((10, 10), (50, 40), widths=4)])
    np.testing.assert_allclose(maps['tangent'][:, 25, 30], [0.8**2 - 0.6**2, 2 * 0.8 * 0.6], rtol=1e-5)
    assert maps['skeleton'][0, 24:28, 30].tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(maps['image'][0, 25:30, 30], np.clip(2.5 - 0.8 * np.arange(5), 0, 1), atol=1e-5)


def check(maps):
    """What holds for all samples."""
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in maps.values())
    on = maps['skeleton'][0] > 0
    assert on.any() and set(np.unique(maps['skeleton'])) == {0, 1}
    assert maps['image'].min() == 0 and maps['image'].max() <= 1 and maps['image'][0, on].min() > 0.2
    assert np.abs(maps['offset']).max() <= 0.5
    np.testing.assert_allclose((maps['tangent'][:, on] ** 2).sum(0), 1, rtol=1e-5)
    assert maps['width'][0, on].min() >= 1.5 - 1e-5 and maps['width'].max() <= 4 + 1e-5
    for row, column in np.argwhere(maps['keypoints'].max(0) == 1):
        assert on[row - 1 : row + 2, column - 1 : column + 2].any()  # ends and joints lie on the lines


def test_a_sample_is_always_the_same():
    """Wherever and whenever it is drawn; and other numbers give another one."""
    np.random.seed(9)
    first, last = draw(5, 8, 123456)
    np.testing.assert_allclose(first.curves[0, 0], [12.82100095, 42.46798882])
    np.testing.assert_allclose(last.curves[-1, 3], [43.41721925, 7.64856791])
    assert len(first.curves) == 4 and first.ink == pytest.approx(0.88519019672)
    maps = sample(5, 8, 123456)
    assert maps['skeleton'].sum() == 95 and maps['image'].sum() == pytest.approx(172.022965, rel=1e-5)
    images = [sample(*numbers)['image'] for numbers in ((5, 8, 1), (6, 8, 1), (5, 9, 1), (5, 8, 2))]
    assert all((one != other).any() for k, one in enumerate(images) for other in images[:k])


def test_no_such_stage():
    for stage in (-1, 10):
        with pytest.raises(ValueError, match='0 to 9'):
            sample(0, stage, 0)


def test_pieces_are_short_enough():
    """The nearest point of the pieces is that of the curve, nearly."""
    stroke = draw(0, 0, 4)[0]
    (curve,), t = stroke.curves, np.linspace(0, 1, 2000)[:, None]
    points = (1 - t) ** 3 * curve[0] + 3 * t * (1 - t) ** 2 * curve[1] + 3 * t**2 * (1 - t) * curve[2] + t**3 * curve[3]
    maps = render([stroke])
    for row, column in np.argwhere(maps['skeleton'][0]):
        there = points - (column, row)
        nearest = there[(there**2).sum(1).argmin()]
        assert np.abs(maps['offset'][:, row, column] - nearest).max() < 0.1
