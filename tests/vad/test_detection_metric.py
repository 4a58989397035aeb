"""Detection: the devkit's numbers, from boxes that are known to be right or wrong."""

import copy
import json

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.evaluate import DetectionEval
from vad_detections import VERSION, meta, perfect_sample, val_infos, whole_sample

from vadslim.cli import UserError
from vadslim.vad.datasets.nuscenes_vad import CLASSES
from vadslim.vad.metrics import DetectionTask, VADNuScenesMetric
from vadslim.vad.metrics.detection import PREFIX

ERRORS = {'trans_err': 'mATE', 'scale_err': 'mASE', 'orient_err': 'mAOE', 'vel_err': 'mAVE', 'attr_err': 'mAAE'}


@pytest.fixture(scope='module')
def frames(synthetic_root, tmp_path_factory):
    return val_infos(synthetic_root, tmp_path_factory.mktemp('val'))


@pytest.fixture
def samples(frames):
    return [perfect_sample(info) for info in frames]


@pytest.fixture
def score(synthetic_root):
    """Evaluates samples with a task's arguments; keys are without the prefix."""

    def evaluate(samples, **arguments):
        task = DetectionTask(**arguments)
        task.prepare(meta(synthetic_root))
        metrics = task.summarize([task.score(sample) for sample in copy.deepcopy(samples)])
        return {name.removeprefix(f'{PREFIX}/'): value for name, value in metrics.items()}

    return evaluate


def boxes_of(samples):
    return [sample['pred_instances_3d']['bboxes_3d'] for sample in samples]


def found(metrics):
    """Classes with true boxes that count: a perfect prediction finds them at every distance."""
    return [name for name in CLASSES if metrics[f'{name}_AP_dist_4.0'] > 0]


def test_perfect_predictions(samples, score):
    metrics = score(samples, range_axes='ego')
    assert {'car', 'pedestrian'} <= set(found(metrics))
    assert metrics['mAP'] == pytest.approx(len(found(metrics)) / 10)
    for name in found(metrics):
        assert [metrics[f'{name}_AP_dist_{d}'] for d in (0.5, 1.0, 2.0, 4.0)] == pytest.approx([1] * 4), name
        for error in ('trans_err', 'scale_err', 'orient_err', 'vel_err'):
            assert np.nan_to_num(metrics[f'{name}_{error}']) == pytest.approx(0, abs=2e-5), (name, error)
    assert np.isnan(metrics['traffic_cone_orient_err'])
    errors = [np.nanmean([metrics[f'{name}_{error}'] for name in CLASSES]) for error in ERRORS]
    assert [metrics[name] for name in ERRORS.values()] == pytest.approx(errors)
    assert metrics['NDS'] == pytest.approx((5 * metrics['mAP'] + sum(1 - np.clip(errors, 0, 1))) / 10)


@pytest.mark.parametrize(
    ('column', 'shift', 'error', 'expected'),
    [
        (0, 0.6, 'trans_err', 0.6),
        (1, -0.6, 'trans_err', 0.6),
        (6, 0.3, 'orient_err', 0.3),
        (6, np.pi, 'orient_err', np.pi),
        (7, 1.5, 'vel_err', 1.5),
        (8, -1.5, 'vel_err', 1.5),
    ],
)
def test_shifted_boxes(samples, score, column, shift, error, expected):
    for boxes in boxes_of(samples):
        boxes[:, column] += shift
    metrics = score(samples, range_axes='ego')
    assert metrics[f'car_{error}'] == pytest.approx(expected, rel=0.02)  # at the border one box may lack its partner
    others = set(ERRORS) - {error, 'attr_err'}
    assert all(metrics[f'car_{other}'] < 0.02 for other in others)
    assert (metrics['car_AP_dist_0.5'] < 0.1) == (error == 'trans_err')
    assert metrics['car_AP_dist_1.0'] > 0.9


def test_wrong_sizes_and_classes(samples, score):
    right = score(samples)
    for boxes in boxes_of(samples):
        boxes[:, 3:5] *= 2
    assert score(samples)['car_scale_err'] == pytest.approx(0.75, abs=1e-5)  # a quarter of the volume in common
    for sample in samples:
        labels = sample['pred_instances_3d']['labels_3d']
        labels[:] = (labels + 1) % 10
    wrong = score(samples)
    assert wrong['mAP'] < 0.3 * right['mAP']
    assert wrong['NDS'] < right['NDS']


