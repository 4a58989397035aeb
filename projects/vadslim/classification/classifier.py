"""What all classifiers share: MMEngine's three modes, and the example that they are counted and traced on."""

from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.nn import functional

from ..analysis import Example, declares_example
from ..cli import UserError
from ..registry import MODELS

PREPROCESSOR = {'type': 'vadslim.ImagePreprocessor'}


class Classifier(BaseModel):
    """A network from images to class scores; subclasses write ``logits``.

    Args:
        image_size: side of the images; what the network is counted, timed and traced on.
        data_preprocessor: config of an ``ImagePreprocessor``, by default that of CIFAR-10.
        init_cfg: as for MMEngine's models.
    """

    def __init__(
        self, image_size: int = 32, data_preprocessor: dict | None = None, init_cfg: dict | None = None
    ) -> None:
        config = dict(data_preprocessor or PREPROCESSOR)
        super().__init__(MODELS.build(config), init_cfg)
        self.image_size = image_size

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> class scores before the softmax (B, classes)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Any:
        """Take what the ``data_preprocessor`` gives.

        Args:
            inputs: normalised images (B, 3, H, W).
            labels: (B,) classes; not needed with ``tensor``.
            mode: what to return.

        Returns:
            ``tensor``: logits (B, classes). ``loss``: ``{'loss': mean cross-entropy}``. ``predict``: for each image
            ``{'scores': probabilities (classes,), 'label': its class}``.
        """
        logits = self.logits(inputs)
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            return {'loss': functional.cross_entropy(logits, labels)}
        if mode == 'predict':
            labels = [None] * len(logits) if labels is None else labels
            return [{'scores': row, 'label': label} for row, label in zip(logits.softmax(1), labels)]
        raise ValueError(f'mode {mode!r}: choose from tensor, loss, predict')


def choose(options: dict[Any, Any], value: Any, what: str) -> Any:
    """Look a choice up.

    Raises:
        UserError: it names the choices.
    """
    if value not in options:
        raise UserError(f'{what} {value!r}: choose from {", ".join(map(str, options))}')
    return options[value]


@declares_example(Classifier)
def classifier_example(model: Classifier, cfg: Any, small: bool) -> Example:
    """One image of noise; the number of positions does not change what is coupled, so small is the same."""
    size = model.image_size
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    def run(network: Any) -> Tensor:
        weight = next(network.parameters())
        return network(noise.to(weight.device, weight.dtype))  # of the tensor itself a trace would make a use

    return Example(run, f'3 x {size} x {size}, batch 1', fixed_work=True)
