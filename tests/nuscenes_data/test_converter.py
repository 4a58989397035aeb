"""Info files against what the nuScenes devkit computes from the same tables, and the errors of the command."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from linked_sets import rewrite
from nuscenes import NuScenes
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.map_expansion.map_api import NuScenesMap
from nuscenes.utils import splits
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import transform_matrix, view_points
from pyquaternion import Quaternion

from vadslim.checkpoint import load_info
from vadslim.cli import UserError
from vadslim.nuscenes_data import converter
from vadslim.nuscenes_data.ego import CanBus
from vadslim.nuscenes_data.vector_map import LINE_LAYERS, POLYGON_LAYERS, LocationMap, expansion_file
from vadslim.vad import boxes as box_numbers
from vadslim.vad.datasets import infos

TOOL = Path(__file__).parents[2] / 'tools' / 'create_data.py'
VERSION = 'v1.0-mini'
FUTURE = 6
FILES = {f'vad_nuscenes_infos_temporal_{split}.pkl' for split in ('train', 'val')}


@pytest.fixture(scope='module')
def nusc(synthetic_root) -> NuScenes:
    return NuScenes(VERSION, str(synthetic_root), verbose=False)


@pytest.fixture(scope='module')
def frames_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('infos') / 'new'


@pytest.fixture(scope='module')
def frames(synthetic_root, frames_dir) -> dict[str, list[dict]]:
    written = converter.convert(synthetic_root, frames_dir, synthetic_root, VERSION)
    assert [path.name for path, _ in written] == [
        'vad_nuscenes_infos_temporal_train.pkl',
        'vad_nuscenes_infos_temporal_val.pkl',
    ]
    result = {}
    for path, count in written:
        content = load_info(path)
        assert content['metadata'] == {'version': VERSION}
        assert len(content['infos']) == count > 0
        result[path.stem.rsplit('_', 1)[1]] = content['infos']
    return result


@pytest.fixture(scope='module')
def picked(frames) -> list[dict]:
    """First, last and some inner frames."""
    train = frames['train']
    return [train[0], train[1], train[len(train) // 2], train[-1], frames['val'][3]]


def lidar_frame(nusc: NuScenes, sample: dict) -> tuple[np.ndarray, np.ndarray]:
    """(4, 4) lidar <- global, and the pose's inverse."""
    data = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
    pose = nusc.get('ego_pose', data['ego_pose_token'])
    mount = nusc.get('calibrated_sensor', data['calibrated_sensor_token'])
    matrices = [transform_matrix(r['translation'], Quaternion(r['rotation'])) for r in (pose, mount)]
    lidar2global = matrices[0] @ matrices[1]
    return np.linalg.inv(lidar2global), lidar2global


def test_every_published_field_is_there(frames):
    fields = {
        'lidar_path', 'token', 'prev', 'next', 'can_bus', 'frame_idx', 'sweeps', 'cams', 'scene_token',
        'lidar2ego_translation', 'lidar2ego_rotation', 'ego2global_translation', 'ego2global_rotation', 'timestamp',
        'fut_valid_flag', 'map_location', 'gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts', 'num_radar_pts',
        'valid_flag', 'gt_agent_fut_trajs', 'gt_agent_fut_masks', 'gt_agent_lcf_feat', 'gt_agent_fut_yaw',
        'gt_agent_fut_goal', 'gt_ego_his_trajs', 'gt_ego_fut_trajs', 'gt_ego_fut_masks', 'gt_ego_fut_cmd',
        'gt_ego_lcf_feat',
    }  # fmt: skip
    cameras = {
        'data_path', 'type', 'sample_data_token', 'sensor2ego_translation', 'sensor2ego_rotation',
        'ego2global_translation', 'ego2global_rotation', 'timestamp', 'sensor2lidar_rotation',
        'sensor2lidar_translation', 'cam_intrinsic',
    }  # fmt: skip
    for info in frames['train'] + frames['val']:
        assert set(info) == fields
        assert tuple(info['cams']) == converter.CAMERAS
        assert all(set(camera) == cameras for camera in info['cams'].values())


