"""Howard et al., "MobileNets", 2017: depthwise and pointwise convolutions."""

from typing import Any

from torch import Tensor, nn

from ..cli import UserError
from ..registry import MODELS
from .classifier import Classifier
from .resnet import init_conv

# (channels, stride); the stem and the first strides suit images of 32 pixels
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


class SeparableBlock(nn.Module):
    """A 3 x 3 convolution of each channel by itself, then a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        x = self.bn1(self.conv1(x)).relu()
        return self.bn2(self.conv2(x)).relu()


@MODELS.register_module()
class MobileNet(Classifier):
    """MobileNet v1 for images of 32 or 64 pixels.

    Args:
        num_classes: of the data.
        width: factor of all widths.
        options: for :class:`Classifier`.

    Raises:
        UserError: ``width`` leaves a layer without channels.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        inputs = int(32 * width)
        if inputs < 1:
            raise UserError(f'MobileNet: width {width}: at least {1 / 32}')
        self.conv1 = nn.Conv2d(3, inputs, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        blocks = []
        for channels, stride in BLOCKS:
            blocks.append(SeparableBlock(inputs, int(channels * width), stride))
            inputs = int(channels * width)
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, num_classes)
        init_conv(self)

    def logits(self, images: Tensor) -> Tensor:
        """See :class:`Classifier`."""
        return self.linear(self.layers(self.bn1(self.conv1(images)).relu()).mean((2, 3)))
