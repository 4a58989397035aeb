"""Preprocessing, the metric, and a training by MMEngine's Runner."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from scipy import ndimage

from vadslim.classification import STATISTICS, Accuracy, Digits, ImagePreprocessor
from vadslim.classification.preprocessor import crop_and_flip, rotate
from vadslim.cli import UserError
from vadslim.testing import toy_runner

CONFIG = Path(__file__).parents[2] / 'configs' / 'sparse' / 'resnet20_digits_dense.py'


def batch(count=4):
    images = torch.randint(256, (count, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {'inputs': images, 'labels': torch.arange(count)}


def test_normalised_once():
    data = batch()
    mean, std = (np.array(values).reshape(3, 1, 1) for values in STATISTICS['cifar100'])
    expected = (data['inputs'].numpy() / 255 - mean) / std
    preprocessor = ImagePreprocessor('cifar100', pad=2, flip=True)
    result = preprocessor(data)
    np.testing.assert_allclose(result['inputs'].numpy(), expected, rtol=1e-5, atol=1e-6)
    listed = preprocessor({'inputs': list(data['inputs']), 'labels': data['labels'].tolist()})
    assert torch.equal(listed['inputs'], result['inputs']) and torch.equal(listed['labels'], data['labels'])
    assert listed['labels'].dtype == torch.int64
    with pytest.raises(UserError, match='uint8 is needed'):
        preprocessor(result)  # a second time


def test_digits_are_normalised():
    data = ImagePreprocessor('digits')({'inputs': torch.from_numpy(Digits().images), 'labels': Digits().labels})
    assert abs(data['inputs'].mean()) < 0.02 and abs(data['inputs'].std() - 1) < 0.02


def test_crops_and_flips_are_those_of_numpy():
    images = batch(64)['inputs']
    torch.manual_seed(3)
    result = crop_and_flip(images, 2, True)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)])
    seen = set()
    for image, source in zip(result.numpy(), padded):
        found = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (1, -1)
            if np.array_equal(image, source[:, top : top + 6, left : left + 8][:, :, ::flip])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {place[0] for place in seen} == {place[1] for place in seen} == set(range(5))
    assert {place[2] for place in seen} == {1, -1}
    torch.manual_seed(3)
    assert torch.equal(crop_and_flip(images, 2, True), result)
    assert not torch.equal(crop_and_flip(images, 2, True), result)


def test_rotated_as_scipy_does():
    images = batch(6)['inputs']
    angles = torch.tensor([0.0, 20.0, -20.0, 7.3, 90.0, 180.0])
    result = rotate(images, angles)
    assert result.dtype == torch.uint8 and torch.equal(result[0], images[0])
    for image, source, angle in zip(result.numpy(), images.numpy(), angles.tolist()):
        expected = ndimage.rotate(
            source.astype(float), angle, axes=(2, 1), reshape=False, order=1, mode='grid-constant', cval=0
        )
        assert np.abs(image - expected).max() < 0.51  # rounded


def test_rotations_are_of_all_angles():
    """Of a white image the corners go black the farther, the more it is turned."""
    torch.manual_seed(0)
    preprocessor = ImagePreprocessor(((0, 0, 0), (1, 1, 1)), rotate=20)
    data = {'inputs': torch.full((200, 3, 16, 16), 255, dtype=torch.uint8), 'labels': torch.zeros(200)}
    lost = 1 - preprocessor(data, training=True)['inputs'].mean((1, 2, 3))
    most = 1 - rotate(data['inputs'][:1], torch.tensor([20.0])).float().mean() / 255
    assert lost.min() < 0.1 * most < 0.9 * most < lost.max() <= most + 1e-6


@pytest.mark.parametrize('options', [{'pad': 2}, {'flip': True}, {'rotate': 20}])
def test_only_training_is_augmented(options):
    preprocessor, data = ImagePreprocessor(**options), batch(16)
    assert torch.equal(preprocessor(data)['inputs'], preprocessor(data)['inputs'])
    assert not torch.equal(preprocessor(data, training=True)['inputs'], preprocessor(data)['inputs'])
    torch.manual_seed(1)
    first, second = (preprocessor(data, training=True)['inputs'] for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(preprocessor(data, training=True)['inputs'], first) and not torch.equal(first, second)


@pytest.mark.parametrize(
    'options',
    [{'statistics': 'cifar'}, {'statistics': ((0, 0, 0), (1, 1, 0))}, {'pad': -1}, {'rotate': -1}, {'rotate': 181}],
)
def test_preprocessor_mistakes(options):
    with pytest.raises(UserError, match='ImagePreprocessor: '):
        ImagePreprocessor(**options)


def test_accuracy_by_hand():
    metric = Accuracy(topk=(1, 2, 3))
    rows = [([0.1, 0.7, 0.2], 1), ([0.1, 0.7, 0.2], 2), ([0.1, 0.7, 0.2], 0), ([0.5, 0.5, 0.0], 1)]
    samples = [{'scores': torch.tensor(scores), 'label': torch.tensor(label)} for scores, label in rows]
    metric.process({}, samples[:3])
    metric.process({}, samples[3:])
    assert metric.evaluate(4) == {'accuracy/top1': 25, 'accuracy/top2': 75, 'accuracy/top3': 100}


def test_accuracy_mistakes():
    for topk in ((), 0, (1, 2.5)):
        with pytest.raises(UserError, match='topk'):
            Accuracy(topk)
    with pytest.raises(UserError, match='there are 3 classes'):
        Accuracy((1, 5)).process({}, [{'scores': torch.rand(3), 'label': 0}])


def config(work_dir, workers, **model):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({'work_dir': str(work_dir), 'log_level': 'WARNING', 'train_cfg.max_epochs': 1})
    cfg.train_dataloader.num_workers = workers
    cfg.model.update(depth=8, **model)
    cfg.train_dataloader.dataset = dict(type='Subset200')
    return cfg.to_dict()


def test_training_does_not_depend_on_the_workers(tmp_path):
    """One epoch on 200 digits: the same weights with none and with two loading processes, and it learns."""
    from mmengine.registry import DATASETS
    from torch.utils.data import Subset

    DATASETS.register_module('Subset200', force=True, module=lambda: Subset(Digits('train'), range(200)))
    results = []
    for workers in (0, 2):
        runner = toy_runner(config(tmp_path / str(workers), workers))
        model = runner.train()
        results.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    metrics = runner.test()
    assert set(metrics) == {'accuracy/top1', 'accuracy/top5'}
