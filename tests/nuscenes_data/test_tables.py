"""Tables that the devkit cannot use: the record, the field and the remedy on one line."""

import pytest
from nuscenes import NuScenes

from vadslim.cli import UserError
from vadslim.nuscenes_data import tables

VERSION = 'v1.0-mini'


@pytest.mark.parametrize(
    ('table', 'field', 'target'),
    [
        ('sample_data', 'calibrated_sensor_token', 'calibrated_sensor'),
        ('sample_annotation', 'instance_token', 'instance'),
        ('sample', 'scene_token', 'scene'),
        ('scene', 'log_token', 'log'),
    ],
)
def test_a_record_that_points_nowhere_is_named(edited, table, field, target):
    broken = {}

    def change(records):
        for record in records[2:4] or records[:1]:
            broken[record['token']] = record[field] = 'gone'

    root = edited('a', **{table: change})
    with pytest.raises(UserError) as error:
        tables.open_tables(root, VERSION)
    more = ' (and 1 more)' if len(broken) > 1 else ''
    assert str(error.value) == (
        f"{root}/{VERSION}/{table}.json: {field} of record {next(iter(broken))}{more} is 'gone', which {target}.json "
        'does not have; unpack the tables of nuScenes again'
    )


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"a": ', 'is truncated or damaged'),
        ('', 'is truncated or damaged'),
        ('{"token": 1}', 'is not a table of nuScenes'),
        ('[{"name": 1}]', 'is not a table of nuScenes'),
        (b'\xff\xfe[', 'is truncated or damaged'),
    ],
)
def test_a_damaged_file_is_named(linked, text, message):
    root = linked('a', f'{VERSION}/instance')
    file = root / VERSION / 'instance.json'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f'^{file}: {message}.*; unpack the tables of nuScenes again$'):
        tables.open_tables(root, VERSION)


def test_a_missing_map_image_is_told(linked):
    root = linked('a')
    for file in (root / 'maps').glob('*.png'):
        file.unlink()
    with pytest.raises(UserError, match='the tables cannot be used .*map mask .* does not exist'):
        tables.open_tables(root, VERSION)


def test_chains_end(synthetic_root):
    nusc = NuScenes(VERSION, str(synthetic_root), verbose=False)
    samples = nusc.sample
    assert [r['token'] for r in tables.chain(nusc, 'sample', samples[9]['token'])] == [
        s['token'] for s in samples[9:12]
    ]
    samples[11]['next'] = samples[9]['token']
    with pytest.raises(UserError, match='sample.json: the records after .* form a circle'):
        list(tables.chain(nusc, 'sample', samples[0]['token']))
    samples[11]['next'] = 'gone'
    with pytest.raises(UserError, match=r"^sample.json has no record 'gone'; unpack"):
        list(tables.chain(nusc, 'sample', samples[0]['token']))


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('translation', [0.0, float('nan'), 0.0]),
        ('translation', [0.0, 1.0]),
        ('translation', None),
        ('translation', ['0', '0', '0']),
        ('rotation', [0.0, 0.0, 0.0, 0.0]),
        ('rotation', [2.0, 0.0, 0.0, 0.0]),
    ],
)
def test_poses_are_poses(synthetic_root, field, value):
    nusc = NuScenes(VERSION, str(synthetic_root), verbose=False)
    record = nusc.ego_pose[3]
    assert tables.pose(nusc, 'ego_pose', record['token']) is record
    record[field] = value
    with pytest.raises(UserError, match=f'ego_pose.json: {field} of record {record["token"]} is .*, not '):
        tables.pose(nusc, 'ego_pose', record['token'])
