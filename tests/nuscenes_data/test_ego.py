"""Rotations, and the ego and agent fields of info files, on numbers made by hand."""

import numpy as np
import pytest
from pyquaternion import Quaternion

from vadslim.nuscenes_data import geometry
from vadslim.nuscenes_data.agents import STATIC_GOAL, goal_class
from vadslim.nuscenes_data.ego import LEFT, RIGHT, STRAIGHT, SceneEgo


def test_quaternions_agree_with_pyquaternion():
    g = np.random.default_rng(1)
    a, b = g.normal(size=(2, 5, 4))
    for i in range(5):
        qa, qb = Quaternion(a[i]).normalised, Quaternion(b[i]).normalised
        np.testing.assert_allclose(geometry.quaternion_matrix(a)[i], qa.rotation_matrix, atol=1e-12)
        np.testing.assert_allclose(geometry.quaternion_inverse(a)[i], qa.inverse.elements, atol=1e-12)
        product = geometry.quaternion_product(qa.elements, qb.elements)
        np.testing.assert_allclose(product, (qa * qb).elements, atol=1e-12)
        assert geometry.intrinsic_yaw(a)[i] == pytest.approx(qa.yaw_pitch_roll[0])
        forward = qa.rotation_matrix[:, 0]
        assert geometry.extrinsic_yaw(a)[i] == pytest.approx(np.arctan2(forward[1], forward[0]))


def test_rigid_inverse():
    matrix = geometry.rigid([[0.5, 0.1, -0.3, 0.7]], [[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(geometry.rigid_inverse(matrix) @ matrix, np.eye(4)[None], atol=1e-12)


def drive(turn: float, num: int = 9) -> SceneEgo:
    """One metre per key frame, turning by ``turn`` radians each; the ego's x axis and the LiDAR's y point ahead."""
    headings = np.arange(num) * turn
    steps = np.column_stack([np.cos(headings), np.sin(headings), np.zeros(num)])
    rotations = np.array([Quaternion(axis=[0, 0, 1], radians=h).elements for h in headings])
    mount = Quaternion(axis=[0, 0, 1], degrees=-90).elements
    return SceneEgo(np.cumsum(steps, axis=0) - steps[0], rotations, np.zeros((num, 3)), np.tile(mount, (num, 1)))


def test_ego_straight_on():
    ego = drive(0.0)
    first = ego.trajectory(0)
    np.testing.assert_allclose(first['gt_ego_fut_trajs'], [[0, 1]] * 6, atol=1e-6)
    np.testing.assert_allclose(first['gt_ego_his_trajs'], [[0, 1]] * 2, atol=1e-6)  # continued backwards
    assert first['gt_ego_fut_cmd'].tolist() == STRAIGHT.tolist()
    late = ego.trajectory(6)
    np.testing.assert_allclose(late['gt_ego_fut_trajs'], [[0, 1]] * 2 + [[0, 0]] * 4, atol=1e-6)
    assert late['gt_ego_fut_masks'].tolist() == [1, 1, 0, 0, 0, 0]
    assert [ego.future_is_valid(i) for i in (2, 3)] == [True, False]


@pytest.mark.parametrize(('turn', 'command'), [(0.2, LEFT), (-0.2, RIGHT)])
def test_ego_turning(turn, command):
    out = drive(turn).trajectory(0)
    assert out['gt_ego_fut_cmd'].tolist() == command.tolist()
    assert np.sign(out['gt_ego_fut_trajs'][-1, 0]) == -np.sign(turn)


def test_ego_status():
    status = drive(0.0).status(3, np.arange(18.0), None)
    np.testing.assert_allclose(status, [0, 2, 7, 8, 0, 4.084, 1.85, 2, 0], atol=1e-6)  # 1 m in 0.5 s; 2 m in two steps
    assert drive(0.0).status(3, np.zeros(18), (5.0, 0.1))[-2:].tolist() == [5.0, np.float32(0.1)]


def test_goal_classes():
    steps = np.zeros((4, 6, 2))
    steps[0, 0] = 100  # the first step does not count
    steps[1, 1:, 0] = 1  # to +x: pi + 0 -> class 4
    steps[2, 1:] = [-1, 1]  # to the upper left: pi * 7 / 4 -> class 7
    steps[3, 1:, 1] = -1  # backwards: both gains below one metre, so 'static'
    assert goal_class(steps).tolist() == [STATIC_GOAL, 4, 7, STATIC_GOAL]
