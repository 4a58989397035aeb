"""The dataset on synthetic nuScenes: queues, ground truth, paths, loading through MMEngine, and its errors."""

import copy
import io
import pickle
import random
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.registry import DATA_SAMPLERS, DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from vadslim.checkpoint import CheckpointError, dump_info, load_info
from vadslim.cli import UserError
from vadslim.nuscenes_data import converter
from vadslim.vad import boxes as box_numbers
from vadslim.vad.datasets import VADNuScenesDataset

CONFIG = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets' / 'nuscenes_vad.py'
TRAIN, VAL = (f'vad_nuscenes_infos_temporal_{split}.pkl' for split in ('train', 'val'))
BOTH = 'both.pkl'
AGENTS = ('gt_boxes', 'gt_names', 'gt_velocity', 'num_lidar_pts', 'num_radar_pts', 'valid_flag')


@pytest.fixture(scope='module')
def info_dir(synthetic_root, tmp_path_factory) -> Path:
    init_default_scope('mmdet3d')
    out = tmp_path_factory.mktemp('vad_infos')
    converter.convert(synthetic_root, out, synthetic_root, 'v1.0-mini')
    infos = [info for file in (VAL, TRAIN) for info in load_info(out / file)['infos']]
    dump_info({'infos': infos, 'metadata': {'version': 'v1.0-mini'}}, out / BOTH)
    return out


@pytest.fixture
def config(synthetic_root, info_dir) -> Config:
    cfg = Config.fromfile(CONFIG)
    for loader, file in ((cfg.train_dataloader, BOTH), (cfg.val_dataloader, VAL)):
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.data_root = str(synthetic_root)
        loader.dataset.ann_file = str(info_dir / file)
        for step in loader.dataset.pipeline:
            if step.type == 'RandomScaleImageMultiViewImage':
                step.scales = [0.1]
    return cfg


@pytest.fixture
def train(config) -> VADNuScenesDataset:
    """Two scenes in queues; without the change of colours, which is slow and random."""
    dataset = copy.deepcopy(config.train_dataloader.dataset)
    dataset.pipeline = [step for step in dataset.pipeline if step.type != 'PhotoMetricDistortionMultiViewImage']
    return DATASETS.build(dataset)


@pytest.fixture
def val(config) -> VADNuScenesDataset:
    return DATASETS.build(config.val_dataloader.dataset)


def position(dataset: VADNuScenesDataset, i: int) -> np.ndarray:
    return np.array(dataset.get_data_info(i)['ego2global_translation'])


# --- training items ------------------------------------------------------------------------------------------


def test_item_of_a_queue(train):
    item = train[5]
    sample, image = item['data_samples'], item['inputs']['img']
    assert image.dtype == torch.float32
    assert image.shape == (3, 6, 3, 90, 160)
    assert image.max() > 100  # grey levels, not normalised
    assert len({float(frame.sum()) for frame in image}) == 3

    agents = sample.gt_instances_3d
    assert agents.bboxes_3d.shape[1:] == (9,)
    assert agents.attr_labels.shape == (len(agents), 34)
    assert (agents.labels_3d.dtype, agents.bboxes_3d.dtype) == (torch.int64, torch.float32)
    assert (agents.bboxes_3d[:, 0].abs() < 15).all()
    assert (agents.bboxes_3d[:, 1].abs() < 30).all()
    assert (agents.bboxes_3d[:, 6].abs() <= np.pi).all()
    # Attributes hold the centre again, with the devkit's heading, so they belong to the same rows.
    torch.testing.assert_close(agents.attr_labels[:, 19:21], agents.bboxes_3d[:, :2])
    heading = box_numbers.wrap_yaw(box_numbers.heading_to_yaw(agents.attr_labels[:, 21]))
    torch.testing.assert_close(torch.cos(heading - agents.bboxes_3d[:, 6]), torch.ones(len(agents)))

    assert sample.gt_map.pts.shape[1:] == (19, 20, 2)
    assert set(sample.gt_map.labels.tolist()) <= {0, 1, 2}
    shapes = {k: tuple(v.shape) for k, v in sample.gt_ego.items()}
    assert shapes == {
        'his_trajs': (2, 2),
        'fut_trajs': (6, 2),
        'fut_masks': (6,),
        'fut_cmd': (3,),
        'lcf_feat': (9,),
    }
    meta = sample.metainfo
    assert len(meta['lidar2img']) == 6
    assert meta['lidar2img'][0].shape == (4, 4)
    assert meta['lidar2img'][0].dtype == np.float64
    assert meta['ori_shape'] == meta['img_shape'] == [(90, 160, 3)] * 6
    assert meta['sample_idx'] == train.get_data_info(5)['token']
    assert meta['prev_bev_exists'] is True
    assert [m['prev_bev_exists'] for m in meta['history_metas']] == [False, True]
    for key in ('lidar2img', 'can_bus', 'scene_token', 'sample_idx', 'frame_idx', 'img_shape', 'ori_shape'):
        assert all(key in m for m in meta['history_metas'])


