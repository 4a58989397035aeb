"""Transforms, data preprocessor, sampler and reading of info records, on numbers made by hand."""

import copy

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.config import Config
from pyquaternion import Quaternion

from vadslim.cli import UserError
from vadslim.vad.datasets import (
    CustomObjectNameFilter,
    CustomObjectRangeFilter,
    PhotoMetricDistortionMultiViewImage,
    RandomScaleImageMultiViewImage,
    SceneSampler,
    VADDataPreprocessor,
    VADLoadMultiViewImages,
    infos,
)
from vadslim.vad.datasets import sampler as sampler_module

# --- info records --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('recorded', 'resolved'),
    [
        ('./data/nuscenes/samples/CAM_FRONT/a.jpg', '/d/samples/CAM_FRONT/a.jpg'),
        ('samples/CAM_FRONT/a.jpg', '/d/samples/CAM_FRONT/a.jpg'),
        ('/old/samples/run/sweeps/LIDAR_TOP/a.bin', '/d/samples/run/sweeps/LIDAR_TOP/a.bin'),
        ('data\\nuscenes\\samples\\CAM_BACK\\a.jpg', '/d/samples/CAM_BACK/a.jpg'),
        ('/elsewhere/a.jpg', '/elsewhere/a.jpg'),
    ],
)
def test_paths_of_records_lead_into_the_data_root(recorded, resolved):
    assert infos.resolve_path(recorded, '/d') == resolved


def record(num: int = 3) -> dict:
    g = np.random.default_rng(0)
    return {
        'can_bus': np.arange(18.0),
        'ego2global_translation': [100.0, 200.0, 1.0],
        'ego2global_rotation': list(Quaternion(axis=[0, 0, 1], degrees=-90)),
        'gt_boxes': np.column_stack([g.normal(size=(num, 3)), np.full((num, 3), 2.0), np.full(num, -4.0)]),
        'gt_velocity': np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]])[:num],
        'gt_names': np.array(['car', 'animal', 'pedestrian'])[:num],
        'num_lidar_pts': np.array([1, 5, 0])[:num],
        'valid_flag': np.array([True, True, True])[:num],
        'gt_agent_fut_trajs': np.arange(12.0 * num).reshape(num, 12),
        'gt_agent_fut_masks': np.ones((num, 6)),
        'gt_agent_fut_goal': np.full(num, 9.0),
        'gt_agent_lcf_feat': np.full((num, 9), np.nan),
        'gt_agent_fut_yaw': np.full((num, 6), 0.5),
    }


def test_can_bus_holds_the_heading_in_degrees_and_radians():
    info = record()
    vector = infos.can_bus(info)
    assert vector[-1] == pytest.approx(270)
    assert vector[-2] == pytest.approx(1.5 * np.pi)
    assert vector[:3].tolist() == info['ego2global_translation']
    assert vector[3:7].tolist() == info['ego2global_rotation']
    assert vector[7:16].tolist() == list(range(7, 16))
    assert info['can_bus'].tolist() == list(range(18))  # the record is left alone


def test_agents_of_a_record():
    info = record()
    out = infos.agents(info, ['pedestrian', 'car'], use_valid_flag=True)
    assert out['gt_labels_3d'].tolist() == [1, -1, 0]
    assert out['gt_attr_labels'].shape == (3, infos.NUM_ATTRIBUTES)
    np.testing.assert_array_equal(out['gt_attr_labels'][:, :12], info['gt_agent_fut_trajs'])
    assert (out['gt_attr_labels'][:, 12:18] == 1).all()
    assert (out['gt_attr_labels'][:, 18] == 9).all()
    assert (out['gt_attr_labels'][:, 19:28] == 0).all()  # unknown velocities
    assert (out['gt_attr_labels'][:, 28:] == 0.5).all()
    np.testing.assert_allclose(out['gt_bboxes_3d'][:, 2], info['gt_boxes'][:, 2] - 1, rtol=1e-6)
    np.testing.assert_allclose(out['gt_bboxes_3d'][:, 6], 2 * np.pi - 4, rtol=1e-6)
    assert out['gt_bboxes_3d'][:, 7:].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert len(infos.agents(info, ['car'], use_valid_flag=False)['gt_labels_3d']) == 2  # without the point-less one


def test_frame_without_objects():
    out = infos.agents(record(0), ['car'], use_valid_flag=True)
    assert out['gt_bboxes_3d'].shape == (0, 9)
    assert out['gt_attr_labels'].shape == (0, 34)


def test_relative_can_bus():
    frames = [np.arange(18.0) * k for k in (1, 2, 4)]
    relative = infos.relative_can_bus(frames)
    assert relative[0][:3].tolist() == [0, 0, 0]
    assert relative[0][-1] == 0
    assert relative[2][:3].tolist() == [0, 2, 4]
    assert relative[2][-1] == 2 * 17
    assert relative[2][-2] == 4 * 16  # radians stay absolute
    assert frames[0][-1] == 17


