"""nuScenes tables -> VAD's info files, with the field names and formulas of the published ones.

An info file is ``dict(infos=[...], metadata=dict(version=...))``: one dict per key frame, scene by scene.
Everything is computed on arrays, scene by scene, in one pass.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vadslim.cli import UserError
from vadslim.files import atomic_write
from vadslim.nuscenes_data import geometry
from vadslim.nuscenes_data.agents import AnnotationTable
from vadslim.nuscenes_data.ego import CanBus, SceneEgo
from vadslim.nuscenes_data.vector_map import check_maps

if TYPE_CHECKING:
    from nuscenes import NuScenes

CAMERAS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')
VERSIONS = ('v1.0-trainval', 'v1.0-test', 'v1.0-mini')
TABLES = (
    'category', 'attribute', 'visibility', 'instance', 'sensor', 'calibrated_sensor', 'ego_pose', 'log', 'scene',
    'sample', 'sample_data', 'sample_annotation', 'map',
)  # fmt: skip
Track = Callable[[Iterable[Any]], Iterable[Any]]


def convert(
    root: str | Path,
    out_dir: str | Path,
    can_bus: str | Path,
    version: str,
    tag: str = 'vad_nuscenes',
    max_sweeps: int = 10,
    track: Track = iter,
    say: Callable[[str], None] = lambda line: None,
) -> list[tuple[Path, int]]:
    """Write ``{tag}_infos_temporal_{train,val}.pkl``, or ``..._test.pkl`` for the test set: all or none of them.

    Args:
        root: the nuScenes folder, with ``samples``, ``maps`` and ``{version}``.
        out_dir: where the files go; made if needed.
        can_bus: the folder that holds ``can_bus``, or that folder itself.
        version: one of VERSIONS.
        tag: first part of the file names.
        max_sweeps: LiDAR sweeps listed per key frame (not needed by VAD itself).
        track: wraps the iteration over scenes, for a progress bar.
        say: gets one line per cause for what is left out or filled in.

    Returns:
        (path, number of frames) per written file.

    Raises:
        UserError: a folder, file or table is missing or damaged, or the files cannot be written.
    """
    can_bus = check_inputs(root, can_bus, version)
    _check_writable(Path(out_dir))
    nusc = open_tables(root, version)
    splits = _scene_splits(version)
    has_labels = version != 'v1.0-test'
    listed = [s for s in _in_table_order(nusc) if any(s['name'] in names for names in splits.values())]
    scenes = [s for s in listed if _is_unpacked(nusc, s)]
    if not scenes:
        raise UserError(f'{root}: no camera images of any scene of {version}; unpack the sensor blobs there')
    if len(scenes) < len(listed):
        missing = [s['name'] for s in listed if s not in scenes]
        say(f'{_some(missing, len(listed))}: no camera images in {root}; left out')
    locations = {_location(nusc, scene) for scene in scenes}
    if has_labels:
        check_maps(root, locations)
    table = AnnotationTable(nusc) if has_labels else None
    infos: dict[str, list[dict]] = {split: [] for split in splits}
    gaps: dict[str, list[str]] = {}
    any_can_bus = False
    for scene in track(scenes):
        split = next(split for split, names in splits.items() if scene['name'] in names)
        messages = CanBus(can_bus, scene['name'], _location(nusc, scene).startswith('singapore'))
        any_can_bus |= bool(messages)
        if messages.gap:
            gaps.setdefault(messages.gap, []).append(scene['name'])
        try:
            infos[split] += list(scene_infos(nusc, scene, messages, table, max_sweeps))
        except KeyError as error:  # the devkit looked up a token
            place = f'{root}/{version}: no record {error}, which {scene["name"]} needs'
            raise UserError(f'{place}; unpack the tables of nuScenes again') from error
    if not any_can_bus:
        raise UserError(f'{can_bus}: no CAN bus messages of any scene of {version}')
    for gap, names in gaps.items():
        say(f'{_some(names, len(scenes))}: {gap}')
    files = {Path(out_dir) / f'{tag}_infos_temporal_{split}.pkl': frames for split, frames in infos.items()}
    earlier = [path for path in files if path.exists()]
    _write(files, version)
    for path in earlier:
        say(f'{path}: the earlier file was replaced')
    return [(path, len(frames)) for path, frames in files.items()]


def _some(names: list[str], total: int) -> str:
    """'3 of 10 scenes (a, b, c)', with the first names only if there are many."""
    shown = ', '.join(names[:5]) + (' ...' if len(names) > 5 else '')
    return f'{len(names)} of {total} scenes ({shown})'


def _write(files: dict[Path, list[dict]], version: str) -> None:
    """All files get their names after all of them are on the disk."""
    path = next(iter(files))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for path, frames in reversed(files.items()):  # the stack puts them in place the other way round
                stream = stack.enter_context(atomic_write(path, 'wb'))
                pickle.dump({'infos': frames, 'metadata': {'version': version}}, stream, protocol=4)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from None


def _check_writable(folder: Path) -> None:
    """Say before the work what would fail after it."""
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise UserError(f'{folder}: cannot be created: {place} is not a folder')
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f'{folder}: cannot be written: no permission')


def check_inputs(root: str | Path, can_bus: str | Path, version: str) -> Path:
    """Look for the folders a conversion needs and return the CAN bus folder."""
    if version not in VERSIONS:
        raise UserError(f'version: {version} is unknown, allowed are {", ".join(VERSIONS)}')
    if not Path(root).is_dir():
        raise UserError(f'{root}: no such folder')
    if not (Path(root) / version).is_dir():
        present = sorted(p.name for p in Path(root).glob('v1.0-*')) or ['none']
        raise UserError(f'{root}: no tables of {version} there (found: {", ".join(present)})')
    folder = Path(can_bus)
    if folder.name != 'can_bus':
        folder = folder / 'can_bus'
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder; unpack the CAN bus expansion of nuScenes there')
    return folder


def open_tables(root: str | Path, version: str) -> NuScenes:
    """The devkit's reader; what it finds wrong becomes one clear error."""
    from nuscenes import NuScenes

    folder = Path(root) / version
    try:
        return NuScenes(version=version, dataroot=str(root), verbose=False)
    except Exception as error:  # damaged tables can raise anything
        for name in TABLES:
            _check_table(folder / f'{name}.json')
        said = str(error) if isinstance(error, AssertionError) else f'{type(error).__name__}: {error}'
        raise UserError(f'{folder}: the tables cannot be used ({said})') from error


