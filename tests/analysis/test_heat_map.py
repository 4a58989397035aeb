"""The heat map: every row can be read, however many there are."""

import cv2
import numpy as np
import pytest

from vadslim.analysis.heat_map import heat_map, percent


def colours(picture):
    """How many pixels are clearly red, blue, and the grey of what is not known."""
    blue, red = picture[..., 0].astype(int), picture[..., 2].astype(int)
    grey = (abs(picture.astype(int) - 0.85 * 255) < 1).all(-1)
    return (red - blue > 60).sum(), (blue - red > 60).sum(), grey.sum()


def draw(changes, **panels):
    rows = [f'group.{number}' for number in range(len(changes))]
    png = heat_map(rows, [str(c) for c in range(changes.shape[1])], {'L2': changes, **panels}, 'title')
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_it_is_as_tall_as_it_has_to_be():
    few, many = (draw(np.zeros((count, 3))) for count in (3, 63))
    assert many.shape[0] - few.shape[0] == pytest.approx(60 * 24, abs=2)  # 0.2 inches at 120 dpi: a line of text


def test_red_is_worse_and_grey_is_unknown():
    nothing = colours(draw(np.zeros((2, 2))))
    worse = colours(draw(np.array([[0.5, np.inf], [0, 0]])))
    better = colours(draw(np.array([[-0.5, -0.9], [0, 0]])))
    unknown = colours(draw(np.array([[np.nan, 0], [0, 0]])))
    assert worse[0] > nothing[0] + 1000 and better[1] > nothing[1] + 1000 and unknown[2] > nothing[2] + 1000
    assert worse[1] == nothing[1] and better[0] == nothing[0]


@pytest.mark.parametrize(
    ('change', 'text'),
    [(0.0, '0'), (0.012, '+1.2'), (-0.5, '-50'), (0.0996, '+10'), (30.0, '>+999'), (np.inf, '>+999'), (np.nan, 'nan')],
)
def test_cells(change, text):
    assert percent(change) == text