def add(sample, x, y, label=0):
    """A confident box at x, y of the vehicle's frame."""
    pred = sample['pred_instances_3d']
    to_lidar = np.linalg.inv(sample['lidar2global']) @ sample['ego2global']
    box = np.array([[*(to_lidar @ [x, y, 1, 1])[:3], 1.8, 4.5, 1.6, 0, 0, 0]], np.float32)
    pred['bboxes_3d'] = np.concatenate([pred['bboxes_3d'], box])
    pred['labels_3d'] = np.append(pred['labels_3d'], label)
    pred['scores_3d'] = np.append(pred['scores_3d'], np.float32(1))


@pytest.mark.parametrize(('x', 'y', 'counts'), [(29.9, 0, True), (30.1, 0, False), (0, -14.9, True), (0, 15.1, False)])
def test_predictions_out_of_range_do_not_count(samples, score, x, y, counts):
    before = score(samples, range_axes='ego')
    for sample in samples:
        add(sample, x, y)
    after = score(samples, range_axes='ego')
    assert (after['car_AP_dist_4.0'] < before['car_AP_dist_4.0']) == counts


@pytest.mark.parametrize('axes', ['ego', 'global'])
def test_objects_out_of_range_do_not_count(samples, score, axes):
    """Who does not see what is out of range loses nothing; the range is the vehicle's or that of the global axes."""
    before = score(samples, range_axes=axes)
    total = 0
    for sample in samples:
        pred = sample['pred_instances_3d']
        centres = pred['bboxes_3d'][:, :3] @ sample['lidar2global'][:3, :3].T + sample['lidar2global'][:3, 3]
        offset = centres - sample['ego2global'][:3, 3]
        if axes == 'ego':
            offset = offset @ sample['ego2global'][:3, :3]
        near = (np.abs(offset[:, :2]) < [30, 15]).all(1)
        total += (~near).sum()
        sample['pred_instances_3d'] = {key: value[near] for key, value in pred.items()}
    assert total
    assert score(samples, range_axes=axes) == pytest.approx(before, nan_ok=True)


def test_what_is_no_detection(samples, score):
    before = score(samples)
    for sample in samples:
        add(sample, 5, 0)
        sample['pred_instances_3d']['scores_3d'][-1] = 0.19
        add(sample, 5, 0)
        sample['pred_instances_3d']['bboxes_3d'][-1, 4] = np.nan
    assert score(samples) == pytest.approx(before, nan_ok=True)
    for sample in samples:
        sample['pred_instances_3d']['scores_3d'] -= 0.45  # the least sure objects are below 0.2 now
    assert score(samples)['mAP'] < before['mAP']
    assert score(samples, score_threshold=0.0)['mAP'] == pytest.approx(before['mAP'])


def test_nothing_detected(samples, score):
    for sample in samples:
        sample['pred_instances_3d'] = {key: value[:0] for key, value in sample['pred_instances_3d'].items()}
    metrics = score(samples)
    assert metrics['NDS'] == metrics['mAP'] == 0
    assert metrics['mATE'] == 1


def test_some_samples(samples, score):
    """Only their own objects count."""
    assert score(samples[3:5], range_axes='ego')['car_AP_dist_0.5'] == pytest.approx(1)


def test_attributes_go_by_class_and_speed(samples):
    (sample,) = samples[:1]
    sample['pred_instances_3d'] = {
        'bboxes_3d': np.array([[0, 5, 0, 1, 2, 1, 0, 0, speed] for speed in (0.19, 0.21) for _ in CLASSES], np.float32),
        'labels_3d': np.array([*range(10), *range(10)]),
        'scores_3d': np.full(20, 0.5, np.float32),
    }
    task = DetectionTask()
    task.classes = CLASSES
    records = list(task.score(sample).records())
    slow, fast = (
        {r['detection_name']: r['attribute_name'] for r in records[part]} for part in (slice(10), slice(10, 20))
    )
    vehicles = ('car', 'truck', 'construction_vehicle', 'trailer')
    assert {slow[name] for name in vehicles} == {'vehicle.parked'}
    assert {fast[name] for name in (*vehicles, 'bus')} == {'vehicle.moving'}
    assert slow['bus'] == 'vehicle.stopped'
    assert (slow['pedestrian'], fast['pedestrian']) == ('pedestrian.standing', 'pedestrian.moving')
    assert (slow['bicycle'], fast['motorcycle']) == ('cycle.without_rider', 'cycle.with_rider')
    assert {slow['barrier'], fast['barrier'], slow['traffic_cone']} == {''}


# --- against the unmodified devkit --------------------------------------------------------------------------


@pytest.fixture(scope='module')
def whole(frames):
    return [whole_sample(info, seed) for seed, info in enumerate(frames)]


