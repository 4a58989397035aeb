"""What the datasets of images share: the splits, and images that are in memory."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..cli import UserError

SPLITS = ('train', 'val', 'test')


def check_split(split: str, where: str) -> None:
    """Refuse a split that is none.

    Raises:
        UserError: it names the three.
    """
    if split not in SPLITS:
        raise UserError(f'{where}: split {split!r}: choose from {", ".join(SPLITS)}')


def split_off(count: int, val_size: int, seed: int, where: str) -> dict[str, np.ndarray]:
    """Split the training images of a dataset, the same way for the same seed.

    Args:
        count: how many there are.
        val_size: how many of them are validated on.
        seed: of the split alone; the seed of a training does not change it.
        where: the dataset, for messages.

    Returns:
        ``{'train': indices, 'val': indices}``, each sorted, together all.

    Raises:
        UserError: nothing is left to train or to validate on.
    """
    if not 0 < val_size < count:
        raise UserError(f'{where}: val_size {val_size}: at least 1 and below the {count} training images')
    order = np.random.default_rng(seed).permutation(count)
    return {'train': np.sort(order[val_size:]), 'val': np.sort(order[:val_size])}


class ArrayImages(Dataset):
    """Images and labels in memory.

    An item is ``{'inputs': uint8 tensor (3, H, W), 'labels': int}``.

    Args:
        images: uint8 (N, 3, H, W).
        labels: integers (N,).
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = np.ascontiguousarray(images)
        self.labels = np.asarray(labels, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'inputs': torch.from_numpy(self.images[index].copy()), 'labels': int(self.labels[index])}
