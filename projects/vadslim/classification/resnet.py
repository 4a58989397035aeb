"""Residual networks: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..cli import UserError
from ..registry import MODELS
from .classifier import Classifier, choose


def init_conv(module: nn.Module) -> None:
    """He's initialisation of every convolution, by the number of outputs that an input feeds."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            # torch's own takes a depthwise convolution for one that mixes the channels
            fan_out = part.out_channels * math.prod(part.kernel_size) / part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class PadShortcut(nn.Module):
    """He's option A: every other pixel, and zeros for the channels that are new. It has no weights."""

    def __init__(self, stride: int, new: int) -> None:
        super().__init__()
        self.stride, self.new = stride, new

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + new, H / stride, W / stride); half of the new channels come first."""
        before = self.new // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new - before))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride)."""
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.downsample(x)).relu()


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which has the stride), 1 x 1."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


def _stage(block: Any, inputs: int, width: int, count: int, stride: int, pad: bool) -> nn.Sequential:
    """``count`` blocks; the first has the stride, and a shortcut that changes the shape where that is needed."""
    outputs, blocks = width * block.expansion, []
    for number in range(count):
        step, shortcut = stride if number == 0 else 1, nn.Identity()
        if step != 1 or inputs != outputs:
            shortcut = PadShortcut(step, outputs - inputs) if pad else _projection(inputs, outputs, step)
        blocks.append(block(inputs, width, step, shortcut))
        inputs = outputs
    return nn.Sequential(*blocks)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """He's option B."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


@MODELS.register_module()
class CIFARResNet(Classifier):
    """The ResNets that the paper made for CIFAR: three stages of basic blocks, 16, 32 and 64 channels wide.

    Args:
        depth: 6 n + 2: 20, 32, 44, 56, 110 ...
        num_classes: of the data.
        shortcut: ``A`` (zeros for new channels, as in the paper) or ``B`` (a 1 x 1 convolution). With ``A`` one width
            goes through all stages: its 16 channels and those inside the blocks can be slimmed, what the later stages
            add cannot.
        options: for :class:`Classifier`.

    Raises:
        UserError: there is no network of this depth, or no such shortcut.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, shortcut: str = 'A', **options: Any) -> None:
        super().__init__(**options)
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f'CIFARResNet: depth {depth}: 6 n + 2 is needed (20, 32, 44, 56, 110)')
        pad = choose({'A': True, 'B': False}, shortcut, 'CIFARResNet: shortcut')
        count = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(BasicBlock, 16, 16, count, 1, pad)
        self.layer2 = _stage(BasicBlock, 16, 32, count, 2, pad)
        self.layer3 = _stage(BasicBlock, 32, 64, count, 2, pad)
        self.fc = nn.Linear(64, num_classes)
        init_conv(self)

    def logits(self, images: Tensor) -> Tensor:
        """See :class:`Classifier`."""
        x = self.bn1(self.conv1(images)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


RESNETS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


@MODELS.register_module()
class ResNet(Classifier):
    """The ResNets that the paper made for ImageNet; names of tensors as in torchvision.

    Args:
        depth: 18, 34, 50 or 101.
        num_classes: of the data.
        stem: ``cifar`` (3 x 3, stride 1, no pooling: for images of 32 or 64 pixels) or ``imagenet`` (7 x 7 of stride 2,
            then pooling).
        width: factor of all widths.
        options: for :class:`Classifier`.

    Raises:
        UserError: there is no network of this depth, or no such stem; ``width`` leaves a layer without channels.
    """

    def __init__(
        self, depth: int = 18, num_classes: int = 10, stem: str = 'cifar', width: float = 1.0, **options: Any
    ) -> None:
        kernel, stride, size = choose({'cifar': (3, 1, 32), 'imagenet': (7, 2, 224)}, stem, 'ResNet: stem')
        super().__init__(**{'image_size': size, **options})
        block, counts = choose(RESNETS, depth, 'ResNet: depth')
        widths = [int(channels * width) for channels in (64, 128, 256, 512)]
        if widths[0] < 1:
            raise UserError(f'ResNet: width {width}: at least {1 / 64}')
        inputs = widths[0]
        self.conv1 = nn.Conv2d(3, inputs, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == 'imagenet' else nn.Identity()
        for number, (channels, count) in enumerate(zip(widths, counts), 1):
            step = 1 if number == 1 else 2
            self.add_module(f'layer{number}', _stage(block, inputs, channels, count, step, pad=False))
            inputs = channels * block.expansion
        self.fc = nn.Linear(inputs, num_classes)
        init_conv(self)

    def logits(self, images: Tensor) -> Tensor:
        """See :class:`Classifier`."""
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
