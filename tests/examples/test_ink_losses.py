"""Losses against numbers computed by hand."""

import math

import pytest
import torch

from vadslim.cli import UserError
from vadslim.examples.ink.losses import dice_loss, focal_loss, ink_losses, masked_l1, masked_l2, skeleton_loss
from vadslim.examples.ink.strokes import TARGETS


def maps(*samples):
    """Samples of one row of pixels: (B, 1, 1, W)."""
    return torch.tensor(samples)[:, None, None]


def test_dice():
    probability, target = maps([1.0, 0.5, 0.0], [0.0, 0.0, 0.0]), maps([1.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    first = 1 - (2 * 1 + 1) / (1.5 + 2 + 1)
    torch.testing.assert_close(dice_loss(probability, target), torch.tensor((first + 0) / 2))


def test_skeleton():
    logits, target = maps([0.0, math.log(3)]), maps([1.0, 0.0])  # probabilities 1/2, 3/4
    entropy = (math.log(2) + math.log(4)) / 2
    dice = 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)
    torch.testing.assert_close(skeleton_loss(logits, target), torch.tensor(entropy + dice))


def test_focal():
    logits, target = maps([0.0, 0.0, math.log(3), 0.0]), maps([1.0, 0.5, 0.0, 1.0])
    peaks = 2 * -math.log(0.5) * 0.5**2
    close = -math.log(0.5) * 0.5**2 * 0.5**4
    far = -math.log(0.25) * 0.75**2
    torch.testing.assert_close(focal_loss(logits, target), torch.tensor((peaks + close + far) / 2))
    none = focal_loss(maps([0.0]), maps([0.0]))  # no peak: not divided by zero
    torch.testing.assert_close(none, torch.tensor(-math.log(0.5) * 0.25))


def test_focal_far_off_is_finite():
    logits = maps([-200.0, 200.0]).requires_grad_()
    loss = focal_loss(logits, maps([1.0, 0.0]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(400.0))
    assert torch.isfinite(logits.grad).all()


def test_each_error_under_its_own_mask():
    """Two samples, two channels: what stands under the other sample's mask does not count."""
    value = torch.zeros(2, 2, 1, 2)
    target = torch.tensor([[[[1.0, 100.0]], [[3.0, 100.0]]], [[[100.0, 5.0]], [[100.0, 0.0]]]])
    mask = maps([True, False], [False, True])
    assert masked_l2(value, target, mask) == (1 + 9 + 25 + 0) / 2 / 2
    assert masked_l1(value, target, mask) == (1 + 3 + 5 + 0) / 2 / 2
    assert masked_l1(value, target, torch.zeros_like(mask)) == 0
    with pytest.raises(ValueError, match='B, 1, H, W'):
        masked_l2(value, target, mask.unsqueeze(1))


def outputs_and_targets():
    torch.manual_seed(0)
    outputs = {name: torch.randn(3, channels, 4, 4) for name, channels in TARGETS.items()}
    targets = {name: torch.randn(3, channels, 4, 4) for name, channels in TARGETS.items()}
    targets['skeleton'] = (targets['skeleton'] > 0).float()
    targets['keypoints'] = targets['keypoints'].sigmoid()
    return outputs, targets


def test_weighted():
    outputs, targets = outputs_and_targets()
    losses = ink_losses(outputs, targets, {'skeleton': 10, 'width': 2.0, 'offset': 1, 'tangent': 1, 'keypoints': 5})
    mask = targets['skeleton']
    assert losses == {
        'loss_skeleton': 10 * skeleton_loss(outputs['skeleton'], mask),
        'loss_keypoints': 5 * focal_loss(outputs['keypoints'], targets['keypoints']),
        'loss_tangent': masked_l2(outputs['tangent'], targets['tangent'], mask),
        'loss_width': 2 * masked_l1(outputs['width'], targets['width'], mask),
        'loss_offset': masked_l1(outputs['offset'], targets['offset'], mask),
    }
    assert list(ink_losses(outputs, targets, {'skeleton': 1})) == ['loss_skeleton']


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_no_number_ends_the_training(value):
    outputs, targets = outputs_and_targets()
    outputs['width'][0, 0, :] = value
    with pytest.raises(UserError, match=r'loss_width is (nan|inf): the training diverged; .* training\.lr'):
        ink_losses(outputs, targets, dict.fromkeys(TARGETS, 1.0))
