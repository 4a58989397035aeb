"""Normalise, pad and batch the images on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseDataPreprocessor
from torch.nn import functional as F


@MODELS.register_module()
class VADDataPreprocessor(BaseDataPreprocessor):
    """Images of a batch -> (B, T, 6, 3, H, W) float32 on the device: normalised, then zero-padded at the
    bottom and at the right. ``img_shape`` of every meta (those of the history too) becomes ``[(H, W, 3)]
    * 6``: point sampling divides by the padded size.

    Args:
        mean: per channel, in the order of the channels after ``bgr_to_rgb``, grey levels.
        std: per channel, likewise.
        bgr_to_rgb: whether to swap the channels of the BGR images.
        pad_size_divisor: H and W become multiples of it.
        non_blocking: copy to the device asynchronously.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr_to_rgb: bool = False,
        pad_size_divisor: int = 32,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f'mean and std: three numbers each, std > 0; got {mean} and {std}')
        if pad_size_divisor < 1:
            raise ValueError(f'pad_size_divisor: {pad_size_divisor}, at least 1 is needed')
        self.bgr_to_rgb = bgr_to_rgb
        self.pad_size_divisor = pad_size_divisor
        # Not persistent: the checkpoints of VAD do not hold them.
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Turn a collated batch into the arguments of the model.

        Args:
            data: ``inputs['img']``, B tensors (T, 6, 3, h, w) or one (B, T, 6, 3, h, w), BGR, 0..255; and
                ``data_samples``, B samples or None.
            training: not used.
        """
        data = self.cast_data(data)
        images = data['inputs']['img']
        if not isinstance(images, torch.Tensor):
            shapes = {tuple(image.shape) for image in images}
            if len(shapes) > 1:
                raise ValueError(f'images of one batch must have one shape, got {sorted(shapes)}')
            images = torch.stack(list(images))
        images = images.float()
        if self.bgr_to_rgb:
            images = images.flip(-3)
        images = self._pad((images - self.mean) / self.std)
        height, width = images.shape[-2:]
        for sample in data.get('data_samples') or ():
            shape = {'img_shape': [(height, width, 3)] * images.shape[2]}
            history: list[dict[str, Any]] = sample.metainfo.get('history_metas', [])
            sample.set_metainfo({**shape, 'history_metas': [{**meta, **shape} for meta in history]})
        return {**data, 'inputs': {**data['inputs'], 'img': images}}

    def _pad(self, images: torch.Tensor) -> torch.Tensor:
        divisor = self.pad_size_divisor
        height, width = images.shape[-2:]
        right, bottom = ceil(width / divisor) * divisor - width, ceil(height / divisor) * divisor - height
        return F.pad(images, (0, right, 0, bottom)) if right or bottom else images
