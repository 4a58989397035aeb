"""What one kind of evaluation has to offer to :class:`~vadslim.vad.metrics.VADNuScenesMetric`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

TASKS: dict[str, type[Task]] = {}
"""The tasks by name; a task's module adds itself with ``@register_task``."""


class Task(Protocol):
    """Scores one sample at a time, then all of them together.

    What :meth:`score` returns goes through files and between processes: plain numbers and small arrays only.

    A task that needs the data set has a method ``prepare(meta: Mapping)`` as well. It gets the data set's ``metainfo``
    (``classes``, ``data_root``, ``version`` ...) once, before anything is scored, and raises UserError if the task
    cannot be done.
    """

    name: str

    def score(self, sample: dict) -> Any:
        """Scores a sample, a data sample as nested dicts with predictions and ground truth."""
        ...

    def summarize(self, scores: Sequence[Any]) -> dict[str, float]:
        """The metrics of the whole data set from the scores of its samples, in any order."""
        ...


def register_task(cls: type[Task]) -> type[Task]:
    """Makes a task known under its name."""
    TASKS[cls.name] = cls
    return cls


def as_array(value: Any) -> np.ndarray:
    """A tensor of any kind on any device, or an array, as an array; floating point in single precision."""
    if isinstance(value, torch.Tensor):
        value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
    return np.asarray(value)


def accumulate(offsets: np.ndarray, axis: int) -> np.ndarray:
    """Offsets per step -> positions in float32, summed in double precision as torch does on the CPU."""
    return offsets.cumsum(axis, dtype=np.float64).astype(np.float32)