def _check_table(file: Path) -> None:
    try:
        json.loads(file.read_text())
    except OSError as error:
        raise UserError(f'{file}: cannot be read: {error.strerror}; unpack the tables of nuScenes again') from None
    except ValueError as error:
        raise UserError(f'{file}: is truncated or damaged ({error}); unpack the tables of nuScenes again') from None


def scene_infos(
    nusc: NuScenes, scene: dict, messages: CanBus, table: AnnotationTable | None, max_sweeps: int
) -> Iterator[dict]:
    """The infos of one scene's key frames, in order.

    Args:
        nusc: the tables.
        scene: record of the scene.
        messages: its CAN bus messages.
        table: annotations; None for sets without labels.
        max_sweeps: LiDAR sweeps listed per key frame.
    """
    samples = list(_chain(nusc, 'sample', scene['first_sample_token']))
    lidars = [nusc.get('sample_data', sample['data']['LIDAR_TOP']) for sample in samples]
    poses = [nusc.get('ego_pose', lidar['ego_pose_token']) for lidar in lidars]
    mounts = [nusc.get('calibrated_sensor', lidar['calibrated_sensor_token']) for lidar in lidars]
    ego = SceneEgo(
        ego_translation=np.array([p['translation'] for p in poses]),
        ego_rotation=np.array([p['rotation'] for p in poses]),
        lidar_translation=np.array([m['translation'] for m in mounts]),
        lidar_rotation=np.array([m['rotation'] for m in mounts]),
    )
    for i, (sample, lidar, pose, mount) in enumerate(zip(samples, lidars, poses, mounts)):
        lidar2global = ego.lidar2global[i]
        can_bus = messages.vector(sample['timestamp'])
        info = {
            'lidar_path': nusc.get_sample_data_path(lidar['token']),
            'token': sample['token'],
            'prev': sample['prev'],
            'next': sample['next'],
            'can_bus': can_bus,
            'frame_idx': i,
            'sweeps': _sweeps(nusc, lidar, lidar2global, max_sweeps),
            'cams': {camera: _camera(nusc, sample['data'][camera], camera, lidar2global) for camera in CAMERAS},
            'scene_token': sample['scene_token'],
            'lidar2ego_translation': mount['translation'],
            'lidar2ego_rotation': mount['rotation'],
            'ego2global_translation': pose['translation'],
            'ego2global_rotation': pose['rotation'],
            'timestamp': sample['timestamp'],
            'fut_valid_flag': ego.future_is_valid(i),
            'map_location': _location(nusc, scene),
        }
        if table is not None:
            rotation = geometry.quaternion_product(pose['rotation'], mount['rotation'])
            info |= table.fields(table.of_sample(sample['token']), lidar2global, rotation)
            info |= ego.trajectory(i)
            info['gt_ego_lcf_feat'] = ego.status(i, can_bus, messages.motion(sample['timestamp']))
        yield info


