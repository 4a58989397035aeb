"""The handwritten digits that scikit-learn ships: data where there is none on the disk."""

import numpy as np
import torch
from torch.nn import functional

from ..cli import UserError
from ..registry import DATASETS
from .images import ArrayImages, check_split

SIZES = {'train': 1000, 'val': 300, 'test': 497}


@DATASETS.register_module()
class Digits(ArrayImages):
    """1,797 digits of 8 x 8 pixels in 17 shades, enlarged (bilinear), the same in all three channels.

    Source: UCI "Optical Recognition of Handwritten Digits", test part, in ``sklearn.datasets.load_digits``.

    Args:
        split: ``train`` (1,000 images), ``val`` (300) or ``test`` (497).
        size: side of the images; 32 suits the CNNs, 16 the ViTs.
        split_seed: which images are in which split.

    Raises:
        UserError: scikit-learn is not installed, or there is no such split.
    """

    def __init__(self, split: str = 'train', size: int = 32, split_seed: int = 0) -> None:
        check_split(split, 'Digits')
        if size < 8:
            raise UserError(f'Digits: size {size}: at least 8')
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError('Digits: needs scikit-learn (pip install scikit-learn), which has the images') from error
        digits = load_digits()
        order = np.random.default_rng(split_seed).permutation(len(digits.images))
        first = {'train': 0, 'val': SIZES['train'], 'test': SIZES['train'] + SIZES['val']}[split]
        chosen = np.sort(order[first : first + SIZES[split]])
        small = torch.from_numpy(digits.images[chosen])[:, None] * (255 / 16)
        large = functional.interpolate(small, size=(size, size), mode='bilinear', align_corners=False)
        super().__init__(large.round().to(torch.uint8).expand(-1, 3, -1, -1).numpy(), digits.target[chosen])
