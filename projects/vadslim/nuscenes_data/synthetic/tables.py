"""The 13 tables of the nuScenes schema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyquaternion import Quaternion

from .catalogue import (
    ATTRIBUTES,
    CAMERAS,
    CATEGORIES,
    CHANNELS,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LIDAR_TRANSLATION,
    VISIBILITY,
    Camera,
    token,
)
from .population import SAMPLE_PERIOD, Scene

Record = dict[str, object]
Tables = dict[str, list[Record]]
RANGE = 55.0  # annotations reach this far from the ego, metres
_SWEEP_DELAY = 0.25  # one lidar sweep between two keyframes, seconds after the first of them


@dataclass(frozen=True)
class Recording:
    """When and where a scene was recorded.

    Attributes:
        start_us: Unix time of the first sample, microseconds.
        logfile, vehicle, date: fields of the log table.
    """

    start_us: int
    logfile: str
    vehicle: str
    date: str


def recording(scene: Scene) -> Recording:
    """A made-up log with nuScenes' naming scheme, one per scene."""
    number = int(scene.name[-4:])
    boston = scene.script.location.startswith('boston')
    vehicle, zone = ('n008', '-0400') if boston else ('n015', '+0800')
    day, hour = 1 + number % 28, 8 + number % 9
    start = 1_533_081_600 + 86_400 * (day - 1) + 3_600 * hour + number  # August 2018
    name = f'{vehicle}-2018-08-{day:02d}-{hour:02d}-{number // 60 % 60:02d}-{number % 60:02d}{zone}'
    return Recording(start * 1_000_000, name, vehicle, f'2018-08-{day:02d}')


@dataclass(frozen=True)
class Shot:
    """One sensor reading of a scene.

    Attributes:
        sample: the keyframe it belongs to (a sweep belongs to the one that follows).
        time: seconds after the first sample.
    """

    channel: str
    sample: int
    time: float
    key_frame: bool

    def token(self, scene: Scene) -> str:
        """Token of its sample_data record."""
        return token(scene.name, self.channel, self.sample, self.key_frame)

    def filename(self, scene: Scene) -> str:
        """Path relative to the dataset root, as nuScenes names its files."""
        log = recording(scene)
        stamp = log.start_us + round(self.time * 1e6)
        folder, ending = (
            ('samples' if self.key_frame else 'sweeps'),
            ('jpg' if self.channel in CAMERAS else 'pcd.bin'),
        )
        return f'{folder}/{self.channel}/{log.logfile}__{self.channel}__{stamp}.{ending}'


def shots(scene: Scene, rig: dict[str, Camera], sample: int | None = None) -> list[Shot]:
    """The sensor readings of a scene, or of one of its samples, per channel in order of time."""
    result = []
    for channel in CHANNELS:
        for k in range(scene.samples) if sample is None else [sample]:
            time = k * SAMPLE_PERIOD
            if channel in rig:
                result.append(Shot(channel, k, time + rig[channel].delay_us / 1e6, True))
                continue
            if k:
                result.append(Shot(channel, k, time - SAMPLE_PERIOD + _SWEEP_DELAY, False))
            result.append(Shot(channel, k, time, True))
    return result


def yaw_quaternion(yaw: float) -> list[float]:
    """w, x, y, z of a turn about the vertical axis."""
    return [round(float(np.cos(yaw / 2)), 9), 0.0, 0.0, round(float(np.sin(yaw / 2)), 9)]


def constant_tables() -> Tables:
    """Tables that do not depend on the scenes."""
    return {
        'attribute': [
            {'token': token('attribute', name), 'name': name, 'description': text} for name, text in ATTRIBUTES.items()
        ],
        'category': [
            {
                'token': token('category', name),
                'name': name,
                'description': f'Synthetic {name.split(".")[-1]}.',
            }
            for name in CATEGORIES
        ],
        'visibility': [
            {
                'token': key,
                'level': level,
                'description': f'visibility of whole object is between {level[1:].replace("-", " and ")}%',
            }
            for key, (level, _) in VISIBILITY.items()
        ],
        'sensor': [
            {
                'token': token('sensor', name),
                'channel': name,
                'modality': 'camera' if name in CAMERAS else 'lidar',
            }
            for name in CHANNELS
        ],
    }


def map_table(scenes: list[Scene]) -> list[Record]:
    """One map mask per location, with the logs recorded there."""
    rows = []
    for location in sorted({scene.script.location for scene in scenes}):
        logs = [token('log', scene.name) for scene in scenes if scene.script.location == location]
        rows.append(
            {
                'category': 'semantic_prior',
                'token': token('map', location),
                'filename': f'maps/{token("map", location)}.png',
                'log_tokens': logs,
            }
        )
    return rows


