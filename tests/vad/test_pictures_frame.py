"""The whole picture: its parts stand in their places, in their colors."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from vadslim.vad.pictures import Cameras, View, draw_frame
from vadslim.vad.pictures.camera import PLACES
from vadslim.vad.pictures.frame import PLAN_COLORS, agent_colors
from vadslim.vad.visualization import MAP_COLORS

CLASSES = ('car', 'pedestrian', 'spaceship')
MATRIX = np.array([[400.0, 320, 0, 0], [0, 180, -400, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
DPI = 100
PATH = np.array([[0.0, 3.0 * step] for step in range(1, 7)])


def cameras() -> Cameras:
    """One grey level per camera; all of them look ahead."""
    return Cameras([np.full((360, 640, 3), 40 * i, np.uint8) for i in range(6)], [MATRIX] * 6, PLACES)


def has(picture: np.ndarray, color: str) -> bool:
    wanted = np.round(np.array(to_rgb(color)) * 255).astype(int)
    return bool((abs(picture.astype(int) - wanted).max(-1) <= 20).any())


def seen(*views: View, **options) -> np.ndarray:
    return draw_frame(cameras(), views, CLASSES, dpi=DPI, **options)


def test_views_and_cameras_in_their_places():
    box = np.array([[3.0, 12.0, -1.8, 2.0, 4.5, 1.6, np.pi, 0, 0]])
    line = [(1, np.array([[-8.0, -25], [8, -12]]))]
    futures = np.array([[3.0, 12.0]]) + np.arange(1, 7)[:, None] * [0.0, 1.0]
    view = View('prediction', box, np.array([0]), futures[None, None], np.ones((1, 1)), line, PATH)
    picture = seen(view, View('ground truth', plan=PATH, driven=True))
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0 and picture.dtype == np.uint8
    right = picture[:, int(3.3 * 3 * DPI) :]
    first, second = right[:, : right.shape[1] // 2], right[:, right.shape[1] // 2 :]
    for color in (PLAN_COLORS[0], agent_colors(CLASSES)[0], MAP_COLORS[1]):
        assert has(first, color) and not has(second, color), color
    upper = picture[
        int(0.8 * DPI), int(1.7 * DPI) : int(8.2 * DPI) : int(3.22 * DPI)
    ]  # a row above all that is painted
    assert upper[:, 0].tolist() == [0, 40, 80]


def test_two_predictions_have_colors_of_their_own():
    views = [View('dense', plan=PATH), View('slim', plan=PATH + 1)]
    picture = seen(*views, View('ground truth', plan=PATH, driven=True), boxes_of=(0, 1))
    assert all(has(picture, color) for color in PLAN_COLORS)
    assert picture.shape[1] > seen(*views).shape[1]


@pytest.mark.parametrize('view', [View(), View(boxes=np.zeros((0, 9)), plan=np.zeros((6, 2)))])
def test_a_frame_with_nothing_in_it(view):
    assert seen(view).shape[2] == 3


def test_unknown_classes_have_a_color():
    assert len(set(agent_colors(CLASSES))) == 3
