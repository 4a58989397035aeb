"""The key frames of one nuScenes scene -> the records of VAD's info files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vadslim.cli import UserError
from vadslim.nuscenes_data import geometry, tables
from vadslim.nuscenes_data.agents import AnnotationTable
from vadslim.nuscenes_data.ego import CanBus, SceneEgo

if TYPE_CHECKING:
    from nuscenes import NuScenes

CAMERAS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')
LIDAR = 'LIDAR_TOP'
JPEG_TAIL = 4096  # bytes in which the end-of-image marker has to be


def scene_infos(
    nusc: NuScenes, scene: dict, messages: CanBus, annotations: AnnotationTable | None, max_sweeps: int
) -> Iterator[dict]:
    """The infos of one scene's key frames, in order.

    Args:
        nusc: the tables.
        scene: record of the scene.
        messages: its CAN bus messages.
        annotations: of all scenes; None for sets without labels.
        max_sweeps: LiDAR sweeps listed per key frame.

    Raises:
        UserError: names the record or file that is missing or damaged, and what to do.
    """
    samples = _key_frames(nusc, scene)
    lidars = [_reading(nusc, sample, LIDAR) for sample in samples]
    poses = [tables.pose(nusc, 'ego_pose', lidar['ego_pose_token']) for lidar in lidars]
    mounts = [tables.pose(nusc, 'calibrated_sensor', lidar['calibrated_sensor_token']) for lidar in lidars]
    ego = SceneEgo(
        ego_translation=np.array([p['translation'] for p in poses]),
        ego_rotation=np.array([p['rotation'] for p in poses]),
        lidar_translation=np.array([m['translation'] for m in mounts]),
        lidar_rotation=np.array([m['rotation'] for m in mounts]),
    )
    where = location(nusc, scene)
    for i, (sample, lidar, pose, mount) in enumerate(zip(samples, lidars, poses, mounts)):
        lidar2global = ego.lidar2global[i]
        can_bus = messages.vector(sample['timestamp'])
        sweeps = list(islice(_before(nusc, lidar), max_sweeps))
        cameras = [_reading(nusc, sample, camera) for camera in CAMERAS]
        sensors = _sensors(nusc, [*cameras, *sweeps], [*CAMERAS, *['lidar'] * len(sweeps)], lidar2global)
        info = {
            'lidar_path': _path(nusc, lidar),
            'token': sample['token'],
            'prev': sample['prev'],
            'next': sample['next'],
            'can_bus': can_bus,
            'frame_idx': i,
            'sweeps': sensors[len(CAMERAS) :],
            'cams': {camera: s | _intrinsic(nusc, r) for camera, s, r in zip(CAMERAS, sensors, cameras)},
            'scene_token': sample['scene_token'],
            'lidar2ego_translation': mount['translation'],
            'lidar2ego_rotation': mount['rotation'],
            'ego2global_translation': pose['translation'],
            'ego2global_rotation': pose['rotation'],
            'timestamp': sample['timestamp'],
            'fut_valid_flag': ego.future_is_valid(i),
            'map_location': where,
        }
        for camera in info['cams'].values():
            _check_image(Path(camera['data_path']))
        if annotations is not None:
            rotation = geometry.quaternion_product(pose['rotation'], mount['rotation'])
            info |= annotations.fields(annotations.of_sample(sample['token']), lidar2global, rotation)
            info |= ego.trajectory(i)
            info['gt_ego_lcf_feat'] = ego.status(i, can_bus, messages.motion(sample['timestamp']))
        yield info


def location(nusc: NuScenes, scene: dict) -> str:
    """Name of the map that a scene was recorded on."""
    return tables.get(nusc, 'log', scene['log_token'])['location']


def is_unpacked(nusc: NuScenes, scene: dict) -> bool:
    """Partial downloads hold some scenes only; VAD needs the cameras. A scene that cannot be told counts as there."""
    try:
        first = tables.get(nusc, 'sample', scene['first_sample_token'])
        return Path(_path(nusc, _reading(nusc, first, CAMERAS[0]))).exists()
    except UserError:
        return True


def _key_frames(nusc: NuScenes, scene: dict) -> list[dict]:
    samples = list(tables.chain(nusc, 'sample', scene['first_sample_token']))
    for before, after in pairwise(samples):
        if after['timestamp'] <= before['timestamp'] or after['scene_token'] != scene['token']:
            raise UserError(
                f'sample.json: {after["token"]} does not follow {before["token"]} in time and scene; {tables.AGAIN}'
            )
    if samples[-1]['token'] != scene['last_sample_token']:
        raise UserError(f'sample.json: its key frames do not end with {scene["last_sample_token"]}; {tables.AGAIN}')
    return samples


def _reading(nusc: NuScenes, sample: dict, channel: str) -> dict:
    token = sample['data'].get(channel)
    if token is None:
        raise UserError(f'sample_data.json has no {channel} of sample {sample["token"]}; {tables.AGAIN}')
    return tables.get(nusc, 'sample_data', token)


def _before(nusc: NuScenes, reading: dict) -> Iterator[dict]:
    """The readings of a sensor before one, the latest first."""
    while reading['prev']:
        reading = tables.get(nusc, 'sample_data', reading['prev'])
        yield reading


def _path(nusc: NuScenes, reading: dict) -> str:
    return str(Path(nusc.dataroot, reading['filename']))


def _check_image(path: Path) -> None:
    """A file that is there and, if it is a JPEG, has its end: OpenCV fills what is cut off with grey."""
    again = 'unpack the sensor blobs of nuScenes again'
    try:
        with path.open('rb') as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - JPEG_TAIL, 0))
            tail = file.read()
    except OSError as error:
        raise UserError(f'{path}: no such image ({error.strerror}); {again}') from None
    if not size or (path.suffix.lower() in ('.jpg', '.jpeg') and b'\xff\xd9' not in tail):
        raise UserError(f'{path}: is truncated ({size} bytes); {again}')


def _intrinsic(nusc: NuScenes, reading: dict) -> dict:
    token = reading['calibrated_sensor_token']
    rows = tables.get(nusc, 'calibrated_sensor', token).get('camera_intrinsic')
    if not isinstance(rows, list) or len(rows) != 3 or not all(tables.are_numbers(row, 3) for row in rows):
        where = f'calibrated_sensor.json: camera_intrinsic of record {token}'
        raise UserError(f'{where} is {rows}, not 3 x 3 finite numbers; {tables.AGAIN}')
    return {'cam_intrinsic': np.array(rows, dtype=float)}


def _sensors(nusc: NuScenes, readings: Sequence[dict], kinds: Sequence[str], lidar2global: np.ndarray) -> list[dict]:
    """Sensor readings and where their sensors were, seen from the key frame's LiDAR: p_lidar = R p_sensor + t."""
    poses = [tables.pose(nusc, 'ego_pose', reading['ego_pose_token']) for reading in readings]
    mounts = [tables.pose(nusc, 'calibrated_sensor', reading['calibrated_sensor_token']) for reading in readings]
    ego2global, sensor2ego = (
        geometry.rigid([r['rotation'] for r in records], [r['translation'] for r in records])
        for records in (poses, mounts)
    )
    sensor2lidar = geometry.rigid_inverse(lidar2global) @ ego2global @ sensor2ego
    return [
        {
            'data_path': _path(nusc, reading),
            'type': kind,
            'sample_data_token': reading['token'],
            'sensor2ego_translation': mount['translation'],
            'sensor2ego_rotation': mount['rotation'],
            'ego2global_translation': pose['translation'],
            'ego2global_rotation': pose['rotation'],
            'timestamp': reading['timestamp'],
            'sensor2lidar_rotation': matrix[:3, :3].copy(),
            'sensor2lidar_translation': matrix[:3, 3].copy(),
        }
        for reading, kind, pose, mount, matrix in zip(readings, kinds, poses, mounts, sensor2lidar)
    ]