def test_splits_and_order(nusc, frames):
    for split, names in (('train', splits.mini_train), ('val', splits.mini_val)):
        scenes = [nusc.get('scene', info['scene_token']) for info in frames[split]]
        assert {scene['name'] for scene in scenes} == {s['name'] for s in nusc.scene} & set(names)
        for info, after in zip(frames[split], frames[split][1:]):
            if info['scene_token'] == after['scene_token']:
                assert (info['next'], after['prev']) == (after['token'], info['token'])
                assert after['frame_idx'] == info['frame_idx'] + 1
            else:
                assert (info['next'], after['frame_idx']) == ('', 0)
    assert sum(map(len, frames.values())) == len(nusc.sample)


def test_boxes_are_the_devkits(nusc, picked):
    for info in picked:
        sample = nusc.get('sample', info['token'])
        _, expected, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
        ours = box_numbers.to_nuscenes_boxes(box_numbers.bottom_centered(info['gt_boxes']))
        assert len(ours) == len(expected) > 0
        to_lidar, _ = lidar_frame(nusc, sample)
        for i, (mine, box) in enumerate(zip(ours, expected)):
            np.testing.assert_allclose(mine.corners(), box.corners(), atol=1e-6)
            velocity = to_lidar[:3, :3] @ np.append(nusc.box_velocity(box.token)[:2], 0.0)
            np.testing.assert_allclose(info['gt_velocity'][i], velocity[:2], atol=1e-6)
        points = [nusc.get('sample_annotation', box.token)['num_lidar_pts'] for box in expected]
        assert info['num_lidar_pts'].tolist() == points


def test_agents_futures_follow_the_annotations(nusc, picked):
    for info in picked:
        sample = nusc.get('sample', info['token'])
        to_lidar, _ = lidar_frame(nusc, sample)
        turn = Quaternion(matrix=to_lidar[:3, :3], rtol=1e-4, atol=1e-4)
        for i, token in enumerate(sample['anns']):
            annotation = nusc.get('sample_annotation', token)
            places, headings = [], []
            while annotation is not None and len(places) <= FUTURE:
                box = Box(annotation['translation'], annotation['size'], Quaternion(annotation['rotation']))
                places.append((to_lidar @ [*box.center, 1])[:2])
                headings.append((turn * box.orientation).rotation_matrix[:2, 0])
                annotation = nusc.get('sample_annotation', annotation['next']) if annotation['next'] else None
            steps = np.diff(places, axis=0)
            given = info['gt_agent_fut_trajs'][i].reshape(FUTURE, 2)
            np.testing.assert_allclose(given[: len(steps)], steps.reshape(-1, 2), atol=1e-4)
            assert (given[len(steps) :] == 0).all()
            assert info['gt_agent_fut_masks'][i].tolist() == [1] * len(steps) + [0] * (FUTURE - len(steps))
            turned = np.unwrap(np.arctan2(*np.array(headings).T[::-1]))
            difference = np.diff(turned) - info['gt_agent_fut_yaw'][i, : len(steps)]
            np.testing.assert_allclose(np.cos(difference), 1, atol=1e-6)


def test_ego_track_follows_the_poses(nusc, picked):
    for info in picked:
        sample = nusc.get('sample', info['token'])
        to_lidar, _ = lidar_frame(nusc, sample)

        def place(record, to_lidar=to_lidar):
            _, lidar2global = lidar_frame(nusc, record)
            return (to_lidar @ lidar2global[:, 3])[:2]

        future, record = [place(sample)], sample
        while record['next'] and len(future) <= FUTURE:
            record = nusc.get('sample', record['next'])
            future.append(place(record))
        steps = np.diff(future, axis=0).reshape(-1, 2)
        np.testing.assert_allclose(info['gt_ego_fut_trajs'][: len(steps)], steps, atol=1e-4)
        assert (info['gt_ego_fut_trajs'][len(steps) :] == 0).all()
        assert info['gt_ego_fut_masks'].sum() == len(steps)
        assert info['fut_valid_flag'] == (len(steps) == FUTURE)
        side = future[-1][0]
        command = 0 if side >= 2 else 1 if side <= -2 else 2
        assert info['gt_ego_fut_cmd'].tolist() == np.eye(3)[command].tolist()
        if sample['prev']:
            before = nusc.get('sample', sample['prev'])
            np.testing.assert_allclose(info['gt_ego_his_trajs'][-1], future[0] - place(before), atol=1e-4)


