"""Passes of data through a network that is being scored: on a copy, in evaluation mode, nothing left behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


class ScoringError(ValueError):
    """Data that cannot tell what a unit is worth."""


Batch = Callable[[nn.Module], Any]


def seed_torch(seed: int) -> None:
    """Do what ``torch.manual_seed`` does, which without CUDA keeps the stack of each call: longer than a small pass."""
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def random_state_kept(seed: int | None = None) -> Iterator[None]:
    """Afterwards python, numpy and torch go on as if nothing had been drawn inside.

    Args:
        seed: Of all three inside; None leaves them as they are.
    """
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                seed_torch(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def evaluated_copy(model: nn.Module, trainable: Collection[str] = ()) -> nn.Module:
    """A copy in evaluation mode: no dropout, batch norms with the statistics that they have, and keep.

    Args:
        model: Untouched; its ``train`` is not called on the copy either, as that may do more than set flags.
        trainable: The parameters that get gradients, by first name; no others do, frozen or not.
    """
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.training = False
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name in trainable)
    return twin


def numbered(batches: Iterable[Batch] | None, needed_by: object) -> Iterator[tuple[int, Batch]]:
    """(number, batch), the numbers being those that the batches have (``batch.number``), else 0, 1, ...

    Raises:
        ScoringError: There are none; the message names who needed them.
    """
    if batches is None:
        name = type(needed_by).__name__
        raise ScoringError(f'importance {name} looks at data: give batches, functions run(model) that return losses')
    for count, batch in enumerate(batches):
        yield getattr(batch, 'number', count), batch


def reduced(batches: Iterable[Batch], sums: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sums over the batches of this process -> over those of all.

    ``batches.reduce(vector)``, if there is such a method, adds a float64 vector over all processes; a list has
    none, and every process scores by itself.
    """
    reduce = getattr(batches, 'reduce', None)
    if reduce is None:
        return list(sums)
    vector = reduce(torch.from_numpy(np.concatenate([np.ravel(part) for part in sums]))).numpy()
    ends = np.cumsum([part.size for part in sums])
    return [flat.reshape(part.shape) for flat, part in zip(np.split(vector, ends[:-1]), sums)]
