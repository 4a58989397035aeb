"""From settings, and a recipe if there is one, to the config of the dense network that all levels share."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import import_modules_from_strings

from vadslim.cli import UserError
from vadslim.options import load_config, merge_texts
from vadslim.registry import MODELS
from vadslim.sparse_training.settings import BACKENDS, Settings

PIECES = Path(__file__).resolve().parents[3] / 'configs' / '_base_' / 'classification'
#: --arch -> the piece of a recipe that holds its model; any other name is a registered class
ARCHS = {
    'res20s': 'resnet20',
    'resnet20': 'resnet20',
    'sparseresnet20': 'resnet20',
    'res32s': 'resnet32',
    'resnet32': 'resnet32',
    'res56s': 'resnet56',
    'resnet56': 'resnet56',
    'res18': 'resnet18',
    'resnet18': 'resnet18',
    'res50': 'resnet50',
    'resnet50': 'resnet50',
    'vgg16_bn': 'vgg16_bn',
    'vgg_small': 'vgg_small',
    'my_vgg': 'vgg_small',
    'mobilenet': 'mobilenet',
    'vit_tiny': 'vit_tiny',
    'vit_small': 'vit_small',
    'vit_base': 'vit_base',
}
SETS = {
    'cifar10': 'cifar10',
    'cifar100': 'cifar100',
    'tiny-imagenet': 'tiny_imagenet',
    'imagenet': 'image_folder',
    'folder': 'image_folder',
    'digits': 'digits',
}
#: keys of a recipe that belong to its data set
_DATA = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator', 'data')
#: keys of a config that the settings and the levels decide
_FLAGS = {
    'randomness': 'use --seed and --deterministic',
    'train_cfg': 'use --epochs',
    'val_cfg': 'levels are validated after each epoch',
    'test_cfg': 'levels are tested when they are trained',
    'work_dir': 'use --save_dir',
    'load_from': 'use --init or --pretrained',
    'resume': 'the command goes on where it was',
    'experiment_name': 'use --exp_name',
}


def load_recipe(path: str | None, given: Mapping[str, Any], options: Sequence[str]) -> tuple[Config, Settings]:
    """The config that all levels share, and the settings.

    Args:
        path: of a recipe, or None: then ``--arch`` and ``--dataset`` choose the pieces of one.
        given: flags that were given.
        options: texts of ``--cfg-options``.

    Raises:
        UserError: a recipe, flag, network or data set that cannot be.
    """
    cfg = load_config(path) if path else Config(dict(load_config(PIECES / 'runtime.py').to_dict()))
    own = {field: given[field] for field in Settings.__dataclass_fields__ if field in given}
    if 'layer_rates' in own:
        own['layer_rates'] = dict(own['layer_rates'])
    recipe = dict(cfg.get('sparse') or {})
    settings = Settings.of(recipe, own)
    cfg._cfg_dict.pop('sparse', None)
    if imports := [*_imports(cfg), *given.get('imports', [])]:
        cfg.custom_imports = {'imports': imports, 'allow_failed_imports': False}
    use_imports(cfg)
    if path is None or 'dataset' in own:
        _use_dataset(cfg, settings)
    if path is None or 'arch' in own:
        _use_arch(cfg, settings)
    if 'model' not in cfg or 'train_dataloader' not in cfg:
        missing = 'model' if 'model' not in cfg else 'train_dataloader'
        raise UserError(f'recipe {path}: has no {missing}; it may also be named by --arch and --dataset')
    if path is None or own.keys() & {'dataset', 'arch'}:
        cfg.model.merge(ConfigDict(copy.deepcopy(cfg.get('data') or {})))
    training = [text for text in options if text.split('.')[0].split('=')[0] in ('optim_wrapper', 'param_scheduler')]
    for text in options:
        if flag := _FLAGS.get(text.split('.')[0].split('=')[0]):
            raise UserError(f'--cfg-options {text}: has no effect; {flag}')
    merge_texts(cfg, [text for text in options if text not in training])
    _use_loaders(cfg, settings, given)
    _use_training(cfg, settings, set(recipe) | set(own))
    merge_texts(cfg, training)  # over what the settings have made
    _use_backends(cfg, given)
    return cfg, settings


def _imports(cfg: Config) -> list[str]:
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    return [names] if isinstance(names, str) else list(names)


def use_imports(cfg: Config) -> None:
    """Import what a config names and set its scope, in every process that is to build from it.

    Raises:
        UserError: there is no such module.
    """
    try:
        import_modules_from_strings(_imports(cfg))
    except ImportError as error:
        raise UserError(f'--import: {error}; the folder of your module must be in PYTHONPATH') from None
    init_default_scope(cfg.get('default_scope', 'mmengine'))


def _piece(folder: str, name: str) -> dict[str, Any]:
    file = PIECES / folder / f'{name}.py'
    if not file.is_file():
        raise UserError(f'{file}: no such file; without a recipe the command needs the configs of its repository')
    return load_config(file).to_dict()


def _use_dataset(cfg: Config, settings: Settings) -> None:
    if settings.dataset not in SETS:
        raise UserError(f'--dataset {settings.dataset!r}: choose from {", ".join(SETS)}')
    name = SETS[settings.dataset]
    if name == 'digits' and _is_vit(settings.arch):
        name = 'digits_16'
    piece = _piece('datasets', name)
    for key in {**(cfg.get('data') or {}), **piece['data']}:
        (cfg.get('model') or {}).pop(key, None)  # or what the new data do not say stays: digits would be mirrored
    for key in _DATA:
        cfg._cfg_dict.pop(key, None)
    cfg.merge_from_dict({key: piece[key] for key in _DATA if key in piece})


def _is_vit(arch: str) -> bool:
    return arch.startswith('vit_') or 'transformer' in arch.lower()


def _use_arch(cfg: Config, settings: Settings) -> None:
    if settings.arch in ARCHS:
        model = _piece('models', ARCHS[settings.arch])['model']
    else:
        kind = settings.arch if '.' in settings.arch else f'vadslim.{settings.arch}'
        names = [name for name in (kind, settings.arch) if MODELS.get(name) is not None]
        if not names:
            raise UserError(
                f'--arch {settings.arch!r}: choose from {", ".join(ARCHS)}, or a class that is registered in '
                'vadslim.registry.MODELS by a module that --import names'
            )
        model = {'type': names[0]}
    cfg._cfg_dict.pop('model', None)
    cfg.model = model


def _use_loaders(cfg: Config, settings: Settings, given: Mapping[str, Any]) -> None:
    if settings.batch_size is not None:
        cfg.train_dataloader.batch_size = settings.batch_size
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is None:
            raise UserError(f'the recipe has no {name}: levels are chosen by validation data and rated by test data')
        loader = cfg[name]
        if 'data' in given:
            if 'root' not in loader.dataset:
                raise UserError(f'--data: the data set {loader.dataset.get("type")} does not lie in a folder')
            loader.dataset.root = given['data']
        if 'workers' in given:
            loader.num_workers = given['workers']
            if not given['workers']:
                loader.persistent_workers = False
                loader.pop('prefetch_factor', None)


def _use_training(cfg: Config, settings: Settings, named: set[str]) -> None:
    """The optimizer, schedule and loops; a recipe's own stay where no setting names another."""
    if 'optim_wrapper' not in cfg or named & {'lr', 'momentum', 'weight_decay', 'optimizer'}:
        optimizer: dict[str, Any] = {'type': 'SGD', 'momentum': settings.momentum}
        if settings.optimizer == 'adamw':
            optimizer = {'type': 'AdamW'}
        optimizer.update(lr=settings.lr, weight_decay=settings.weight_decay)
        cfg._cfg_dict.pop('optim_wrapper', None)
        cfg.optim_wrapper = {'type': 'OptimWrapper', 'optimizer': optimizer}
    if settings.accumulate > 1:
        cfg.optim_wrapper.accumulative_counts = settings.accumulate
    if settings.amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    if 'param_scheduler' not in cfg or named & {'warmup', 'decreasing_lr'}:
        cfg.param_scheduler = _schedule(cfg, settings)
    cfg.train_cfg = {'type': 'EpochBasedTrainLoop', 'max_epochs': settings.epochs, 'val_interval': 1}
    cfg.val_cfg, cfg.test_cfg = {'type': 'ValLoop'}, {'type': 'TestLoop'}
    cfg.randomness = {'seed': settings.seed, 'deterministic': settings.deterministic}


