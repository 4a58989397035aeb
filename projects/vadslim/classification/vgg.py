"""Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, with batch norm."""

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
    """3 x 3 convolutions with batch norm and ReLU, pooling, and a classifier.

    Args:
        widths: a number is a convolution of that many channels, ``'M'`` halves the image. By default VGG-16's.
        num_classes: of the data.
        hidden: neurons of a layer before the last one, which then sees all positions one by one and images of one size
            only. None: the last layer alone, on the mean over all positions.
        dropout: before the last layer.
        options: for :class:`Classifier`.

    Raises:
        UserError: the widths are no such list, or pool an image away; ``hidden`` is no number of neurons.
    """

    def __init__(
        self,
        widths: Sequence[int | str] = VGG16,
        num_classes: int = 10,
        hidden: int | None = None,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        numbers = [width for width in widths if width != 'M']
        if not numbers or any(type(width) is not int or width < 1 for width in numbers):
            raise UserError(f"VGG: widths {list(widths)}: channels, at least one, and 'M' for pooling are needed")
        if hidden is not None and (type(hidden) is not int or hidden < 1):
            raise UserError(f'VGG: hidden {hidden}: neurons, at least one, or None')
        pools = len(widths) - len(numbers)
        side = self.image_size >> pools  # of what the classifier sees
        if side < 1:
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
        self.hidden = None
        if hidden is not None:
            self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(inputs * side**2, hidden), nn.ReLU())
            inputs = hidden
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(inputs, num_classes)
        init_conv(self)

    def logits(self, images: Tensor) -> Tensor:
        """See :class:`Classifier`."""
        x = self.features(images)
        x = x.mean((2, 3)) if self.hidden is None else self.hidden(x)
        return self.classifier(self.dropout(x))
