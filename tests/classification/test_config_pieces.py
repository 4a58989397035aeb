"""configs/_base_/classification: networks and datasets merge into one model, and a recipe of few lines trains."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from vadslim.registry import DATASETS, METRICS, MODELS
from vadslim.testing import toy_runner

PIECES = Path(__file__).parents[2] / 'configs' / '_base_' / 'classification'
MODEL_FILES = sorted(path.stem for path in (PIECES / 'models').glob('*.py'))
# classes, side of the images
DATA_FILES = {
    'cifar10': (10, 32),
    'cifar100': (100, 32),
    'tiny_imagenet': (200, 64),
    'image_folder': (1000, 224),
    'digits': (10, 32),
    'digits_16': (10, 16),
}


def recipe(folder, model, data, more=''):
    """The config of a recipe, as it is written."""
    bases = [f'{PIECES}/models/{model}.py', f'{PIECES}/datasets/{data}.py', f'{PIECES}/runtime.py']
    path = folder / 'recipe.py'
    path.write_text(f'_base_ = {bases!r}\nmodel = _base_.data\n{more}')
    return Config.fromfile(path)


def build(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model.to_dict())


@pytest.mark.parametrize('name', MODEL_FILES)
def test_networks(name, tmp_path):
    cfg = recipe(tmp_path, name, 'tiny_imagenet')
    model = build(cfg)
    assert type(model).__name__ == cfg.model.type.removeprefix('vadslim.')
    assert model.image_size == 64
    assert [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1].out_features == 200
    # as many weights as the file says
    said = float(next(word for word in (PIECES / 'models' / f'{name}.py').read_text().split() if word[0].isdigit()))
    ten = build(recipe(tmp_path, name, 'digits'))
    assert sum(parameter.numel() for parameter in ten.parameters()) / 1e6 == pytest.approx(said, abs=0.051)


def test_all_datasets_are_tested():
    assert sorted(DATA_FILES) == sorted(path.stem for path in (PIECES / 'datasets').glob('*.py'))


@pytest.mark.parametrize('name', DATA_FILES)
def test_datasets(name, tmp_path):
    classes, size = DATA_FILES[name]
    cfg = recipe(tmp_path, 'vit_tiny', name)
    model = build(cfg)
    assert (model.head.out_features, model.image_size) == (classes, size)
    digits = name.startswith('digits')
    assert model.data_preprocessor.flip != digits  # a mirrored digit is none
    assert METRICS.build(cfg.val_evaluator.to_dict()).topk == METRICS.build(cfg.test_evaluator.to_dict()).topk == (1, 5)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        assert loader.dataset.split == split and loader.sampler.shuffle == (split == 'train')
        assert DATASETS.get(loader.dataset.type) is not None
        if digits:
            assert DATASETS.build(loader.dataset.to_dict())[0]['inputs'].shape == (3, size, size)
        else:
            assert loader.dataset.root == cfg.data_root


def test_a_recipe_trains(tmp_path):
    """An epoch by the Runner, validated and tested."""
    more = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
randomness = dict(seed=0)
"""
    cfg = recipe(tmp_path, 'resnet20', 'digits_16', more)
    cfg.update(work_dir=str(tmp_path / 'run'), log_level='WARNING')
    runner = toy_runner(cfg.to_dict())
    runner.train()
    assert runner.test()['accuracy/top5'] > 60  # of 50 for guessing
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
