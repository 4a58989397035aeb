"""Sparse training that takes seconds: a ResNet-8 on the handwritten digits, 8 x 8."""

from pathlib import Path

import torch
from mmengine.hooks import Hook

from vadslim.classification import CIFARResNet
from vadslim.hooks import SparseHook
from vadslim.hooks.sparse_hook import unwrapped
from vadslim.registry import HOOKS
from vadslim.sparse import cases, dense_masks, imp, load_masks, prunable_weights, refill, row_sums, save_masks

BASE = Path(__file__).resolve().parents[1] / 'configs' / '_base_' / 'classification'
STEPS = 10  # of an epoch: 1,000 images, 100 at a time
MODEL = {
    'type': 'vadslim.CIFARResNet',
    'depth': 8,
    'image_size': 8,
    'data_preprocessor': {'type': 'vadslim.ImagePreprocessor', 'statistics': 'digits', 'pad': 1},
}


def loader(split, size=100):
    return {
        'batch_size': size,
        'num_workers': 0,
        'dataset': {'type': 'vadslim.Digits', 'split': split, 'size': 8},
        'sampler': {'type': 'DefaultSampler', 'shuffle': split == 'train'},
        'collate_fn': {'type': 'default_collate'},
    }


def config(work_dir, *hooks, epochs=2, lr=0.05, **changes):
    """Of a Runner with hooks of sparse training; all that vadslim adds to a training is there, too."""
    return {
        'default_scope': 'mmengine',
        'custom_imports': {'imports': ['vadslim.classification', 'vadslim.hooks'], 'allow_failed_imports': False},
        'model': MODEL,
        'work_dir': str(work_dir),
        **{f'{split}_dataloader': loader(split) for split in ('train', 'val', 'test')},
        'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': epochs, 'val_interval': 1},
        'val_cfg': {},
        'test_cfg': {},
        'val_evaluator': {'type': 'vadslim.Accuracy', 'topk': (1,)},
        'test_evaluator': {'type': 'vadslim.Accuracy', 'topk': (1,)},
        'optim_wrapper': {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'SGD', 'lr': lr, 'momentum': 0.9, 'weight_decay': 1e-3},
        },
        'param_scheduler': [{'type': 'MultiStepLR', 'milestones': [1], 'gamma': 0.5, 'by_epoch': True}],
        'default_hooks': {
            'checkpoint': {'type': 'vadslim.CheckpointHook', 'interval': 1},
            'logger': {'type': 'LoggerHook', 'interval': 5},
        },
        'custom_hooks': [{'type': 'vadslim.RandomStateHook'}, *hooks],
        'env_cfg': {'dist_cfg': {'backend': 'gloo'}},
        'randomness': {'seed': 0},
        'log_level': 'ERROR',
        **changes,
    }


def write_recipe(path, text='', **sparse):
    """A recipe of two levels after the dense one."""
    settings = {
        'arch': 'toy',
        'dataset': 'digits',
        'criteria': 'magnitude',
        'pruning_times': 3,
        'rate': 0.4,
        'epochs': 2,
        'lr': 0.05,
        'warmup': 1,
        'decreasing_lr': [],
        **sparse,
    }
    path.write_text(
        f'_base_ = [{str(BASE / "runtime.py")!r}]\n'
        f'model = {MODEL}\n'
        + ''.join(f'{split}_dataloader = {loader(split)}\n' for split in ('train', 'val', 'test'))
        + "val_evaluator = dict(type='vadslim.Accuracy', topk=(1,))\n"
        'test_evaluator = val_evaluator\n'
        "log_level = 'ERROR'\n"
        f'sparse = {settings}\n{text}'
    )
    return path


def write_masks(path, rate=0.5):
    """Masks with all four cases, of magnitudes of a network of its own."""
    torch.manual_seed(7)
    weights = prunable_weights(CIFARResNet(8))
    current = imp(weights, dense_masks(weights), rate)
    save_masks(path, current, refill(current, row_sums(weights, current)))
    case = cases(*load_masks(path))
    assert all(any(bool(mask.any()) for mask in part.values()) for part in vars(case).values())
    return str(path), case


@HOOKS.register_module(force=True)
class Watch(Hook):
    """Notes what the weights are amid a training."""

    priority = 'LOWEST'

    def __init__(self):
        self.removed, self.penalised, self.lambdas, self.evaluated, self.changed = [], [], [], [], []
        self.before = {}

    def values(self, runner, part):
        weights = dict(unwrapped(runner.model).named_parameters())
        sparse = next(hook for hook in runner._hooks if isinstance(hook, SparseHook))
        return torch.cat([weights[name].detach()[mask] for name, mask in getattr(sparse.cases, part).items()])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.removed.append(float(self.values(runner, 'removed').abs().max()))
        self.penalised.append(self.values(runner, 'penalised').clone())
        if 'train/reg_lambda' in runner.message_hub.log_scalars:
            self.lambdas.append(runner.message_hub.get_scalar('train/reg_lambda').current())

    def after_train_epoch(self, runner):
        self.before = {name: value.clone() for name, value in runner.model.state_dict().items()}

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        gone = [self.values(runner, part) for part in ('removed', 'penalised')]
        self.evaluated.append(float(torch.cat(gone).abs().max()))

    def after_val_epoch(self, runner, metrics=None):
        after = runner.model.state_dict()
        self.changed += [name for name, value in self.before.items() if not torch.equal(value, after[name])]


def hook_of(runner, kind):
    return next(hook for hook in runner._hooks if isinstance(hook, kind))