def test_projections_are_the_devkits(nusc, picked):
    """Box corners through lidar2img land where the devkit draws them, ego motion between the sensors
    included.
    """
    seen = 0
    for info in picked:
        sample = nusc.get('sample', info['token'])
        _, in_lidar, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
        corners = {box.token: box.corners() for box in in_lidar}
        for camera, record in info['cams'].items():
            _, visible, intrinsic = nusc.get_sample_data(sample['data'][camera])
            projection = infos.lidar2img(record)
            for box in visible:
                points = projection @ np.vstack([corners[box.token], np.ones(8)])
                expected = view_points(box.corners(), intrinsic, normalize=True)[:2]
                in_front = box.corners()[2] > 1
                np.testing.assert_allclose(
                    (points[:2] / points[2])[:, in_front], expected[:, in_front], rtol=1e-6, atol=1e-3
                )
                seen += in_front.sum()
    assert seen > 100


def test_can_bus_is_the_last_message_and_the_motion_after_it(nusc, synthetic_root, picked):
    can = NuScenesCanBus(str(synthetic_root))
    for info in picked:
        scene = nusc.get('scene', info['scene_token'])['name']
        messages = can.get_messages(scene, 'pose')
        until = [m for m in messages if m['utime'] <= info['timestamp']] or messages[:1]
        after = [m for m in messages if m['utime'] > info['timestamp']] or messages[-1:]
        assert info['can_bus'].tolist() == [
            *until[-1]['pos'],
            *until[-1]['orientation'],
            *after[0]['accel'],
            *after[0]['rotation_rate'],
            *after[0]['vel'],
            0,
            0,
        ]
        nearest = min(messages, key=lambda m: abs(m['utime'] - info['timestamp']))
        assert info['gt_ego_lcf_feat'][7] == pytest.approx(nearest['vel'][0], abs=0.2)
        np.testing.assert_allclose(infos.can_bus(info)[:3], info['ego2global_translation'])


def test_map_layers_are_the_devkits(nusc, synthetic_root, picked):
    for info in picked[::2]:
        location = info['map_location']
        explorer = NuScenesMap(str(synthetic_root), location).explorer
        ours = LocationMap(expansion_file(synthetic_root, location))
        pose = infos.lidar2global(info)
        center, angle = pose[:2, 3], np.degrees(np.arctan2(pose[1, 0], pose[0, 0]))
        for layer in (*LINE_LAYERS, *POLYGON_LAYERS):
            clip = explorer._get_layer_line if layer in LINE_LAYERS else explorer._get_layer_polygon
            expected = clip((*center, 60.0, 30.0), angle, layer)
            found = ours.layer_in_patch(layer, center, angle, (60.0, 30.0))
            assert len(found) == len(expected)
            for mine, theirs in zip(found, expected):
                assert mine.equals_exact(theirs.geoms[0] if len(getattr(theirs, 'geoms', ())) == 1 else theirs, 1e-6)


# --- the command ---------------------------------------------------------------------------------------------


def test_command_writes_files(synthetic_root, tmp_path):
    command = [sys.executable, TOOL, 'nuscenes', '--root-path', synthetic_root, '--out-dir', tmp_path / 'out']
    command += ['--extra-tag', 'x', '--version', VERSION, '--canbus', synthetic_root, '--max-sweeps', '0']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
        'x_infos_temporal_train.pkl',
        'x_infos_temporal_val.pkl',
    ]
    assert load_info(tmp_path / 'out' / 'x_infos_temporal_val.pkl')['infos'][-1]['sweeps'] == []


def run_tool(monkeypatch, *arguments) -> int:
    import runpy

    monkeypatch.setattr(sys, 'argv', [str(TOOL), 'nuscenes', *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL), run_name='__main__')
    return stop.value.code