def test_history_is_drawn_from_the_frames_before(train):
    seen = set()
    for seed in range(8):
        random.seed(seed)
        meta = train[5]['data_samples'].metainfo
        history = tuple(m['frame_idx'] for m in meta['history_metas'])
        assert meta['frame_idx'] == 5
        seen.add(history)
        frames = [*meta['history_metas'], meta]
        places = [position(train, m['frame_idx']) for m in frames]
        moves = np.diff([places[0], *places], axis=0)
        np.testing.assert_allclose([m['can_bus'][:3] for m in frames], moves, atol=1e-9)
        headings = [np.degrees(m['can_bus'][-2]) for m in frames]
        turns = np.diff([headings[0], *headings])
        np.testing.assert_allclose([m['can_bus'][-1] for m in frames], turns, atol=1e-9)
    assert seen == {(2, 3), (2, 4), (3, 4)}


def test_first_frames_of_a_scene_repeat_and_do_not_look_back(train):
    starts = [i for i in range(len(train)) if train.get_data_info(i)['frame_idx'] == 0]
    assert len(starts) > 1
    for start in (starts[0], starts[1]):
        item = train.prepare_data(start)
        meta = item['data_samples'].metainfo
        assert [m['frame_idx'] for m in meta['history_metas']] == [0, 0]
        assert meta['scene_token'] == train.get_data_info(start)['scene_token']
        assert {m['scene_token'] for m in meta['history_metas']} == {meta['scene_token']}
        assert meta['can_bus'][:3].tolist() == [0, 0, 0]
        assert torch.equal(item['inputs']['img'][0], item['inputs']['img'][2])
    second = train.prepare_data(starts[1] + 1)['data_samples'].metainfo
    assert [m['frame_idx'] for m in second['history_metas']] in ([0, 0], [1, 0], [0, 1], [1, 1])
    assert {m['scene_token'] for m in second['history_metas']} == {second['scene_token']}


def test_reading_an_item_does_not_change_the_next_reading(config):
    config.train_dataloader.dataset.serialize_data = False  # the records are then shared
    dataset = DATASETS.build(config.train_dataloader.dataset)
    items = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        items.append(dataset[4])
    first, second = (item['data_samples'].metainfo for item in items)
    np.testing.assert_array_equal(first['can_bus'], second['can_bus'])
    assert torch.equal(items[0]['inputs']['img'], items[1]['inputs']['img'])


def test_frames_with_nothing_to_learn_are_replaced(train, monkeypatch):
    full = train._map
    bad = train.get_data_info(4)['token']
    monkeypatch.setattr(train, '_map', lambda info: full(info)[:0] if info['token'] == bad else full(info))
    assert train.prepare_data(4) is None
    monkeypatch.setattr(train, '_rand_another', lambda: 6)
    assert train[4]['data_samples'].frame_idx == 6
    train.filter_empty_gt = False
    assert len(train.prepare_data(4)['data_samples'].gt_map) == 0


# --- evaluation items ----------------------------------------------------------------------------------------


def test_evaluation_item(val):
    sample = val[2]['data_samples']
    assert val[2]['inputs']['img'].shape == (1, 6, 3, 90, 160)
    assert sample.history_metas == []
    assert sample.prev_bev_exists is False
    np.testing.assert_allclose(sample.can_bus[:3], position(val, 2))  # absolute
    assert sample.fut_valid_flag == val.get_data_info(2)['fut_valid_flag']
    assert {'gt_instances_3d', 'gt_map', 'gt_ego'} <= set(sample.keys())
    order = [val.get_data_info(i)['timestamp'] for i in range(len(val))]
    assert order == sorted(order)