def scene_tables(scene: Scene, rig: dict[str, Camera], seen: list[list[tuple[int, float]]]) -> Tables:
    """Rows of all other tables for one scene.

    Args:
        seen: per sample and actor the number of lidar points in its box and the visible share.
    """
    log = recording(scene)
    tables: Tables = {
        'log': [
            {
                'token': token('log', scene.name),
                'logfile': log.logfile,
                'vehicle': log.vehicle,
                'date_captured': log.date,
                'location': scene.script.location,
            }
        ],
        'scene': [
            {
                'token': token('scene', scene.name),
                'log_token': token('log', scene.name),
                'nbr_samples': scene.samples,
                'first_sample_token': _sample(scene, 0),
                'last_sample_token': _sample(scene, scene.samples - 1),
                'name': scene.name,
                'description': scene.script.description,
            }
        ],
        'calibrated_sensor': _calibrated_sensors(scene, rig),
        'sample': [
            {
                'token': _sample(scene, k),
                'timestamp': log.start_us + round(k * SAMPLE_PERIOD * 1e6),
                'prev': _sample(scene, k - 1),
                'next': _sample(scene, k + 1),
                'scene_token': token('scene', scene.name),
            }
            for k in range(scene.samples)
        ],
    }
    tables['sample_data'], tables['ego_pose'] = _sensor_rows(scene, rig, log)
    tables['sample_annotation'], tables['instance'] = _annotations(scene, seen)
    return tables


def _sample(scene: Scene, k: int) -> str:
    return token(scene.name, 'sample', k) if 0 <= k < scene.samples else ''


def _calibrated_sensors(scene: Scene, rig: dict[str, Camera]) -> list[Record]:
    rows = []
    for channel in CHANNELS:
        if channel in rig:
            camera = rig[channel]
            translation = camera.translation.tolist()
            rotation = Quaternion(matrix=camera.rotation).elements.tolist()
            intrinsic = camera.intrinsic.tolist()
        else:
            translation, rotation, intrinsic = list(LIDAR_TRANSLATION), yaw_quaternion(-np.pi / 2), []
        rows.append(
            {
                'token': token('calibrated_sensor', scene.name, channel),
                'sensor_token': token('sensor', channel),
                'translation': translation,
                'rotation': rotation,
                'camera_intrinsic': intrinsic,
            }
        )
    return rows


def _sensor_rows(scene: Scene, rig: dict[str, Camera], log: Recording) -> tuple[list[Record], list[Record]]:
    data, poses = [], []
    previous: dict[str, Record] = {}
    for shot in shots(scene, rig):
        key, stamp = shot.token(scene), log.start_us + round(shot.time * 1e6)
        camera = shot.channel in rig
        before = previous.get(shot.channel)
        row: Record = {
            'token': key,
            'sample_token': _sample(scene, shot.sample),
            'ego_pose_token': key,
            'calibrated_sensor_token': token('calibrated_sensor', scene.name, shot.channel),
            'timestamp': stamp,
            'fileformat': 'jpg' if camera else 'pcd',
            'is_key_frame': shot.key_frame,
            'height': IMAGE_HEIGHT if camera else 0,
            'width': IMAGE_WIDTH if camera else 0,
            'filename': shot.filename(scene),
            'prev': before['token'] if before else '',
            'next': '',
        }
        if before:
            before['next'] = key
        previous[shot.channel] = row
        data.append(row)
        x, y, yaw = scene.drive.pose(shot.time)
        poses.append(
            {
                'token': key,
                'timestamp': stamp,
                'rotation': yaw_quaternion(yaw),
                'translation': [round(x, 6), round(y, 6), 0.0],
            }
        )
    return data, poses


def _annotations(scene: Scene, seen: list[list[tuple[int, float]]]) -> tuple[list[Record], list[Record]]:
    annotations, instances = [], []
    times = np.arange(scene.samples) * SAMPLE_PERIOD
    ego = np.array([scene.drive.pose(time)[:2] for time in times])
    for index, actor in enumerate(scene.actors):
        states = np.array([scene.state(actor, time) for time in times])
        near = np.flatnonzero(np.hypot(*(states[:, :2] - ego).T) < RANGE)
        if not len(near) or not any(seen[k][index][0] for k in near):
            continue
        first, last = int(near[0]), int(near[-1])

        def key(k: int, name: str = actor.name, first: int = first, last: int = last) -> str:
            return token(scene.name, 'annotation', name, k) if first <= k <= last else ''

        instance = token(scene.name, 'instance', actor.name)
        for k in range(first, last + 1):
            points, share = seen[k][index]
            x, y, yaw, speed = states[k]
            attribute = actor.attributes[0 if speed > 0.15 else 1]
            visibility = next(level for level, (_, limit) in VISIBILITY.items() if share < limit)
            annotations.append(
                {
                    'token': key(k),
                    'sample_token': _sample(scene, k),
                    'instance_token': instance,
                    'visibility_token': visibility,
                    'attribute_tokens': [token('attribute', attribute)] if attribute else [],
                    'translation': [round(float(x), 3), round(float(y), 3), round(actor.size[2] / 2, 3)],
                    'size': list(actor.size),
                    'rotation': yaw_quaternion(yaw),
                    'prev': key(k - 1),
                    'next': key(k + 1),
                    'num_lidar_pts': int(points),
                    'num_radar_pts': 0,
                }
            )
        instances.append(
            {
                'token': instance,
                'category_token': token('category', actor.category),
                'nbr_annotations': last - first + 1,
                'first_annotation_token': key(first),
                'last_annotation_token': key(last),
            }
        )
    return annotations, instances