def test_what_is_filled_in_or_left_out_is_said(linked, synthetic_root, frames, tmp_path):
    """One line per cause; the numbers are those that the original writes then."""
    lines: list[str] = []
    root = linked('a', 'can_bus/scene-0061_pose.json')
    ((train, _), _) = converter.convert(root, tmp_path / 'x', root, VERSION, say=lines.append)
    assert len(lines) == 1 and lines[0].startswith('1 of 2 scenes (scene-0061): no messages in can_bus/SCENE_pose.json')
    for mine, whole in zip(load_info(train)['infos'], frames['train']):
        assert not mine['can_bus'].any() and whole['can_bus'].any()
        *rest, speed, curvature = mine['gt_ego_lcf_feat']
        assert curvature == 0 and rest[2:4] == [0, 0]
        moved = np.linalg.norm(mine['gt_ego_his_trajs'][-1] + mine['gt_ego_fut_trajs'][0])
        assert speed == pytest.approx(moved, rel=1e-5)  # metres in two steps of half a second

    lines.clear()
    images = [path for path in (synthetic_root / 'samples' / 'CAM_FRONT').iterdir() if path.name.startswith('n008')]
    root = linked('b', 'samples/CAM_FRONT/n008')
    (_, (val, count)) = converter.convert(root, tmp_path / 'x', root, VERSION, say=lines.append)
    assert (count, len(images)) == (0, 12)
    assert lines[0] == f'1 of 2 scenes (scene-0103): no camera images in {root}; left out'
    assert [line.rpartition(': ')[2] for line in lines[1:]] == ['the earlier file was replaced'] * 2


def test_scenes_that_the_devkit_excludes_have_no_can_bus(synthetic_root, tmp_path):
    for kind in ('pose', 'steeranglefeedback'):
        name = f'scene-0161_{kind}.json'
        (tmp_path / name).write_text((synthetic_root / 'can_bus' / f'scene-0061_{kind}.json').read_text())
    messages = CanBus(tmp_path, 'scene-0161')
    assert not messages and not messages.vector(0).any() and messages.motion(0) is None
    assert 'the devkit lists as unusable' in messages.gap


def test_full_disk_leaves_the_earlier_files(synthetic_root, tmp_path, monkeypatch):
    """The second file does not fit: the first one is not put in place either."""
    out = tmp_path / 'out'
    out.mkdir()
    old = {f'vad_nuscenes_infos_temporal_{split}.pkl': f'old {split}' for split in ('train', 'val')}
    for name, text in old.items():
        (out / name).write_text(text)
    dumped = []

    def dump(content, stream, protocol):
        dumped.append(len(content['infos']))
        stream.write(b'x' * 5000)
        if len(dumped) == 2:
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pickle, 'dump', dump)
    with pytest.raises(UserError, match=r'train.pkl: cannot be written: No space left on device'):
        converter.convert(synthetic_root, out, synthetic_root, VERSION)
    assert {path.name: path.read_text() for path in out.iterdir()} == old


def test_user_errors_are_one_line(linked, synthetic_root, tmp_path, monkeypatch, capfd):
    out = tmp_path / 'out'
    file = tmp_path / 'file'
    file.touch()
    damaged = linked('e', 'can_bus/')
    (damaged / 'can_bus').mkdir()
    for source in (synthetic_root / 'can_bus').glob('*_pose.json'):
        (damaged / 'can_bus' / source.name).write_text(source.read_text()[:1000])
    tables = {name: linked(name, f'{VERSION}/ego_pose') / VERSION / 'ego_pose.json' for name in ('cut', 'few')}
    whole = (synthetic_root / VERSION / 'ego_pose.json').read_text()
    tables['cut'].write_text(whole[:5000])
    tables['few'].write_text(json.dumps(json.loads(whole)[:5]))
    cases = [
        (('--root-path', tmp_path / 'cut', '--version', VERSION), 'ego_pose.json: is truncated or damaged'),
        (('--root-path', tmp_path / 'few', '--version', VERSION), 'scene-0061: ego_pose.json has no record'),
        (('--root-path', synthetic_root, '--version', VERSION, '--out-dir', file / 'x'), 'file/x: cannot be created'),
        (('--root-path', damaged, '--version', VERSION), '_pose.json: not a CAN bus file'),
        (('--root-path', tmp_path / 'none', '--version', VERSION), 'none: no such folder'),
        (('--root-path', synthetic_root, '--version', 'v1.0-trainval'), r'no tables of v1.0-trainval there (found: v1'),
        (('--root-path', synthetic_root, '--version', 'v2'), 'version: v2 is unknown, allowed are v1.0-trainval'),
        (('--root-path', synthetic_root, '--version', VERSION, '--canbus', tmp_path), 'can_bus: no such folder'),
        (('--root-path', linked('a', 'maps/expansion'), '--version', VERSION), 'unpack the map expansion'),
        (('--root-path', linked('b', 'samples/CAM_FRONT/'), '--version', VERSION), 'no camera images of any scene'),
        (('--root-path', linked('c', 'samples/CAM_BACK/'), '--version', VERSION), 'no such image'),
        (('--root-path', linked('d', f'{VERSION}/sample_annotation'), '--version', VERSION), 'cannot be read'),
    ]
    for arguments, message in cases:
        assert run_tool(monkeypatch, '--out-dir', out, *arguments) == 2
        error = capfd.readouterr().err
        assert message in error
        assert error.strip().count('\n') == 0
    assert not out.exists()


