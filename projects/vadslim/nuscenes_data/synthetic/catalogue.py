"""Names and numbers of the nuScenes schema that the synthetic dataset shares with the real one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from pyquaternion import Quaternion

MINI_TRAIN = (
    'scene-0061',
    'scene-0553',
    'scene-0655',
    'scene-0757',
    'scene-0796',
    'scene-1077',
    'scene-1094',
    'scene-1100',
)
MINI_VAL = ('scene-0103', 'scene-0916')
LOCATIONS = ('boston-seaport', 'singapore-hollandvillage', 'singapore-onenorth', 'singapore-queenstown')
LEFT_HAND_TRAFFIC = frozenset(name for name in LOCATIONS if name.startswith('singapore'))

IMAGE_WIDTH, IMAGE_HEIGHT = 1600, 900
EGO_SIZE = (1.85, 4.084, 1.56)  # width, length, height in metres
EGO_CENTRE = 1.42  # the ego frame sits on the rear axle; the body's centre is this far ahead of it
LIDAR_TRANSLATION = (0.94, 0.0, 1.84)

ATTRIBUTES = {
    'vehicle.moving': 'Vehicle is moving.',
    'vehicle.stopped': 'Vehicle, with a driver, is stationary but about to move.',
    'vehicle.parked': 'Vehicle is stationary for a longer time.',
    'cycle.with_rider': 'A rider is on the bicycle or motorcycle.',
    'cycle.without_rider': 'Nobody is on the bicycle or motorcycle.',
    'pedestrian.sitting_lying_down': 'The person sits or lies.',
    'pedestrian.standing': 'The person stands.',
    'pedestrian.moving': 'The person moves.',
}
VISIBILITY = {'1': ('v0-40', 0.4), '2': ('v40-60', 0.6), '3': ('v60-80', 0.8), '4': ('v80-100', np.inf)}


@dataclass(frozen=True)
class Category:
    """One row of the category table with its looks.

    Attributes:
        name: official nuScenes category.
        size: width, length, height in metres; instances vary by a few percent.
        colour: RGB of the rendered box.
    """

    name: str
    size: tuple[float, float, float]
    colour: tuple[int, int, int]


CATEGORIES = {
    category.name: category
    for category in (
        Category('human.pedestrian.adult', (0.67, 0.73, 1.77), (40, 70, 235)),
        Category('human.pedestrian.child', (0.51, 0.53, 1.35), (110, 190, 250)),
        Category('human.pedestrian.wheelchair', (0.75, 1.10, 1.40), (90, 60, 220)),
        Category('human.pedestrian.stroller', (0.60, 0.95, 1.15), (130, 120, 250)),
        Category('human.pedestrian.personal_mobility', (0.60, 1.15, 1.80), (70, 130, 240)),
        Category('human.pedestrian.police_officer', (0.70, 0.75, 1.80), (20, 30, 150)),
        Category('human.pedestrian.construction_worker', (0.70, 0.73, 1.75), (60, 110, 200)),
        Category('animal', (0.35, 0.75, 0.50), (150, 110, 80)),
        Category('vehicle.car', (1.95, 4.62, 1.73), (235, 60, 50)),
        Category('vehicle.motorcycle', (0.77, 2.11, 1.46), (245, 70, 190)),
        Category('vehicle.bicycle', (0.60, 1.70, 1.30), (60, 215, 215)),
        Category('vehicle.bus.bendy', (2.95, 15.0, 3.45), (250, 160, 60)),
        Category('vehicle.bus.rigid', (2.94, 10.8, 3.40), (250, 150, 20)),
        Category('vehicle.truck', (2.50, 6.90, 2.85), (150, 55, 200)),
        Category('vehicle.construction', (2.80, 6.30, 3.20), (215, 195, 30)),
        Category('vehicle.emergency.ambulance', (2.30, 6.20, 2.60), (245, 245, 160)),
        Category('vehicle.emergency.police', (2.00, 4.90, 1.80), (170, 200, 240)),
        Category('vehicle.trailer', (2.90, 11.5, 3.85), (110, 150, 90)),
        Category('movable_object.barrier', (2.40, 0.55, 1.00), (240, 240, 240)),
        Category('movable_object.trafficcone', (0.42, 0.42, 0.95), (255, 120, 0)),
        Category('movable_object.pushable_pullable', (0.65, 0.75, 1.05), (90, 160, 60)),
        Category('movable_object.debris', (0.60, 0.80, 0.40), (120, 90, 50)),
        Category('static_object.bicycle_rack', (2.50, 1.00, 1.20), (120, 200, 170)),
    )
}

CAMERAS = (
    'CAM_FRONT',
    'CAM_FRONT_RIGHT',
    'CAM_BACK_RIGHT',
    'CAM_BACK',
    'CAM_BACK_LEFT',
    'CAM_FRONT_LEFT',
)
CHANNELS = (*CAMERAS, 'LIDAR_TOP')

# Mounting in the ego frame: yaw (degrees, counter-clockwise from forward), x, y, z (m), focal length and
# principal point (pixels), and the exposure time relative to the lidar's (microseconds).
_MOUNTS = {
    'CAM_FRONT': (0.0, 1.70, 0.02, 1.51, 1266.4, 816.3, 491.5, -6000),
    'CAM_FRONT_RIGHT': (-55.0, 1.55, -0.49, 1.50, 1260.8, 807.9, 495.3, -2000),
    'CAM_BACK_RIGHT': (-110.0, 1.01, -0.48, 1.56, 1259.5, 807.2, 501.2, 2000),
    'CAM_BACK': (180.0, 0.03, 0.00, 1.57, 809.2, 829.2, 481.8, 6000),
    'CAM_BACK_LEFT': (110.0, 1.04, 0.48, 1.56, 1256.7, 792.1, 492.8, 9000),
    'CAM_FRONT_LEFT': (55.0, 1.52, 0.49, 1.51, 1272.6, 826.6, 479.8, -9000),
}


@dataclass(frozen=True)
class Camera:
    """A calibrated camera.

    Attributes:
        channel: nuScenes channel name.
        translation: (3,) camera centre in the ego frame, metres.
        rotation: (3, 3) camera-to-ego rotation; camera axes are x right, y down, z forward.
        intrinsic: (3, 3) pinhole matrix in pixels of the 1600 x 900 image.
        delay_us: exposure time minus lidar time, microseconds.
    """

    channel: str
    translation: np.ndarray
    rotation: np.ndarray
    intrinsic: np.ndarray
    delay_us: int


def make_cameras(location: str, seed: int) -> dict[str, Camera]:
    """The camera rig of the vehicle that recorded in ``location``: as in nuScenes, no two are mounted alike."""
    rng = np.random.default_rng([seed, LOCATIONS.index(location), 7])
    rig = {}
    for channel, (yaw, x, y, z, focal, cx, cy, delay) in _MOUNTS.items():
        # Real rigs differ by about half a degree and a centimetre.
        turn = Quaternion(axis=[0, 0, 1], degrees=yaw + rng.uniform(-0.5, 0.5))
        tilt = Quaternion(axis=[0, 1, 0], degrees=rng.uniform(-0.4, 0.4))
        roll = Quaternion(axis=[1, 0, 0], degrees=rng.uniform(-0.3, 0.3))
        optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # camera axes seen from a forward ego
        rotation = (turn * tilt * roll).rotation_matrix @ optical
        shift = rng.uniform(-0.01, 0.01, 3)
        stretch = rng.uniform(0.997, 1.003)
        intrinsic = np.array([[focal * stretch, 0.0, cx], [0.0, focal * stretch, cy], [0.0, 0.0, 1.0]])
        rig[channel] = Camera(channel, np.array([x, y, z]) + shift, rotation, intrinsic, delay)
    return rig


def scene_names(count: int) -> list[str]:
    """The first ``count`` official mini scenes, at least one of each split, in the order of their numbers.

    Raises:
        ValueError: unless 2 <= count <= 10.
    """
    total = len(MINI_TRAIN) + len(MINI_VAL)
    if not 2 <= count <= total:
        raise ValueError(
            f'--scenes {count}: allowed are 2 to {total} (the official v1.0-mini has {len(MINI_TRAIN)} train and '
            f'{len(MINI_VAL)} val scenes, and each split needs at least one)'
        )
    val = max(1, count - len(MINI_TRAIN))
    return sorted(MINI_TRAIN[: count - val] + MINI_VAL[:val])


def token(*parts: object) -> str:
    """A 32-digit hexadecimal token that depends on nothing but ``parts``."""
    return hashlib.md5('/'.join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
