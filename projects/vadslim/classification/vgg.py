"""Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, with batch norm and one linear layer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..cli import UserError
from ..registry import MODELS
from .classifier import Classifier
from .resnet import init_conv

VGG16 = (64, 64, 'M', 128, 128, 'M', 256, 256, 256, 'M', 512, 512, 512, 'M', 512, 512, 512, 'M')


@MODELS.register_module()
class VGG(Classifier):
    """3 x 3 convolutions with batch norm and ReLU, pooling, and a linear classifier on the mean over all positions.

    Args:
        widths: a number is a convolution of that many channels, ``'M'`` halves the image. By default VGG-16's.
        num_classes: of the data.
        dropout: before the classifier.
        options: for :class:`Classifier`.

    Raises:
        UserError: the widths are no such list, or pool an image away.
    """

    def __init__(
        self, widths: Sequence[int | str] = VGG16, num_classes: int = 10, dropout: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        numbers = [width for width in widths if width != 'M']
        if not numbers or any(type(width) is not int or width < 1 for width in numbers):
            raise UserError(f"VGG: widths {list(widths)}: channels, at least one, and 'M' for pooling are needed")
        if self.image_size >> (len(widths) - len(numbers)) < 1:
            pools = len(widths) - len(numbers)
            raise UserError(f'VGG: {pools} poolings leave nothing of an image of {self.image_size} pixels')
        layers: list[nn.Module] = []
        inputs = 3
        for width in widths:
            if width == 'M':
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(inputs, num_classes)
        init_conv(self)

    def logits(self, images: Tensor) -> Tensor:
        """See :class:`Classifier`."""
        return self.classifier(self.dropout(self.features(images).mean((2, 3))))