def test_interrupted_conversion_leaves_no_file(synthetic_root, tmp_path, monkeypatch, capfd):
    dumps = []

    def interrupted(*args, **kwargs):
        dumps.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(pickle, 'dump', interrupted)
    arguments = ('--root-path', synthetic_root, '--version', VERSION, '--out-dir', tmp_path / 'out')
    assert run_tool(monkeypatch, *arguments) == 130
    assert 'interrupted' in capfd.readouterr().err
    assert dumps
    assert list((tmp_path / 'out').iterdir()) == []


LONG = """
import os, sys, time
from vadslim.cli import run
from vadslim.nuscenes_data import converter

root, out, moment = sys.argv[1:]

def half(content, stream, protocol):
    stream.write(b'half')
    stream.flush()
    os.write(1, b'now\\n')  # at once, whoever else writes
    time.sleep(60)

def slow(*args):
    os.write(1, b'now\\n')  # at once, whoever else writes
    time.sleep(60)

if moment == 'files':
    converter.pickle.dump = half
else:
    converter.scene_infos = slow
sys.exit(run(lambda argv: converter.convert(root, out, root, 'v1.0-mini', workers=2) and 0))
"""


def stopped(root, out, moment, number) -> tuple[subprocess.Popen, str, str]:
    """A conversion that gets a signal, to its process group as a terminal sends it, amid scenes or files."""
    command = [sys.executable, '-c', LONG, str(root), str(out), moment]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == 'now\n'
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    rest = process.communicate(timeout=100)  # the pipes are closed when the last worker ends
    return process, *rest


@pytest.mark.parametrize(
    ('moment', 'number', 'code', 'words'),
    [
        ('scenes', signal.SIGINT, 130, 'interrupted\n'),
        ('scenes', signal.SIGKILL, -9, ''),
        ('files', signal.SIGKILL, -9, ''),
    ],
)
def test_stopped_amid(synthetic_root, tmp_path, moment, number, code, words):
    """No worker stays, no file is there, nothing is said but one word; the next conversion cleans up."""
    out = tmp_path / 'out'
    process, _, said = stopped(synthetic_root, out, moment, number)
    assert (process.returncode, said) == (code, words)
    left = [path.name for path in out.iterdir()] if out.exists() else []
    assert all(name.startswith('.vad_nuscenes_infos_temporal_') for name in left)
    assert bool(left) == (moment == 'files')
    if left:
        (out / f'.{next(iter(FILES))}.{os.getpid()}.tmp').touch()  # of a conversion that goes on
        converter.convert(synthetic_root, out, synthetic_root, VERSION)
        assert {path.name for path in out.iterdir() if not path.name.endswith(f'{os.getpid()}.tmp')} == FILES


def test_any_number_of_workers_writes_the_same_bytes(synthetic_root, frames, frames_dir, tmp_path):
    done: list = []

    def track(scenes):
        for scene in scenes:
            yield scene
            done.append(scene['name'])

    written = converter.convert(synthetic_root, tmp_path / 'x', synthetic_root, VERSION, track=track, workers=3)
    assert done == ['scene-0061', 'scene-0103']
    for path, _ in written:
        assert path.read_bytes() == (frames_dir / path.name).read_bytes()


def test_a_worker_that_is_killed_is_told(synthetic_root, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, 'scene_infos', lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match='a worker was ended from outside; .* give less --workers'):
        converter.convert(synthetic_root, tmp_path / 'x', synthetic_root, VERSION, workers=2)
    assert not (tmp_path / 'x').exists()


# --- other layouts -------------------------------------------------------------------------------------------


@pytest.fixture
def official(linked):
    """official(root, version): the tables under another version's name, their scenes under names of its splits."""

    def rename(root: Path, version: str, names: list[str]) -> Path:
        folder = root / version
        (root / VERSION).rename(folder) if not folder.exists() else None
        rewrite(folder / 'scene.json', lambda scenes: [s.update(name=n) for s, n in zip(scenes, names)])
        if version == 'v1.0-test':  # as it is published
            for table in ('sample_annotation', 'instance'):
                rewrite(folder / f'{table}.json', list.clear)
        for source in (root / 'can_bus').glob('scene-0061_*'):
            for name in names:
                (root / 'can_bus' / source.name.replace('scene-0061', name)).symlink_to(source)
        return root

    return rename


