"""What the heads are trained with: pure functions of maps (B, C, H, W), each to one number.

A mask is (B, 1, H, W) and stands as it is beside maps of any number of channels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ...cli import UserError


def skeleton_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy, plus Dice.

    Args:
        logits: (B, 1, H, W) before the sigmoid.
        target: (B, 1, H, W), 0 or 1.
    """
    return functional.binary_cross_entropy_with_logits(logits, target) + dice_loss(logits.sigmoid(), target)


def dice_loss(probability: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Compute 1 - (2 * common + smooth) / (sum of both + smooth) of each sample; their mean."""
    common = (probability * target).flatten(1).sum(1)
    both = probability.flatten(1).sum(1) + target.flatten(1).sum(1)
    return (1 - (2 * common + smooth) / (both + smooth)).mean()


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """CenterNet's focal loss ("Objects as Points", Zhou et al. 2019, equation 1) over the number of peaks.

    Args:
        logits: (B, C, H, W) before the sigmoid.
        target: (B, C, H, W) heat maps; a peak is exactly 1.
        alpha: how little what is already right counts.
        beta: how little what is close to a peak counts.
    """
    p = logits.sigmoid()
    peak = target == 1
    found = -functional.logsigmoid(logits) * (1 - p) ** alpha
    invented = -functional.logsigmoid(-logits) * p**alpha * (1 - target) ** beta
    return torch.where(peak, found, invented).sum() / peak.sum().clamp(min=1)


def masked_l1(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference over the mask's pixels and all channels; 0 with an empty mask."""
    return _masked_mean((value - target).abs(), mask)


def masked_l2(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the mask's pixels and all channels; 0 with an empty mask."""
    return _masked_mean((value - target) ** 2, mask)


def _masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != (error.shape[0], 1, *error.shape[2:]):
        raise ValueError(f'mask {tuple(mask.shape)} beside {tuple(error.shape)}: (B, 1, H, W) is needed')
    mask = mask.to(error.dtype)
    return (error * mask).sum() / mask.sum().clamp(min=1) / error.shape[1]


def ink_losses(
    outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """Compute the weighted losses of the heads that a network has.

    Args:
        outputs: as of :meth:`InkNet.maps`: ``skeleton`` and ``keypoints`` before the sigmoid.
        targets: as of :func:`strokes.render`, batched.
        weights: factor of each head; one without is not trained.

    Returns:
        ``loss_NAME`` of each head.

    Raises:
        UserError: a loss is not a finite number.
    """
    skeleton = targets['skeleton'] > 0.5
    functions = {
        'skeleton': lambda value, target: skeleton_loss(value, target),
        'keypoints': lambda value, target: focal_loss(value, target),
        'tangent': lambda value, target: masked_l2(value, target, skeleton),
        'width': lambda value, target: masked_l1(value, target, skeleton),
        'offset': lambda value, target: masked_l1(value, target, skeleton),
    }
    losses = {
        f'loss_{name}': weights[name] * functions[name](value.float(), targets[name])
        for name, value in outputs.items()
        if name in weights
    }
    wrong = [name for name, value in losses.items() if not bool(torch.isfinite(value))]
    if wrong:
        raise UserError(
            f'{wrong[0]} is {losses[wrong[0]].item()}: the training diverged; '
            'resume from an earlier checkpoint with a lower training.lr or training.grad_clip'
        )
    return losses
