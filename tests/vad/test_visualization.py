"""Footprints against the devkit's corners; the picture itself is looked at in test_demo.py."""

import numpy as np
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from vadslim.vad.boxes import from_nuscenes_boxes
from vadslim.vad.visualization import footprints


def test_footprints_are_the_devkits_bottom_corners():
    boxes = [
        Box([3.0, -2.0, 0.5], [1.9, 4.5, 1.6], Quaternion(axis=[0, 0, 1], radians=angle)) for angle in (0.3, 2.0, -1.1)
    ]
    found = footprints(from_nuscenes_boxes(boxes))
    for corners, box in zip(found, boxes):
        front_left, front_right = (box.corners()[:2, i] for i in (3, 2))  # on the ground
        np.testing.assert_allclose(corners[:2], [front_left, front_right], atol=1e-9)
        np.testing.assert_allclose(corners.mean(0), box.center[:2], atol=1e-9)
        assert {tuple(c) for c in corners.round(6)} == {tuple(c) for c in box.bottom_corners()[:2].T.round(6)}
    assert footprints(np.zeros((0, 9))).shape == (0, 4, 2)
