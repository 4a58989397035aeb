"""Pictures of what the pipeline packs: images as the network gets them, with their own projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .camera import camera_name
from .frame import Cameras, draw_frame
from .view import COMMANDS, View, command


def draw_packed(
    images: Tensor,
    sample: Mapping[str, Any],
    views: Sequence[View],
    classes: Sequence[str],
    extent: tuple[float, float, float, float],
    header: str = '',
    dpi: int = 100,
) -> np.ndarray:
    """Draw the current frame of an item.

    Args:
        images: (T, cameras, 3, H, W) BGR grey levels, the current frame last.
        sample: its data sample as nested dicts.
        views: the panels; the boxes of the first are painted on the images.
        classes: names of the classes.
        extent: x_min, y_min, x_max, y_max of the panels, metres.
        header: put before the frame's number.
        dpi: see :func:`~vadslim.vad.pictures.draw_frame`.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    pixels = images[-1].permute(0, 2, 3, 1).cpu().numpy()[..., ::-1].clip(0, 255).astype(np.uint8)
    names = [camera_name(path) for path in sample['img_path']]
    told = command(sample)
    words = [header, f'frame {sample["frame_idx"]}', '' if told is None else f'command: {COMMANDS[told]}']
    return draw_frame(
        Cameras(pixels, sample['lidar2img'], names),
        views,
        classes,
        extent,
        '   '.join(filter(None, words)),
        dpi,
    )
