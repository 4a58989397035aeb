"""Scenes with a missing or damaged record or file: an error that names it, or left out."""

import math

import pytest
from linked_sets import rewrite

from vadslim.checkpoint import load_info
from vadslim.cli import UserError
from vadslim.nuscenes_data import converter

VERSION = 'v1.0-mini'
FIRST, SECOND = 'scene-0061', 'scene-0103'


def change(index, **values):
    def apply(records):
        records[index].update(values)

    return apply


def cut(records):
    del records[5]['translation']


def channel_lost(records):
    records.remove(next(r for r in records if 'CAM_BACK/' in r['filename'] and r['is_key_frame']))


def chain_ends_early(records):
    records[4]['next'] = ''


def next_is_another_scenes(records):
    records[4]['next'] = records[20]['token']


def no_intrinsic(records):
    next(r for r in records if r['camera_intrinsic'])['camera_intrinsic'] = [[1, 0], [0, 1]]


CASES = {
    'pose is NaN': ({'ego_pose': change(0, translation=[0, math.nan, 0])}, 'not three finite numbers'),
    'pose is gone': ({'sample_data': change(0, ego_pose_token='x')}, "ego_pose.json has no record 'x'"),
    'no translation': ({'ego_pose': cut}, 'translation of record'),
    'camera lost': ({'sample_data': channel_lost}, 'sample_data.json has no CAM_BACK of sample'),
    'no rotation': ({'calibrated_sensor': change(0, rotation=[0, 0, 0, 0])}, 'not a quaternion of length 1'),
    'no intrinsic': ({'calibrated_sensor': no_intrinsic}, 'is [[1, 0], [0, 1]], not 3 x 3 finite numbers'),
    'key frame lost': ({'sample': chain_ends_early}, 'its key frames do not end with'),
    'other scene': ({'sample': next_is_another_scenes}, 'in time and scene'),
    'next is gone': ({'sample': change(4, next='x')}, "sample.json has no record 'x'"),
    'box is NaN': ({'sample_annotation': change(3, translation=[0, math.nan, 0])}, 'is no box'),
    'box is short': ({'sample_annotation': change(3, size=[1, 2])}, 'is no box'),
    'box is flat': ({'sample_annotation': change(3, size=[1, 2, 0])}, 'is no box'),
    'track is cut': ({'sample_annotation': change(3, next='x')}, 'has a neighbour in time that is not there'),
    'no time': ({'sample_data': change(0, timestamp=None, ego_pose_token=None)}, 'ego_pose.json has no record None'),
}


@pytest.mark.parametrize('name', CASES)
def test_a_damaged_record(edited, tmp_path, name):
    """Only the scene that it belongs to is lost."""
    changes, message = CASES[name]
    root = edited('a', **changes)
    with pytest.raises(UserError) as error:
        converter.convert(root, tmp_path / 'out', root, VERSION)
    assert f'1 of 2 scenes cannot be converted ({FIRST}: ' in str(error.value)
    assert message in str(error.value)
    assert str(error.value).endswith('unpack the tables of nuScenes again); --skip-broken converts the others')
    assert not (tmp_path / 'out').exists()


def test_broken_scenes_are_left_out(linked, synthetic_root, tmp_path):
    """With a missing image, a truncated one and a damaged CAN bus file; the rest is what it is without them."""
    root = linked('a')
    images = sorted((root / 'samples' / 'CAM_BACK').iterdir())
    split = {
        name: [i for i in images if i.name.startswith(prefix)] for name, prefix in ((FIRST, 'n015'), (SECOND, 'n008'))
    }
    lost = split[SECOND][4]
    lost.unlink()
    lines: list[str] = []
    (train, _), (val, count) = converter.convert(
        root, tmp_path / 'out', root, VERSION, say=lines.append, skip_broken=True
    )
    assert lines == [
        f'{root}/{VERSION}: 1 of 2 scenes cannot be converted ({SECOND}: {lost}: no such image (No such file or '
        'directory); unpack the sensor blobs of nuScenes again); left out'
    ]
    whole = converter.convert(synthetic_root, tmp_path / 'whole', synthetic_root, VERSION)
    assert count == 0
    assert [i['token'] for i in load_info(train)['infos']] == [i['token'] for i in load_info(whole[0][0])['infos']]

    lost.write_bytes((synthetic_root / 'samples' / 'CAM_BACK' / lost.name).read_bytes()[:-500])
    can_bus = root / 'can_bus' / f'{FIRST}_pose.json'
    rewrite(can_bus, lambda messages: messages[3].update(vel=[math.nan, 0, 0]))
    with pytest.raises(UserError) as error:
        converter.convert(root, tmp_path / 'out', root, VERSION, skip_broken=True)
    assert '2 of 2 scenes cannot be converted' in str(error.value)
    assert f'{lost}: is truncated ({lost.stat().st_size} bytes); unpack the sensor blobs' in str(error.value)
    assert f'{can_bus}: not a CAN bus file of nuScenes (ValueError: numbers that are not finite); unpack' in str(
        error.value
    )


def test_lidar_files_are_not_needed(linked, tmp_path):
    root = linked('a', ('samples/LIDAR_TOP', 'sweeps'))
    lines: list[str] = []
    converter.convert(root, tmp_path / 'out', root, VERSION, say=lines.append)
    assert lines == [f'24 of 24 frames: their LiDAR files are not in {root}; VAD does not read them']


def test_unknown_velocities_are_no_mistake(edited, tmp_path):
    """An object that is seen once has no velocity: NaN, as in the published files."""

    def once(records):
        records.append({**records[0], 'token': 'once', 'next': '', 'prev': ''})

    root = edited('a', sample_annotation=once)
    (train, _), _ = converter.convert(root, tmp_path / 'out', root, VERSION)
    assert any(math.isnan(v) for info in load_info(train)['infos'] for v in info['gt_velocity'][:, 0])
