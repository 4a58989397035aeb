"""VAD's 0.17 box numbers against the corners of the nuScenes devkit and of MMDetection3D 1.x."""

import numpy as np
import pytest
import torch
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion

from vadslim.vad import boxes as B


def _random_devkit_boxes(num: int = 20) -> list[Box]:
    g = np.random.default_rng(0)
    return [
        Box(
            center=g.uniform(-30, 30, 3),
            size=g.uniform(0.5, 9, 3),
            orientation=Quaternion(axis=[0, 0, 1], radians=g.uniform(-np.pi, np.pi)),
            velocity=(*g.normal(size=2), 0.0),
        )
        for _ in range(num)
    ]


def _sorted(corners: np.ndarray) -> np.ndarray:
    corners = np.round(corners, 6)
    return corners[np.lexsort(corners.T)]


def test_corners_agree_with_devkit_and_mmdet3d():
    devkit = _random_devkit_boxes()
    raw = B.from_nuscenes_boxes(devkit)
    lidar = B.to_lidar_boxes(torch.from_numpy(raw))
    assert lidar.tensor.dtype == torch.float32  # MMDetection3D casts
    for box, corners, back in zip(devkit, lidar.corners.numpy(), B.to_nuscenes_boxes(raw)):
        np.testing.assert_allclose(_sorted(corners), _sorted(box.corners().T), atol=1e-4)
        # The devkit orders corners by the heading: equal order means that front and rear are not swapped
        # either.
        np.testing.assert_allclose(back.corners(), box.corners(), atol=1e-9)
        np.testing.assert_allclose(back.velocity, box.velocity)


def test_mmdet3d_front_face_is_the_devkit_front_face():
    box = Box([1.0, 2.0, 0.5], [2.0, 4.0, 1.5], Quaternion(axis=[0, 0, 1], radians=0.7))
    corners = B.to_lidar_boxes(torch.from_numpy(B.from_nuscenes_boxes([box])[:, :7])).corners[0].numpy()
    np.testing.assert_allclose(_sorted(corners[4:]), _sorted(box.corners()[:, :4].T), atol=1e-5)


@pytest.mark.parametrize('dim', [7, 9])
def test_round_trip_through_mmdet3d(dim):
    raw = torch.from_numpy(B.from_nuscenes_boxes(_random_devkit_boxes())[:, :dim]).float()
    torch.testing.assert_close(B.from_lidar_boxes(B.to_lidar_boxes(raw)), raw, rtol=0, atol=2e-6)


def test_meaning_of_the_numbers():
    facing_forward = Box([0, 0, 0], [2.0, 4.0, 1.0], Quaternion(axis=[0, 0, 1], radians=np.pi / 2))
    row = B.from_nuscenes_boxes([facing_forward])[0]
    np.testing.assert_allclose(row[:7], [0, 0, -0.5, 2, 4, 1, -np.pi])
    assert B.wrap_yaw(np.array([np.pi, -np.pi, 3 * np.pi, 0.5])).tolist() == [-np.pi, -np.pi, -np.pi, 0.5]
    assert B.wrap_yaw(torch.tensor([4.0])).item() == pytest.approx(4 - 2 * np.pi)


def test_boxes_in_the_global_frame_are_those_of_the_devkit():
    """Corners, headings and velocities, with a LiDAR that is turned and tilted."""
    devkit = _random_devkit_boxes()
    mount = Quaternion(axis=[0.1, -0.05, 1], radians=-1.5)
    pose = Quaternion(axis=[0.02, 0.03, 1], radians=2.2)
    matrix = transform_matrix([600, 1600, 1.5], pose) @ transform_matrix([0.9, 0, 1.8], mount)
    centres, sizes, rotations, velocities = B.to_global(B.from_nuscenes_boxes(devkit), matrix)
    for box, *numbers, velocity in zip(devkit, centres, sizes, rotations, velocities):
        box.rotate(mount)
        box.translate(np.array([0.9, 0, 1.8]))
        box.rotate(pose)
        box.translate(np.array([600, 1600, 1.5]))
        ours = Box(*numbers[:2], Quaternion(numbers[2]))
        np.testing.assert_allclose(ours.corners(), box.corners(), atol=1e-9)
        np.testing.assert_allclose(ours.orientation.rotation_matrix, box.orientation.rotation_matrix, atol=1e-12)
        np.testing.assert_allclose(velocity, box.velocity[:2], atol=1e-12)
    assert [value.shape for value in B.to_global(np.zeros((0, 9)), matrix)] == [(0, 3), (0, 3), (0, 4), (0, 2)]


def test_yaw_grows_clockwise_from_backwards():
    """The devkit's heading (counter-clockwise from x) of boxes that face backwards, left, forwards, right."""
    row = np.array([[0, 0, 0, 2, 4, 1, yaw, 0, 0] for yaw in (0, np.pi / 2, -np.pi, -np.pi / 2)])
    headings = [box.orientation.yaw_pitch_roll[0] for box in B.to_nuscenes_boxes(row)]
    np.testing.assert_allclose(np.exp(1j * np.array(headings)), [-1j, -1, 1j, 1], atol=1e-12)
    quaternions = B.to_global(row, np.eye(4))[2]
    np.testing.assert_allclose([Quaternion(q).yaw_pitch_roll[0] for q in quaternions], headings, atol=1e-12)


def test_bottom_centered_copies():
    centred = np.array([[1.0, 2.0, 3.0, 1.0, 1.0, 2.0, 0.0]])
    assert B.bottom_centered(centred)[0, 2] == 2.0
    assert centred[0, 2] == 3.0
    assert B.bottom_centered(torch.from_numpy(centred))[0, 2] == 2.0


def test_no_boxes():
    empty = torch.zeros(0, 9)
    assert B.from_lidar_boxes(B.to_lidar_boxes(empty)).shape == (0, 9)
    assert B.to_nuscenes_boxes(empty) == []
    assert B.from_nuscenes_boxes([]).shape == (0, 9)


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match=r'\(N, 7\) or \(N, 9\), got \(3, 8\)'):
        B.to_lidar_boxes(torch.zeros(3, 8))
