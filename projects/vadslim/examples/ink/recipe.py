"""From the sections of a staged config to the config of an MMEngine Runner."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...cli import UserError, say
from .model import NEW_IN_DENSE, STRUCTURAL
from .strokes import SIZE

BEST = 'skeleton/f1'
_TEST_IMAGES = 1000
_EACH = 8  # images of each curriculum stage in a validation, at least


def to_config(sections: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    """Write the config of one stage's training.

    ``model.full_heads`` makes it the dense stage; without, it is the structural one, whose heads have weight 1 and
    whose training images are masked.

    Args:
        sections: ``model``, ``training``, ``data``, ``logging``, ``device`` and ``seed``, all keys with their values.
        stage: its ``name`` (the work dir is ``training.save_dir``/name); if it begins with the weights of another one,
            ``init_from``.

    Returns:
        Plain data.

    Raises:
        UserError: values that do not go together.
    """
    model, training, data, logging = (sections[name] for name in ('model', 'training', 'data', 'logging'))
    if data['img_size'] != SIZE:
        raise UserError(f'data.img_size {data["img_size"]}: strokes are drawn on {SIZE} x {SIZE} pixels')
    name, seed, dense = stage['name'], sections['seed'] or 0, model['full_heads']
    length = training['epoch_length']
    curriculum = _curriculum(training['curriculum'], data['curriculum_stage'])
    stages = list(range(curriculum['start_stage'], curriculum['end_stage'] + 1))
    validation = min(_TEST_IMAGES, max(length // 4, _EACH * len(stages)))
    weights = training['loss_weights'] if dense else dict.fromkeys(STRUCTURAL, 1.0)
    hooks: list[dict[str, Any]] = [
        {'type': 'vadslim.RandomStateHook'},
        {'type': 'vadslim.StructureHook', 'allow_missing': list(NEW_IN_DENSE) if stage.get('init_from') else []},
        {'type': 'vadslim.CurriculumHook', **curriculum},
    ]
    if logging['vis_interval']:
        hooks.append({'type': 'vadslim.InkPictureHook', 'interval': logging['vis_interval']})
    return {
        'default_scope': 'mmengine',
        'custom_imports': {'imports': ['vadslim.examples.ink', 'vadslim.hooks'], 'allow_failed_imports': False},
        'work_dir': str(Path(training['save_dir']) / name),
        'randomness': {'seed': seed},
        'model': {
            'type': 'vadslim.InkNet',
            **{key: model[key] for key in ('embed_dim', 'num_layers', 'decoder_dim', 'full_heads')},
            'mask_ratio': 0.0 if dense else training['mask_ratio'],
            'mask_strategy': training['mask_strategy'],
            'loss_weights': dict(weights),
            'freeze_encoder': bool(model.get('freeze_encoder')),
        },
        # seeds 3n, 3n + 1, 3n + 2: no run's training strokes are another's, or its own, to validate or test on
        'train_dataloader': _loader(training, data, length, stages[0], 3 * seed, shuffle=True),
        'val_dataloader': _loader(training, data, validation, stages, 3 * seed + 1),
        'test_dataloader': _loader(training, data, _TEST_IMAGES, stages, 3 * seed + 2),
        'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': training['epochs'], 'val_interval': 1},
        'val_cfg': {'type': 'ValLoop'},
        'test_cfg': {'type': 'TestLoop'},
        'val_evaluator': {'type': 'vadslim.SkeletonMetric'},
        'test_evaluator': {'type': 'vadslim.SkeletonMetric'},
        'optim_wrapper': _optimizer(training, amp=dense and _uses_cuda(sections, stage)),
        'param_scheduler': _schedule(training),
        'default_hooks': {
            'timer': {'type': 'IterTimerHook'},
            'logger': {'type': 'LoggerHook', 'interval': logging['log_interval']},
            'param_scheduler': {'type': 'ParamSchedulerHook'},
            'checkpoint': {
                'type': 'vadslim.CheckpointHook',
                'interval': training['save_interval'],
                'max_keep_ckpts': training['keep_last_n'] or -1,
                'save_best': BEST,
                'rule': 'greater',
            },
            'sampler_seed': {'type': 'DistSamplerSeedHook'},
            'sync_buffers': {'type': 'SyncBuffersHook'},
        },
        'custom_hooks': hooks,
        'visualizer': _visualizer(logging['tensorboard_dir'], Path(training['save_dir']).absolute().name, name),
        'env_cfg': {'dist_cfg': {'backend': 'nccl'}},
        'log_level': 'INFO',
        'load_from': stage.get('init_from'),
        'resume': False,
    }


def _curriculum(curriculum: Mapping[str, Any], fixed: int) -> dict[str, int]:
    if not curriculum['enabled']:
        return {'start_stage': fixed, 'end_stage': fixed, 'epochs_per_stage': 1}
    return {name: curriculum[name] for name in ('start_stage', 'end_stage', 'epochs_per_stage')}


def _loader(
    training: Mapping[str, Any],
    data: Mapping[str, Any],
    length: int,
    stages: int | list[int],
    seed: int,
    shuffle: bool = False,
) -> dict[str, Any]:
    return {
        'batch_size': training['batch_size'],
        'num_workers': data['num_workers'] if shuffle else min(data['num_workers'], 1),
        'persistent_workers': False,
        'dataset': {'type': 'vadslim.Strokes', 'epoch_length': length, 'curriculum_stage': stages, 'seed': seed},
        'sampler': {'type': 'DefaultSampler', 'shuffle': shuffle},
        'collate_fn': {'type': 'default_collate'},
    }


def _uses_cuda(sections: Mapping[str, Any], stage: Mapping[str, Any]) -> bool:
    import torch

    device = stage.get('device') or (sections.get('device') or {}).get('type')
    return device in (None, 'cuda') and torch.cuda.is_available()


def _optimizer(training: Mapping[str, Any], amp: bool) -> dict[str, Any]:
    clip = {'clip_grad': {'max_norm': training['grad_clip']}} if training['grad_clip'] else {}
    return {
        **({'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic'} if amp else {'type': 'OptimWrapper'}),
        'optimizer': {'type': 'AdamW', 'lr': training['lr'], 'weight_decay': training['weight_decay']},
        **clip,
    }


def _schedule(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By iteration. What spans the whole training counts epochs here: the Runner, who has the loader, turns them into
    its iterations.
    """
    epochs, steps = training['epochs'], training['total_steps']
    if training['scheduler'] == 'constant':
        return []
    if steps is None:
        span, length = {'by_epoch': True, 'convert_to_iter_based': True, 'end': epochs}, epochs
    else:
        span, length = {'by_epoch': False, 'end': steps}, steps
        needed = epochs * -(-training['epoch_length'] // (training['batch_size'] * _processes()))
        if steps < needed:
            raise UserError(f'training.total_steps {steps}: the training has {needed} steps; leave it out')
    if training['scheduler'] == 'cosine':
        return [{'type': 'CosineAnnealingLR', 'T_max': length, **span}]
    return [{'type': 'vadslim.OneCycleLR', 'eta_max': training['lr'], 'total_steps': length, **span}]


def _processes() -> int:
    return int(os.environ.get('WORLD_SIZE', 1))


def _visualizer(folder: str | None, run: str, stage: str) -> dict[str, Any] | None:
    if folder is None:
        return None
    if find_spec('tensorboard') is None:
        say(f'logging.tensorboard_dir {folder}: the package tensorboard is not installed; nothing is written there')
        return None
    backend = {'type': 'TensorboardVisBackend', 'save_dir': str(Path(folder) / run / stage)}
    return {'type': 'Visualizer', 'vis_backends': [backend]}