def _camera(nusc: NuScenes, token: str, camera: str, lidar2global: np.ndarray) -> dict:
    record = nusc.get('sample_data', token)
    path = Path(nusc.get_sample_data_path(token))
    if not path.is_file():
        raise UserError(f'{path}: no such image; unpack the sensor blobs of nuScenes again')
    mount = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
    info = _sensor(nusc, record, camera, lidar2global)
    return info | {'cam_intrinsic': np.array(mount['camera_intrinsic'])}


def _sweeps(nusc: NuScenes, lidar: dict, lidar2global: np.ndarray, max_sweeps: int) -> list[dict]:
    """Up to ``max_sweeps`` LiDAR sweeps before a key frame, the latest first."""
    sweeps = []
    while lidar['prev'] and len(sweeps) < max_sweeps:
        lidar = nusc.get('sample_data', lidar['prev'])
        sweeps.append(_sensor(nusc, lidar, 'lidar', lidar2global))
    return sweeps


def _sensor(nusc: NuScenes, record: dict, sensor_type: str, lidar2global: np.ndarray) -> dict:
    """A sensor reading and where the sensor was, seen from the key frame's LiDAR: p_lidar = R p_sensor +
    t.
    """
    mount = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
    pose = nusc.get('ego_pose', record['ego_pose_token'])
    sensor2global = geometry.rigid(pose['rotation'], pose['translation']) @ geometry.rigid(
        mount['rotation'], mount['translation']
    )
    sensor2lidar = geometry.rigid_inverse(lidar2global) @ sensor2global
    return {
        'data_path': nusc.get_sample_data_path(record['token']),
        'type': sensor_type,
        'sample_data_token': record['token'],
        'sensor2ego_translation': mount['translation'],
        'sensor2ego_rotation': mount['rotation'],
        'ego2global_translation': pose['translation'],
        'ego2global_rotation': pose['rotation'],
        'timestamp': record['timestamp'],
        'sensor2lidar_rotation': sensor2lidar[:3, :3],
        'sensor2lidar_translation': sensor2lidar[:3, 3],
    }


def _scene_splits(version: str) -> dict[str, frozenset[str]]:
    from nuscenes.utils import splits

    if version == 'v1.0-test':
        return {'test': frozenset(splits.test)}
    if version == 'v1.0-mini':
        return {'train': frozenset(splits.mini_train), 'val': frozenset(splits.mini_val)}
    return {'train': frozenset(splits.train), 'val': frozenset(splits.val)}


def _in_table_order(nusc: NuScenes) -> list[dict]:
    """Scenes in the order in which their key frames stand in the sample table."""
    tokens = dict.fromkeys(sample['scene_token'] for sample in nusc.sample)
    return [nusc.get('scene', token) for token in tokens]


def _chain(nusc: NuScenes, table: str, token: str) -> Iterator[dict]:
    while token:
        record = nusc.get(table, token)
        yield record
        token = record['next']


def _is_unpacked(nusc: NuScenes, scene: dict) -> bool:
    """Partial downloads hold some scenes only; VAD needs the cameras."""
    first = nusc.get('sample', scene['first_sample_token'])
    return Path(nusc.get_sample_data_path(first['data'][CAMERAS[0]])).is_file()


def _location(nusc: NuScenes, scene: dict) -> str:
    return nusc.get('log', scene['log_token'])['location']
