"""Where things land on camera images, against the devkit's own projection."""

import cv2
import numpy as np
import pytest
from nuscenes.utils.geometry_utils import view_points

from vadslim.cli import UserError
from vadslim.vad.boxes import to_nuscenes_boxes
from vadslim.vad.pictures import camera

INTRINSIC = np.array([[400.0, 0, 320], [0, 400, 180], [0, 0, 1]])
FORWARD = np.eye(4)  # a camera at the LiDAR's place that looks along +y: x right, y down, z forward
FORWARD[:3, :3] = INTRINSIC @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
BOXES = np.array([[2.0, 15.0, -1.8, 1.9, 4.5, 1.6, 0.4, 0, 0], [-3.0, 22.0, -1.8, 0.6, 0.7, 1.7, -2.0, 0, 0]])


def rounded(points):
    return {tuple(point) for point in np.round(points, 6).tolist()}


def test_corners_and_pixels_are_the_devkits():
    for ours, box in zip(camera.corners(BOXES), to_nuscenes_boxes(BOXES)):
        assert rounded(ours) == rounded(box.corners().T)
        pixels, depth = camera.project(ours, FORWARD)
        in_camera = np.linalg.inv(INTRINSIC) @ FORWARD[:3, :3] @ box.corners()
        assert rounded(pixels) == rounded(view_points(in_camera, INTRINSIC, normalize=True)[:2].T)
        assert (depth > 10).all()


def test_lines_through_the_camera_are_cut_in_front_of_it():
    starts, ends = np.array([[1.0, -5, 0], [0, 5, 0], [0, -5, 0]]), np.array([[1.0, 5, 0], [0, 10, 0], [0, -1, 0]])
    lines = camera.segments(starts, ends, FORWARD)
    assert len(lines) == 2  # the third lies behind
    np.testing.assert_allclose(lines[0], [[320 + 400 / camera.NEAR, 180], [400, 180]])
    np.testing.assert_allclose(lines[1], [[320, 180], [320, 180]])


def test_boxes_are_painted_where_they_are():
    image = np.zeros((360, 640, 3), np.uint8)
    behind = BOXES[:1] * [1, -1, 1, 1, 1, 1, 1, 1, 1]
    camera.paint_boxes(image, FORWARD, np.vstack([BOXES, behind]), [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert not image[..., 2].any()
    for box, channel in zip(BOXES, (0, 1)):
        pixels, _ = camera.project(camera.corners(box[None])[0], FORWARD)
        rows, columns = np.nonzero(image[..., channel] > 90)  # without the soft borders
        np.testing.assert_allclose([columns.min(), rows.min()], pixels.min(0), atol=1.5)
        np.testing.assert_allclose([columns.max(), rows.max()], pixels.max(0), atol=1.5)


def test_a_path_is_painted_on_the_ground():
    image = np.zeros((360, 640, 3), np.uint8)
    camera.paint_path(image, FORWARD, np.array([[0.0, 4 * t] for t in range(1, 7)]), (0, 0, 255))
    place = np.array([[-0.6, 10.0, -camera.LIDAR_HEIGHT], [0.6, 10, -1.84], [1.2, 10, -1.84], [0, 30, -1.84]])
    (left, right, beside, beyond), _ = camera.project(place, FORWARD)
    blue = [image[round(y), round(x), 2] for x, y in (left, right, beside, beyond)]
    assert blue[0] > 60 and blue[1] > 60 and blue[2] == blue[3] == 0
    assert image[359, 320, 2] > image[235, 320, 2] > 0  # fades with time


def test_the_ribbon_is_as_wide_in_a_turn():
    angle = np.linspace(0, np.pi / 2, 7)[1:]
    left, right = camera.ribbon(np.column_stack([10 - 10 * np.cos(angle), 10 * np.sin(angle)]), width=2.0)
    np.testing.assert_allclose(np.linalg.norm(left - right, axis=1), 2.0)
    np.testing.assert_allclose(np.linalg.norm(left - (10, 0), axis=1), 11, atol=0.15)


def test_a_car_that_stands_has_no_ribbon():
    image = np.zeros((360, 640, 3), np.uint8)
    camera.paint_path(image, FORWARD, np.full((6, 2), 0.01), (255, 255, 255))
    assert not image.any()


def test_cameras_stand_as_on_the_car():
    names = [camera.camera_name(f'samples/CAM_{name}/1.jpg') for name in sorted(camera.PLACES)]
    assert [camera.PLACES[place] for place in camera.places_of(names)] == names
    assert camera.places_of(['left', 'right']) == [0, 1]


def test_images(tmp_path):
    with pytest.raises(UserError, match='no readable image'):
        camera.read_image(str(tmp_path / 'none.jpg'))
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((90, 160, 3), (255, 0, 0), np.uint8))
    image = camera.read_image(str(tmp_path / 'a.png'))
    assert image[0, 0].tolist() == [0, 0, 255]
    smaller, factors = camera.resize(image, 80)
    assert smaller.shape == (45, 80, 3) and factors == (0.5, 0.5)