def test_agents_project_into_the_images(val):
    """Centres of most boxes in range and in front fall inside the image of some camera."""
    inside = total = 0
    for i in range(0, len(val), 3):
        sample = val[i]['data_samples']
        boxes = sample.gt_instances_3d.bboxes_3d.double().numpy()
        centers = np.column_stack([boxes[:, :2], boxes[:, 2] + boxes[:, 5] / 2, np.ones(len(boxes))])
        hit = np.zeros(len(boxes), bool)
        for matrix, (height, width, _) in zip(sample.lidar2img, sample.ori_shape):
            u, v, d, _ = matrix @ centers.T
            hit |= (d > 0.1) & (u > 0) & (u < width * d) & (v > 0) & (v < height * d)
        inside, total = inside + hit.sum(), total + len(hit)
    assert inside > 0.9 * total > 0


# --- through MMEngine ----------------------------------------------------------------------------------------


def test_loader_and_preprocessor(config):
    loader_config = copy.deepcopy(config.train_dataloader)
    loader_config.update(batch_size=2, num_workers=1)
    loader = Runner.build_dataloader(loader_config, seed=0)
    preprocess = MODELS.build(config.data_preprocessor)
    batch = preprocess(next(iter(loader)), training=True)
    assert batch['inputs']['img'].shape == (2, 3, 6, 3, 96, 160)
    assert batch['inputs']['img'][..., 90:, :].abs().max() == 0
    assert abs(batch['inputs']['img']).mean() < 3
    assert [s.img_shape for s in batch['data_samples']] == [[(96, 160, 3)] * 6] * 2


def test_scene_sampler_on_the_dataset(train, config):
    sampler = DATA_SAMPLERS.build(config.val_dataloader.sampler, default_args={'dataset': train, 'seed': 0})
    assert list(sampler) == list(range(len(train)))
    assert len(set(train.scene_tokens())) > 1


def test_subsets_lazy_and_plain_storage(config):
    cfg = config.val_dataloader.dataset
    some = DATASETS.build({**cfg, 'indices': 4})
    assert len(some) == 4
    lazy = DATASETS.build({**cfg, 'lazy_init': True, 'serialize_data': False})
    assert not lazy._fully_initialized
    lazy.full_init()
    assert lazy[1]['data_samples'].sample_idx == some[1]['data_samples'].sample_idx


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 did: its str."""

    dispatch = {**pickle._Pickler.dispatch}

    def save_python_2(self, data):
        self.write(pickle.BINSTRING + struct.pack('<i', len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_python_2


def python_2(content) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def as_published(infos: list[dict], prefix: str, convert=lambda value: value) -> list[dict]:
    """The records as VAD's own converter writes them: paths with another prefix, its order of keys, its dtypes."""
    root = infos[0]['lidar_path'].split('/samples/')[0]

    def published(value):
        if isinstance(value, dict):
            return {key: published(part) for key, part in value.items()}
        if isinstance(value, list):
            return [published(part) for part in value]
        if isinstance(value, str):
            return value.replace(root, prefix)
        return convert(value)

    records = []
    for info in infos:
        record = published(info)
        if not len(info['gt_names']):  # np.array([])
            record['gt_names'], record['num_lidar_pts'] = np.array([]), np.array([])
        records.append(record)
    return records


def numpy_scalars(value):
    kinds = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
    return kinds[type(value)](value) if type(value) in kinds else value


def plain_lists(value):
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def assert_same_items(one, other):
    assert torch.equal(one['inputs']['img'], other['inputs']['img'])
    one, other = one['data_samples'], other['data_samples']
    assert set(one.metainfo) == set(other.metainfo) and set(one.keys()) == set(other.keys())
    for name in one.metainfo:
        np.testing.assert_equal(one.metainfo[name], other.metainfo[name], err_msg=name)
    for part in list(one.keys()):
        theirs = getattr(other, part)
        for name, value in getattr(one, part).items():
            value, their = (getattr(v, 'tensor', v) for v in (value, getattr(theirs, name)))
            np.testing.assert_equal(np.asarray(value), np.asarray(their), err_msg=f'{part}.{name}')