def test_trainval_and_test_layouts(linked, official, frames, tmp_path, monkeypatch, capfd):
    """``--version v1.0`` converts both; the test set has no labels, and needs neither maps nor CAN bus."""
    root = official(linked('both'), 'v1.0-trainval', [splits.train[0], splits.val[0]])
    test = official(linked('test', ('can_bus', 'maps/expansion')), 'v1.0-test', splits.test[:2])
    (test / 'v1.0-test').rename(root / 'v1.0-test')
    out = tmp_path / 'out'
    assert run_tool(monkeypatch, '--root-path', root, '--out-dir', out, '--workers', '2') == 0
    said = capfd.readouterr().out
    assert all(f'vad_nuscenes_infos_temporal_{name}: 12 frames' in said for name in ('train.pkl', 'val.pkl'))
    assert 'vad_nuscenes_infos_temporal_test.pkl: 24 frames' in said
    content = {name: load_info(out / f'vad_nuscenes_infos_temporal_{name}.pkl') for name in ('train', 'val', 'test')}
    assert [c['metadata']['version'] for c in content.values()] == ['v1.0-trainval', 'v1.0-trainval', 'v1.0-test']
    assert [i['token'] for i in content['train']['infos']] == [i['token'] for i in frames['train']]
    for info, whole in zip(content['test']['infos'], [*frames['train'], *frames['val']]):
        assert set(info) == {k for k in whole if not k.startswith('gt_')} - {
            'num_lidar_pts',
            'num_radar_pts',
            'valid_flag',
        }
        np.testing.assert_array_equal(
            info['cams']['CAM_BACK']['sensor2lidar_rotation'], whole['cams']['CAM_BACK']['sensor2lidar_rotation']
        )

    lines: list[str] = []
    shutil.rmtree(root / 'can_bus')
    shutil.rmtree(root / 'maps' / 'expansion')
    converter.convert(root, out, root, 'v1.0-test', say=lines.append)
    assert '2 of 2 scenes' in lines[0] and 'no messages in can_bus/SCENE_pose.json' in lines[0]


def test_without_can_bus_if_asked_for(linked, frames, tmp_path, monkeypatch, capfd):
    root = linked('a', 'can_bus')
    arguments = ('--root-path', root, '--version', VERSION, '--out-dir', tmp_path / 'out')
    assert run_tool(monkeypatch, *arguments) == 2
    assert 'unpack the CAN bus expansion of nuScenes there, or do without (--canbus none)' in capfd.readouterr().err
    assert run_tool(monkeypatch, *arguments, '--canbus', 'none') == 0
    assert '2 of 2 scenes (scene-0061, scene-0103): converted without CAN bus; their acc' in capfd.readouterr().out
    infos = load_info(tmp_path / 'out' / 'vad_nuscenes_infos_temporal_train.pkl')['infos']
    assert not any(info['can_bus'].any() for info in infos)
    np.testing.assert_array_equal(infos[3]['gt_boxes'], frames['train'][3]['gt_boxes'])


def test_scenes_of_no_split(edited, tmp_path):
    lines: list[str] = []
    root = edited('a', scene=lambda scenes: scenes[1].update(name='scene-9999'))
    _, (_, count) = converter.convert(root, tmp_path / 'x', root, VERSION, say=lines.append)
    assert lines == ['1 of 2 scenes (scene-9999): in no official split of v1.0-mini; left out'] and count == 0
    root = edited('b', scene=lambda scenes: [s.update(name='scene-9999') for s in scenes])
    with pytest.raises(UserError, match='none of its scenes is in an official split of v1.0-mini'):
        converter.convert(root, tmp_path / 'x', root, VERSION)


def test_can_bus_folder_may_be_named_itself(synthetic_root):
    assert converter.check_inputs(synthetic_root, synthetic_root / 'can_bus', VERSION).name == 'can_bus'
    with pytest.raises(UserError, match='unpack the CAN bus expansion'):
        converter.check_inputs(synthetic_root, synthetic_root / 'maps', VERSION)
