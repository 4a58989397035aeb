"""Map ground truth: made once, kept in VAD's file, made anew when it no longer fits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vadslim.checkpoint import dump_info, load_info
from vadslim.cli import UserError
from vadslim.nuscenes_data import converter
from vadslim.nuscenes_data.vector_map import MAP_CLASSES, VectorMap, expansion_file
from vadslim.vad.datasets import VADNuScenesDataset, infos
from vadslim.vad.datasets.map_truth import MapTruth
from vadslim.vad.metrics.map import MapTask, resample


@pytest.fixture(scope='module')
def val_infos(synthetic_root, tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp('infos')
    converter.convert(synthetic_root, out, synthetic_root, 'v1.0-mini')
    return load_info(out / 'vad_nuscenes_infos_temporal_val.pkl')['infos'][:3]


@pytest.fixture
def source(synthetic_root, val_infos, tmp_path) -> MapTruth:
    """Ground truth of three samples, of files that a test may change."""
    shutil.copytree(synthetic_root / 'maps' / 'expansion', tmp_path / 'maps' / 'expansion')
    dump_info({'infos': val_infos, 'metadata': {}}, tmp_path / 'val.pkl')
    return MapTruth(str(tmp_path / 'map.json'), str(tmp_path / 'val.pkl'), str(tmp_path), (60.0, 30.0))


def equal(first, second) -> bool:
    return list(first) == list(second) and all(
        [label for label, _ in first[token]] == [label for label, _ in second[token]]
        and all(np.array_equal(a, b) for (_, a), (_, b) in zip(first[token], second[token]))
        for token in first
    )


def changed(source: MapTruth, **arguments) -> MapTruth:
    return MapTruth(**{**vars(source), **arguments})


def stamp(source: MapTruth) -> tuple[int, int]:
    stat = Path(source.file).stat()
    return stat.st_ino, stat.st_mtime_ns


def test_made_once_in_the_layout_of_the_original(source, val_infos, capfd):
    truth = source.load()
    content = json.loads(Path(source.file).read_text())
    assert [sample['sample_token'] for sample in content['GTs']] == [info['token'] for info in val_infos]
    vector_map = VectorMap(source.data_root)
    for sample, info in zip(content['GTs'], val_infos):
        lines, labels = vector_map.lines(info['map_location'], infos.lidar2global(info))
        assert len(lines) > 2
        assert [v['type'] for v in sample['vectors']] == labels
        for vector, line in zip(sample['vectors'], lines):
            assert set(vector) == {'pts', 'pts_num', 'cls_name', 'type'}
            assert vector['cls_name'] == MAP_CLASSES[vector['type']]
            assert vector['pts_num'] == len(vector['pts'])
            assert np.array_equal(vector['pts'], np.asarray(line.coords))
    before = stamp(source)
    assert equal(source.load(), truth)
    assert stamp(source) == before
    assert capfd.readouterr().err == ''
    assert [path.name for path in Path(source.file).parent.glob('*map.json*')] == ['map.json']  # nothing half-written


def test_with_the_file_the_map_expansion_is_not_needed(source):
    truth = source.load()
    shutil.rmtree(Path(source.data_root) / 'maps')
    assert equal(source.load(), truth)


def other_infos(source: MapTruth) -> MapTruth:
    content = load_info(source.ann_file)
    dump_info({**content, 'infos': content['infos'][:2]}, source.ann_file)
    return source


def other_map(source: MapTruth) -> MapTruth:
    for path in (Path(source.data_root) / 'maps' / 'expansion').glob('*.json'):
        tables = json.loads(path.read_text())
        tables['ped_crossing'] = []
        path.write_text(json.dumps(tables))
    return source


def cut_off(source: MapTruth) -> MapTruth:
    text = Path(source.file).read_text()
    Path(source.file).write_text(text[: len(text) // 2])
    return source


def something_else(source: MapTruth) -> MapTruth:
    Path(source.file).write_text('{"GTs": [{"vectors": 3}]}')
    return source


def of_the_original(source: MapTruth) -> MapTruth:
    content = json.loads(Path(source.file).read_text())
    Path(source.file).write_text(json.dumps({'GTs': content['GTs'][:1]}))
    return source


@pytest.mark.parametrize(
    ('change', 'why'),
    [
        (other_infos, 'was made for another info file'),
        (other_map, 'was made from another map of'),
        (lambda source: changed(source, patch_size=(30.0, 15.0)), 'was made for another range'),
        (lambda source: changed(source, classes=('boundary',)), 'was made for other classes'),
        (cut_off, 'is damaged'),
        (something_else, 'is damaged'),
        (of_the_original, 'does not say what it was made of'),
    ],
    ids=['info file', 'map', 'range', 'classes', 'cut off', 'something else', 'of the original'],
)
def test_made_anew_when_stale(source, change, why, capfd):
    source.load()
    before = stamp(source)
    source = change(source)
    truth = source.load()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and why in lines[0] and source.file in lines[0]
    assert stamp(source) != before
    fresh = changed(source, file=source.file + '.fresh')
    assert equal(fresh.load(), truth)
    assert Path(fresh.file).read_bytes() == Path(source.file).read_bytes()
    after = stamp(source)
    source.load()
    assert stamp(source) == after


def test_the_original_s_own_file_without_a_map_expansion(source, capfd):
    truth = source.load()
    content = json.loads(Path(source.file).read_text())
    Path(source.file).write_text(json.dumps({'GTs': content['GTs']}))
    shutil.rmtree(Path(source.data_root) / 'maps')
    before = stamp(source)
    assert equal(source.load(), truth)
    assert stamp(source) == before and 'taken as it is' in capfd.readouterr().err
    Path(source.file).write_text(json.dumps({'GTs': content['GTs'][1:]}))
    with pytest.raises(UserError, match='lacks samples of the info file'):
        source.load()


def test_neither_the_file_nor_the_map_expansion(source):
    shutil.rmtree(Path(source.data_root) / 'maps')
    with pytest.raises(UserError, match=r'expansion.*unpack the map expansion.*map.json \(is not there\)'):
        source.load()
    with pytest.raises(UserError, match='unpack the map expansion'):
        MapTask().prepare({'map_truth': vars(source)})
    Path(source.file).write_text('{')
    with pytest.raises(UserError, match='is damaged'):
        source.load()


def test_where_nothing_can_be_written(source, capfd):
    source = changed(source, file=str(Path(source.data_root) / 'no' / 'such' / 'folder.json'))
    assert len(source.load()) == 3
    assert 'cannot be written' in capfd.readouterr().err


def test_other_ranks_do_not_write(source):
    assert len(source.load(keep=False)) == 3
    assert not Path(source.file).exists()


def test_a_task_scores_with_it(source, val_infos):
    task = MapTask()
    task.prepare({'map_truth': vars(source)})
    assert Path(source.file).is_file()  # before anything is scored
    scores = []
    for token, lines in source.load().items():
        pred = {'labels': np.array([label for label, _ in lines]), 'scores': np.ones(len(lines))}
        pred['pts'] = np.stack([resample(line[None], 20)[0] for _, line in lines])
        scores.append(task.score({'sample_idx': token, 'pred_map': pred}))
    metrics = task.summarize(scores)
    assert metrics['NuscMap_chamfer/boundary_AP'] == pytest.approx(1)


def test_the_dataset_says_where_it_lies(source, synthetic_root):
    for folder in ('samples', 'sweeps'):
        (Path(source.data_root) / folder).symlink_to(synthetic_root / folder)

    def dataset(**arguments):
        return VADNuScenesDataset('val.pkl', source.data_root, [], test_mode=True, **arguments)

    meta = dataset(map_classes=['boundary']).metainfo['map_truth']
    root = Path(source.data_root)
    assert MapTruth(**meta) == MapTruth(
        str(root / 'nuscenes_map_anns_val.json'), source.ann_file, source.data_root, (60.0, 30.0), ('boundary',)
    )
    assert dataset(map_ann_file=source.file).metainfo['map_truth']['file'] == source.file
    source.load()
    shutil.rmtree(root / 'maps')
    assert not dataset(map_ann_file=source.file).with_map
    with pytest.raises(UserError, match='unpack the map expansion'):
        dataset()
    assert expansion_file(root, 'a').name == 'a.json'