@pytest.mark.parametrize(
    ('prefix', 'dump', 'wrap', 'convert'),
    [
        ('./data/nuscenes', partial(pickle.dumps, protocol=2), dict, lambda value: value),  # mmcv.dump
        ('data/nuscenes', partial(pickle.dumps, protocol=5), dict, numpy_scalars),
        ('/mnt/sets/nuscenes', partial(pickle.dumps, protocol=4), list, plain_lists),
        ('C:\\\\data\\\\nuscenes', python_2, dict, lambda value: value),
    ],
    ids=['mmcv', 'numpy', 'lists', 'python 2'],
)
def test_published_files_give_the_same_items(config, info_dir, tmp_path, prefix, dump, wrap, convert):
    """Whatever wrote them, in any order of scenes, in training and in evaluation."""
    for loader, file in ((config.train_dataloader, BOTH), (config.val_dataloader, VAL)):
        content = load_info(info_dir / file)
        for key in [key for key in content['infos'][2] if key.startswith('gt_agent') or key in AGENTS]:
            content['infos'][2][key] = content['infos'][2][key][:0]  # a frame without agents
        dump_info(content, tmp_path / 'ours.pkl')
        infos = as_published(content['infos'], prefix, convert)[::-1]
        metadata = {'version': 'v1.0-trainval'}
        theirs = infos if wrap is list else {'infos': infos, 'metadata': metadata}
        (tmp_path / 'theirs.pkl').write_bytes(dump(theirs))
        plain = [step for step in loader.dataset.pipeline if step.type != 'PhotoMetricDistortionMultiViewImage']
        ours, theirs = (
            DATASETS.build(
                {**loader.dataset, 'type': kind, 'ann_file': str(tmp_path / f'{name}.pkl'), 'pipeline': plain}
            )
            for name, kind in (('ours', 'VADNuScenesDataset'), ('theirs', 'VADCustomNuScenesDataset'))
        )
        assert isinstance(theirs, VADNuScenesDataset) and len(ours) == len(theirs)
        assert theirs.metainfo.get('version') == (None if wrap is list else 'v1.0-trainval')
        assert theirs.metainfo['classes'][0] == 'car'
        for i in (0, 2, 7):
            random.seed(i)
            one = ours[i]
            random.seed(i)
            assert_same_items(one, theirs[i])


def test_info_file_is_found_in_the_data_root_or_from_here(monkeypatch):
    def found(ann_file, data_root):
        dataset = VADNuScenesDataset(ann_file, data_root, [], lazy_init=True)
        return dataset.ann_file

    assert found('infos.pkl', 'data/nuscenes/') == 'data/nuscenes/infos.pkl'
    assert found('data/nuscenes/infos.pkl', 'data/nuscenes/') == 'data/nuscenes/infos.pkl'
    assert found('/abs/infos.pkl', 'data/nuscenes/') == '/abs/infos.pkl'


def test_sets_without_labels(config, info_dir, tmp_path):
    content = load_info(info_dir / VAL)
    for info in content['infos']:
        for key in [k for k in info if k.startswith('gt_') or k in ('valid_flag', 'num_lidar_pts')]:
            del info[key]
    dump_info(content, tmp_path / 'test.pkl')
    dataset = DATASETS.build({**config.val_dataloader.dataset, 'ann_file': str(tmp_path / 'test.pkl')})
    assert 'gt_instances_3d' not in dataset[0]['data_samples']


# --- errors --------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return exec, ('raise SystemExit("code ran")',)


def test_errors(config, info_dir, tmp_path):
    cfg = config.val_dataloader.dataset

    def build(**changes):
        return DATASETS.build({**cfg, **changes})

    with pytest.raises(CheckpointError, match='none.pkl: no such file'):
        build(ann_file=str(tmp_path / 'none.pkl'))
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps({'infos': [Evil()]}))
    with pytest.raises(CheckpointError, match='exec'):
        build(ann_file=str(tmp_path / 'evil.pkl'))
    dump_info({'data_list': []}, tmp_path / 'other.pkl')
    with pytest.raises(UserError, match='no list "infos"'):
        build(ann_file=str(tmp_path / 'other.pkl'))
    dump_info({'infos': []}, tmp_path / 'other.pkl')
    with pytest.raises(UserError, match='holds no frame'):
        build(ann_file=str(tmp_path / 'other.pkl'))
    dump_info({'infos': [{'token': 'a'}]}, tmp_path / 'other.pkl')
    with pytest.raises(UserError, match='without scene_token, frame_idx, timestamp'):
        build(ann_file=str(tmp_path / 'other.pkl'))
    with pytest.raises(UserError, match='no such image; data_root must be'):
        build(data_root=str(tmp_path))
    image = load_info(info_dir / VAL)['infos'][0]['cams']['CAM_FRONT']['data_path']
    only_image = tmp_path / 'samples' / image.split('/samples/')[1]
    only_image.parent.mkdir(parents=True)
    only_image.symlink_to(image)
    with pytest.raises(UserError, match='unpack the map expansion'):
        build(data_root=str(tmp_path))
    with pytest.raises(ValueError, match='queue_length: 0'):
        build(queue_length=0)
    with pytest.raises(ValueError, match='pc_range: 2 numbers'):
        build(pc_range=[1, 2])