# --- transforms ----------------------------------------------------------------------------------------------


def test_missing_and_broken_images_are_named(tmp_path):
    load = VADLoadMultiViewImages()
    with pytest.raises(UserError, match='none.jpg: no such image'):
        load({'img_path': [str(tmp_path / 'none.jpg')]})
    whole = cv2.imencode('.jpg', np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8))[1].tobytes()
    (tmp_path / 'good.jpg').write_bytes(whole)
    assert load({'img_path': [str(tmp_path / 'good.jpg')]})['img'][0].shape == (90, 160, 3)
    for content in (b'not a picture', b'', whole[: len(whole) // 2], whole[:-2]):
        (tmp_path / 'bad.jpg').write_bytes(content)
        with pytest.raises(UserError, match='bad.jpg: not a readable image'):
            load({'img_path': [str(tmp_path / 'bad.jpg')]})
    with pytest.raises(UserError, match='cannot be read: Is a directory'):
        load({'img_path': [str(tmp_path)]})


def test_reduced_images_keep_projections_true(tmp_path):
    image = np.zeros((90, 160, 3), np.uint8)
    image[40:56, 96:120] = 255
    cv2.imwrite(str(tmp_path / 'a.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    results = {'img_path': [str(tmp_path / 'a.jpg')], 'lidar2img': [np.diag([2.0, 3.0, 1.0, 1.0])]}
    out = VADLoadMultiViewImages(reduced=4)(dict(results))
    assert out['img'][0].shape == (23, 40, 3)  # rounded up
    assert out['img'][0].dtype == np.float32
    rows, columns = np.nonzero(out['img'][0][..., 0] > 128)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 13, 24, 29)
    assert np.diag(out['lidar2img'][0]).tolist() == [0.5, 0.75, 1.0, 1.0]
    assert VADLoadMultiViewImages()(dict(results))['lidar2img'] is results['lidar2img']
    with pytest.raises(ValueError, match='reduced: 3'):
        VADLoadMultiViewImages(reduced=3)


def test_scaling_keeps_projections_true():
    image = np.zeros((90, 160, 3), np.float32)
    image[40:50, 100:110] = 255
    projection = np.diag([2.0, 3.0, 1.0, 1.0])
    out = RandomScaleImageMultiViewImage([0.5])({'img': [image], 'lidar2img': [projection]})
    assert out['img'][0].shape == (45, 80, 3)
    rows, columns = np.nonzero(out['img'][0][..., 0])
    assert (rows.mean(), columns.mean()) == (22.0, 52.0)
    assert np.diag(out['lidar2img'][0]).tolist() == [1.0, 1.5, 1.0, 1.0]
    with pytest.raises(ValueError, match='positive factors'):
        RandomScaleImageMultiViewImage([])


def test_filters_drop_rows_of_everything_together():
    results = {
        'gt_bboxes_3d': np.array([[0, 0, 0], [14.9, 29.9, 99], [15, 0, 0], [0, -30.1, 0]], np.float32),
        'gt_labels_3d': np.array([-1, 2, 3, 4]),
        'gt_attr_labels': np.arange(4)[:, None],
    }
    results = CustomObjectRangeFilter([-15, -30, -2, 15, 30, 2])(results)
    assert results['gt_attr_labels'][:, 0].tolist() == [0, 1]
    results = CustomObjectNameFilter(['a', 'b', 'c'])(results)
    assert results['gt_labels_3d'].tolist() == [2]
    assert results['gt_attr_labels'][:, 0].tolist() == [1]
    assert CustomObjectNameFilter(['a'])({}) == {}  # frames without ground truth pass


def test_distortion_is_random_keeps_shapes_and_can_be_switched_off():
    g = np.random.default_rng(0)
    images = [g.uniform(0, 255, (8, 9, 3)).astype(np.float32) for _ in range(6)]
    distort = PhotoMetricDistortionMultiViewImage()
    np.random.seed(3)
    first = distort({'img': images})['img']
    second = distort({'img': images})['img']
    np.random.seed(3)
    again = distort({'img': images})['img']
    assert all(a.dtype == np.float32 and a.shape == (8, 9, 3) for a in first)
    assert any(not np.allclose(a, b) for a, b in zip(first, second))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    off = PhotoMetricDistortionMultiViewImage(0, (1, 1), (1, 1), 0)({'img': images})['img']
    for before, after in zip(images, off):  # at most the order of the channels changes
        np.testing.assert_allclose(np.sort(after, axis=-1), np.sort(before, axis=-1), atol=1e-2)


@pytest.mark.parametrize('seed', range(8))
def test_distortion_step_by_step(seed):
    """Against the same steps done one after the other, with the hue wrapped by hand."""
    g = np.random.default_rng(seed)
    image = g.uniform(60, 255, (16, 17, 3)).astype(np.float32)  # saturation is ill-conditioned near black
    distort = PhotoMetricDistortionMultiViewImage(hue_delta=180)
    np.random.seed(seed)
    out = distort({'img': [image]})['img'][0]

    np.random.seed(seed)
    random, expected = np.random, image.copy()
    if random.randint(2):
        expected += random.uniform(-32, 32)
    first = random.randint(2)
    if first and random.randint(2):
        expected *= random.uniform(0.5, 1.5)
    hsv = mmcv.bgr2hsv(expected)
    if random.randint(2):
        hsv[..., 1] *= random.uniform(0.5, 1.5)
    if random.randint(2):
        hsv[..., 0] = (hsv[..., 0] + random.uniform(-180, 180)) % 360
    expected = mmcv.hsv2bgr(hsv)
    if not first and random.randint(2):
        expected *= random.uniform(0.5, 1.5)
    if random.randint(2):
        expected = expected[..., random.permutation(3)]
    np.testing.assert_allclose(out, expected, atol=2e-2)


# --- data preprocessor ---------------------------------------------------------------------------------------


def batch(num: int = 2) -> dict:
    meta = {
        'img_shape': [(45, 80, 3)] * 6,
        'history_metas': [{'img_shape': [(45, 80, 3)] * 6, 'frame_idx': 1}],
    }
    return {
        'inputs': {'img': [torch.full((3, 6, 3, 45, 80), 10.0) for _ in range(num)]},
        'data_samples': [Det3DDataSample(metainfo=copy.deepcopy(meta)) for _ in range(num)],
    }


def test_preprocessor_normalises_then_pads():
    preprocess = VADDataPreprocessor(mean=[1, 2, 3], std=[1, 2, 4], bgr_to_rgb=False, pad_size_divisor=32)
    out = preprocess(batch())
    image = out['inputs']['img']
    assert image.shape == (2, 3, 6, 3, 64, 96)
    assert image[0, 0, 0, :, 0, 0].tolist() == [9.0, 4.0, 1.75]
    assert image[..., 45:, :].abs().max() == 0
    assert image[..., 80:].abs().max() == 0
    for sample in out['data_samples']:
        assert sample.metainfo['img_shape'] == [(64, 96, 3)] * 6
        assert sample.metainfo['history_metas'][0] == {'img_shape': [(64, 96, 3)] * 6, 'frame_idx': 1}


def test_preprocessor_swaps_channels_and_adds_nothing_to_checkpoints():
    preprocess = VADDataPreprocessor(mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=True, pad_size_divisor=1)
    image = torch.arange(3.0).view(1, 1, 3, 1, 1)
    assert preprocess({'inputs': {'img': [image]}})['inputs']['img'].flatten().tolist() == [2, 1, 0]
    assert preprocess.state_dict() == {}


def test_preprocessor_errors():
    preprocess = VADDataPreprocessor(mean=[0, 0, 0], std=[1, 1, 1])
    data = batch()
    data['inputs']['img'][1] = torch.zeros(3, 6, 3, 40, 80)
    with pytest.raises(ValueError, match='must have one shape'):
        preprocess(data)
    with pytest.raises(ValueError, match='std > 0'):
        VADDataPreprocessor(mean=[0, 0, 0], std=[1, 0, 1])


# --- sampler -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('ranks', [1, 2, 3, 4, 7])
def test_scenes_stay_whole_and_every_frame_comes_once(ranks):
    scenes = [name for name, count in zip('abcdef', (40, 39, 41, 10, 38, 40)) for _ in range(count)]
    parts = sampler_module.split_scenes(scenes, ranks)
    assert [i for part in parts for i in part] == list(range(len(scenes)))
    owners = [{scenes[i] for i in part} for part in parts]
    assert sum(len(owner) for owner in owners) == 6
    assert max(map(len, parts)) <= len(scenes) / ranks + 41


def test_split_needs_whole_scenes():
    with pytest.raises(ValueError, match='stand together'):
        sampler_module.split_scenes(['a', 'b', 'a'], 1)


def test_scene_sampler_takes_its_ranks_part(monkeypatch):
    class Frames(list):
        def scene_tokens(self):
            return list(self)

    monkeypatch.setattr(sampler_module, 'get_dist_info', lambda: (1, 2))
    sampler = SceneSampler(Frames('aaabbb'), seed=7)
    assert list(sampler) == [3, 4, 5]
    assert len(sampler) == 3


# --- config --------------------------------------------------------------------------------------------------


def test_base_config_reads():
    from pathlib import Path

    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets' / 'nuscenes_vad.py')
    assert cfg.train_dataloader.dataset.type == 'VADNuScenesDataset'
    assert cfg.val_dataloader.sampler.type == 'SceneSampler'
    assert cfg.published_img_norm_cfg.std == [1.0, 1.0, 1.0]
