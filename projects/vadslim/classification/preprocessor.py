"""From uint8 images to what a network is fed: augmented while it trains, normalised always, once."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.model import BaseDataPreprocessor
from torch import Tensor
from torch.nn import functional

from ..cli import UserError
from ..registry import MODELS

# (mean, std) of red, green and blue in [0, 1], over the training images
STATISTICS = {
    'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    'cifar100': ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    'tiny_imagenet': ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'digits': ((0.305,) * 3, (0.32,) * 3),
}


def own_generator() -> torch.Generator:
    """A CPU generator for one batch of one process.

    All processes of a training hold torch's own generator in the same state, and would draw the same crops. Its seed
    is one number of that generator, which moves on, and the rank. So the draws depend on the seed of the training and
    the place in it alone, not on the device nor on how many processes load the data.
    """
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())) + get_rank())


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its middle; between pixels (bilinear), black coming in.

    Args:
        images: (B, C, H, W) uint8.
        degrees: (B,) counter-clockwise.

    Returns:
        (B, C, H, W) uint8, a new tensor; by 0 degrees the same images.
    """
    height, width = images.shape[2:]
    angles = degrees.deg2rad()
    sin, cos = angles.sin(), angles.cos()
    zero = torch.zeros_like(sin)
    # from where a pixel comes, in sides of the image: its sides count as 2, whatever their length
    rows = [torch.stack(row, 1) for row in ((cos, -sin * height / width, zero), (sin * width / height, cos, zero))]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    turned = functional.grid_sample(images.float(), grid.to(images.device), align_corners=False)
    return turned.round_().to(torch.uint8)


def crop_and_flip(images: Tensor, pad: int, flip: bool, generator: torch.Generator | None = None) -> Tensor:
    """Move each image by up to ``pad`` pixels, black coming in, and mirror every other one left to right.

    Args:
        images: (B, C, H, W).
        pad: pixels.
        flip: whether to mirror.
        generator: draws on the CPU; by default torch's own.

    Returns:
        (B, C, H, W), a new tensor.
    """
    count, channels, height, width = images.shape
    device = images.device
    rows, cols = (
        torch.randint(2 * pad + 1, (count, 1), generator=generator) + torch.arange(side) for side in (height, width)
    )
    if flip:
        cols = torch.where(torch.rand(count, 1, generator=generator) < 0.5, cols.flip(1), cols)
    padded = functional.pad(images, [pad] * 4)
    rows, cols = rows.to(device), cols.to(device)
    number = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[number, channel, rows[:, None, :, None], cols[:, None, None, :]]


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Takes batches of uint8 images (0 to 255), gives ``inputs`` (float, normalised) and ``labels``.

    Images of floating-point numbers are refused: they may have been normalised already.

    Args:
        statistics: a name of ``STATISTICS``, or ``(mean, std)`` of the three channels in [0, 1].
        pad: pixels by which images are moved at most while training.
        flip: whether images are mirrored while training.
        rotate: degrees by which images are turned at most while training, either way.

    Raises:
        UserError: there are no such statistics, ``pad`` is negative, or ``rotate`` is no angle from 0 to 180.
    """

    def __init__(
        self,
        statistics: str | Sequence[Sequence[float]] = 'cifar10',
        pad: int = 0,
        flip: bool = False,
        rotate: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(statistics, str):
            if statistics not in STATISTICS:
                names = ', '.join(STATISTICS)
                raise UserError(f'ImagePreprocessor: statistics {statistics!r}: choose from {names}, or (mean, std)')
            statistics = STATISTICS[statistics]
        if len(statistics) != 2 or any(len(part) != 3 for part in statistics) or min(statistics[1]) <= 0:
            raise UserError(f'ImagePreprocessor: statistics {statistics}: three means and three positive deviations')
        if pad < 0:
            raise UserError(f'ImagePreprocessor: pad {pad}: at least 0')
        if not 0 <= rotate <= 180:
            raise UserError(f'ImagePreprocessor: rotate {rotate}: degrees from 0 to 180')
        self.pad, self.flip, self.rotate = pad, flip, rotate
        for name, values in zip(('mean', 'std'), statistics):
            # not in checkpoints: they belong to the data, not to the weights
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Tensor]:
        """Prepare a batch.

        Args:
            data: ``inputs``, uint8 (B, 3, H, W) or a list of (3, H, W), and ``labels`` (B,).
            training: whether to augment.

        Returns:
            ``inputs`` (B, 3, H, W) float32 and ``labels`` (B,) int64, on the device of the model.
        """
        images, labels = data['inputs'], data['labels']
        images = images if isinstance(images, Tensor) else torch.stack(tuple(images))
        if images.dtype != torch.uint8:
            raise UserError(f'ImagePreprocessor: images of type {images.dtype}: uint8 is needed, not normalised')
        images = images.to(self.mean.device, non_blocking=True)
        if training:
            images = self.augment(images)
        images = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return {'inputs': images, 'labels': torch.as_tensor(labels).to(self.mean.device, torch.int64)}

    def augment(self, images: Tensor) -> Tensor:
        """Turn, move and mirror a batch (B, 3, H, W) uint8, other than the other processes do theirs."""
        generator = own_generator()
        if self.rotate:
            images = rotate(images, (2 * torch.rand(len(images), generator=generator) - 1) * self.rotate)
        if self.pad or self.flip:
            images = crop_and_flip(images, self.pad, self.flip, generator)
        return images
