"""Mask files: the masks of a level, apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vadslim.checkpoint import StrPath, load_checkpoint, save_checkpoint

from .masks import Masks, SparseError, check_masks

FORMAT = 1


def save_masks(path: StrPath, current: Mapping[str, Tensor], refill: Mapping[str, Tensor] | None = None) -> None:
    """Write the masks of a level, whole or not at all.

    Args:
        path: of the file.
        current: What trains: the element-wise masks that the level before was pruned to.
        refill: What is left when the level has ended; by default the same.

    Raises:
        SparseError: They are not of the same layers and shapes.
        CheckpointError: The file cannot be written.
    """
    refill = current if refill is None else refill
    check_masks(current, refill)
    save_checkpoint({'format': FORMAT, 'current': _on_cpu(current), 'refill': _on_cpu(refill)}, path)


def load_masks(path: StrPath) -> tuple[Masks, Masks]:
    """Read (current, refill) from a file that :func:`save_masks` wrote.

    Raises:
        SparseError: It holds something else.
        CheckpointError: It cannot be read safely.
    """
    content = load_checkpoint(path)
    if content.get('format') != FORMAT or not all(isinstance(content.get(key), dict) for key in ('current', 'refill')):
        raise SparseError(f'{path}: holds no masks of sparse training (format {FORMAT}, current, refill)')
    current, refill = content['current'], content['refill']
    if not all(isinstance(mask, Tensor) for mask in (*current.values(), *refill.values())):
        raise SparseError(f'{path}: holds masks that are no tensors')
    check_masks(refill, current)
    check_masks(current, refill)
    return current, refill


def _on_cpu(masks: Mapping[str, Tensor]) -> Masks:
    return {name: mask.cpu() for name, mask in masks.items()}
