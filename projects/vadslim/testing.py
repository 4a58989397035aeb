"""Toys for tests: a small network, frames to feed it, and the config of a Runner. Nothing here needs mmcv or
mmdet.
"""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from .registry import DATASETS, METRICS, MODELS

NUM_CLASSES = 4


@MODELS.register_module()
class ToyNet(BaseModel):
    """Convolutions with batch norm, one attention layer and an FFN with dropout, and a linear classifier.

    Args:
        channels: width of the convolutions.
        embed_dims: width of the attention.
        hidden: neurons of the FFN.
        dropout: probability, after the FFN's activation.
        pretrained: refused: a test that builds it with this key has not dropped it.
    """

    def __init__(
        self,
        channels: int = 8,
        embed_dims: int = 16,
        hidden: int = 32,
        dropout: float = 0.2,
        pretrained: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if pretrained is not None:
            raise RuntimeError(f'would download {pretrained}')
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, embed_dims, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(embed_dims)
        self.attention = nn.MultiheadAttention(embed_dims, 4, batch_first=True)
        self.norm = nn.LayerNorm(embed_dims)
        self.ffn = nn.Sequential(
            nn.Linear(embed_dims, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, embed_dims)
        )
        self.classifier = nn.Linear(embed_dims, NUM_CLASSES)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None, mode: str = 'tensor') -> Any:
        """Take images (B, 3, H, W) and give logits (B, 4), a dict of losses, or one dict per image."""
        x = self.bn1(self.conv1(inputs)).relu()
        x = self.bn2(self.conv2(x)).relu().flatten(2).transpose(1, 2)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        x = (x + self.ffn(x)).mean(1)
        logits = self.classifier(x)
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, labels)}
        if mode == 'predict':
            return [{'scores': row, 'label': label} for row, label in zip(logits.softmax(1), labels)]
        return logits


@DATASETS.register_module()
class ToyFrames(Dataset):
    """Images of noise with the class's brightness; each is augmented with numpy's, python's and torch's
    generators.
    """

    def __init__(self, size: int = 16, shape: Sequence[int] = (8, 8), augment: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(NUM_CLASSES, (size,), generator=generator)
        self.images = torch.randn(size, 3, *shape, generator=generator) + self.labels[:, None, None, None]
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = self.images[index].clone()
        if self.augment:
            image *= 1 + 0.1 * random.random()
            image += 0.1 * np.random.standard_normal()
            image += 0.1 * torch.randn(())
        return {'inputs': image, 'labels': self.labels[index]}


@METRICS.register_module()
class ToyAccuracy(BaseMetric):
    """Share of images classified right."""

    default_prefix = 'toy'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Note for each image whether its class was found."""
        self.results += [float(sample['scores'].argmax() == sample['label']) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over all images of all ranks."""
        return {'accuracy': sum(results) / len(results)}


def toy_frames(count: int = 2, shape: Sequence[int] = (8, 8)) -> torch.Tensor:
    """Get deterministic images (count, 3, H, W)."""
    return torch.randn(count, 3, *shape, generator=torch.Generator().manual_seed(1))


def toy_config(work_dir: str | Path, epochs: int = 3, size: int = 16, batch_size: int = 4, **changes: Any) -> dict:
    """Get the config of a Runner that trains a :class:`ToyNet` in a second or two.

    Args:
        work_dir: of the Runner.
        epochs: to train, with the schedule of VAD: linear warm-up by iteration, cosine by epoch.
        size: images of the data set; ``size / batch_size`` iterations are an epoch.
        batch_size: images of an iteration.
        changes: keys to replace, as they are.
    """

    def loader(train: bool) -> dict:
        return {
            'batch_size': batch_size,
            'num_workers': 0,
            'dataset': {'type': 'vadslim.ToyFrames', 'size': size, 'augment': train},
            'sampler': {'type': 'DefaultSampler', 'shuffle': train},
            'collate_fn': {'type': 'default_collate'},
        }

    config = {
        'default_scope': 'mmengine',
        'custom_imports': {'imports': ['vadslim.testing'], 'allow_failed_imports': False},
        'model': {'type': 'vadslim.ToyNet'},
        'work_dir': str(work_dir),
        'train_dataloader': loader(True),
        'val_dataloader': loader(False),
        'test_dataloader': loader(False),
        'train_cfg': {'by_epoch': True, 'max_epochs': epochs, 'val_interval': epochs},
        'val_cfg': {},
        'test_cfg': {},
        'val_evaluator': {'type': 'vadslim.ToyAccuracy'},
        'test_evaluator': {'type': 'vadslim.ToyAccuracy'},
        'optim_wrapper': {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'AdamW', 'lr': 2e-3, 'weight_decay': 0.01},
            'paramwise_cfg': {'custom_keys': {'conv1': {'lr_mult': 0.1}}},
            'clip_grad': {'max_norm': 35, 'norm_type': 2},
        },
        'param_scheduler': [
            {'type': 'LinearLR', 'start_factor': 1 / 3, 'by_epoch': False, 'begin': 0, 'end': 5},
            {
                'type': 'CosineAnnealingLR',
                'T_max': epochs,
                'end': epochs,
                'eta_min_ratio': 1e-3,
                'by_epoch': True,
            },
        ],
        'default_hooks': {
            'checkpoint': {'type': 'vadslim.CheckpointHook', 'interval': 1},
            'logger': {'type': 'LoggerHook', 'interval': 1},
        },
        'custom_hooks': [{'type': 'vadslim.RandomStateHook'}, {'type': 'vadslim.StructureHook'}],
        'env_cfg': {'dist_cfg': {'backend': 'gloo'}},
        'randomness': {'seed': 0},
        'visualizer': None,
        'log_level': 'WARNING',
    }
    return {**config, **changes}


def write_toy_config(file: str | Path, work_dir: str | Path, **options: Any) -> Path:
    """Write :func:`toy_config` as a config file."""
    from mmengine.config import Config

    Config(toy_config(work_dir, **options)).dump(file)
    return Path(file)


def toy_runner(config: dict) -> Any:
    """Build a Runner; each has a name of its own, as those of one process must."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    from .checkpoint import register_loader

    register_loader()
    return Runner.from_cfg(Config({'experiment_name': f'toy_{next(_NUMBERS)}', **config}))


_NUMBERS = itertools.count()