def through_the_metric(samples, root, folder, **arguments):
    """The metrics, and the result file beside them."""
    metric = VADNuScenesMetric(tasks=[{'type': 'detection', **arguments}], results_dir=str(folder))
    metric.dataset_meta = meta(root)
    metric.process(None, samples)
    metrics = metric.evaluate(len(samples))
    return {name.removeprefix(f'{PREFIX}/'): value for name, value in metrics.items()}


@pytest.fixture(scope='module')
def nusc(synthetic_root):
    return NuScenes(VERSION, str(synthetic_root), verbose=False)


def values(metrics):
    """The devkit's metrics under our names."""
    content = json.loads(json.dumps(metrics.serialize()))
    named = {'NDS': content['nd_score'], 'mAP': content['mean_ap']}
    named |= {ERRORS[key]: value for key, value in content['tp_errors'].items()}
    for name in DETECTION_NAMES:
        named |= {f'{name}_AP_dist_{key}': value for key, value in content['label_aps'][name].items()}
        named |= {f'{name}_{key}': value for key, value in content['label_tp_errors'][name].items()}
    return named


def test_equal_to_the_devkit_with_its_own_config(whole, synthetic_root, nusc, tmp_path):
    ours = through_the_metric(whole, synthetic_root, tmp_path, config='detection_cvpr_2019', score_threshold=0.0)
    cfg = config_factory('detection_cvpr_2019')
    theirs = DetectionEval(nusc, cfg, str(tmp_path / 'results_nusc.json'), 'mini_val', str(tmp_path), verbose=False)
    expected = values(theirs.evaluate()[0])
    assert 0.05 < ours['mAP'] < 0.9
    assert ours == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize('axes', ['global', 'ego'])
def test_equal_to_the_devkit_with_the_ranges_of_vad(whole, synthetic_root, nusc, tmp_path, axes):
    """The same, but boxes are taken out of the devkit's evaluation one by one."""
    ours = through_the_metric(whole, synthetic_root, tmp_path, range_axes=axes)
    cfg = config_factory('detection_cvpr_2019')
    cfg.class_range = dict.fromkeys(cfg.class_range, 1e9)
    theirs = DetectionEval(nusc, cfg, str(tmp_path / 'results_nusc.json'), 'mini_val', str(tmp_path), verbose=False)
    poses = {sample['sample_idx']: sample['ego2global'] for sample in whole}

    def is_near(box):
        x, y, z = box.ego_translation
        if axes == 'ego':
            x, y, _ = poses[box.sample_token][:3, :3].T @ (x, y, z)
        return abs(x) < 30 and abs(y) < 15

    for boxes in (theirs.gt_boxes, theirs.pred_boxes):
        for token in boxes.sample_tokens:
            boxes.boxes[token] = [box for box in boxes[token] if is_near(box)]
    assert 0.05 < ours['mAP'] < 0.9
    assert ours == pytest.approx(values(theirs.evaluate()[0]), rel=0, abs=0, nan_ok=True)


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'version': 'v1.0-trainval'}, r'v1.0-trainval/category.json: no such file; .* leave detection out'),
        ({'version': 'v1.0-test'}, 'v1.0-test is without annotations'),
        ({'version': None}, 'does not say of which version'),
        ({'classes': ('car', 'tram')}, 'classes tram are none of nuScenes'),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(synthetic_root, change, words):
    with pytest.raises(UserError, match=words):
        VADNuScenesMetric(tasks=['detection']).dataset_meta = {**meta(synthetic_root), **change}
    VADNuScenesMetric(tasks=['motion']).dataset_meta = {**meta(synthetic_root), **change}


def test_other_or_damaged_tables(samples, synthetic_root, tmp_path):
    task = DetectionTask()
    folder = tmp_path / VERSION
    folder.mkdir()
    for file in (synthetic_root / VERSION).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    task.prepare(meta(tmp_path))
    samples[0]['sample_idx'] = 'elsewhere'
    with pytest.raises(UserError, match='lacks 1 of 12 samples, such as elsewhere'):
        task.summarize([task.score(sample) for sample in samples])
    (folder / 'sample.json').write_bytes((folder / 'sample.json').read_bytes()[:100])
    with pytest.raises(UserError, match=r'is damaged \(sample.json'):
        task.summarize([])
    with pytest.raises(ValueError, match='dataset_meta of the metric must come first'):
        DetectionTask().summarize([])


@pytest.mark.parametrize(('argument', 'value'), [('config', 'cvpr'), ('range_axes', 'lidar')])
def test_wrong_arguments(argument, value):
    with pytest.raises(UserError, match=f"{argument} is '{value}', allowed: "):
        DetectionTask(**{argument: value})