def _schedule(cfg: Config, settings: Settings) -> list[dict[str, Any]]:
    """Linear warm-up by step, from the first step's share on, then a tenth after each milestone."""
    schedule: list[dict[str, Any]] = []
    warmup = settings.warmup_epochs
    if warmup:
        steps = warmup * _steps(cfg)
        schedule.append(
            {'type': 'LinearLR', 'start_factor': 1 / steps, 'by_epoch': False, 'begin': 0, 'end': steps},
        )
    if milestones := [epoch for epoch in settings.milestones if 0 < epoch < settings.epochs]:
        schedule.append({'type': 'MultiStepLR', 'milestones': milestones, 'gamma': 0.1, 'by_epoch': True})
    return schedule


def _steps(cfg: Config) -> int:
    """Of an epoch, in each of the processes."""
    batch_size = cfg.train_dataloader.get('batch_size', 1)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f'train_dataloader.batch_size {batch_size!r}: a whole number of at least 1 is needed')
    images = math.ceil(len(DATASETS.build(cfg.train_dataloader.dataset)) / get_world_size())
    return math.ceil(images / batch_size)


def _use_backends(cfg: Config, given: Mapping[str, Any]) -> None:
    if 'print_freq' in given:
        cfg.default_hooks.logger.interval = given['print_freq']
    if 'backends' in given:
        kinds = [{'type': BACKENDS[name]} for name in dict.fromkeys(given['backends'])]
        cfg.visualizer = {'type': 'Visualizer', 'vis_backends': kinds}
