"""Statistics of batch norms measured anew: after slimming, other values pass through them than in training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .passes import Batch, random_state_kept, reduced

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Recalibration:
    """What was measured.

    Attributes:
        state: Name of a buffer -> its new value, for ``load_state_dict(state, strict=False)``.
        measured: Names of the batch norms.
        skipped: Name of a batch norm that keeps its statistics -> why.
    """

    state: dict[str, Tensor]
    measured: list[str]
    skipped: dict[str, str]

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            reasons.setdefault(why, []).append(name)
        lines = [f'batch norms: statistics of {len(self.measured)} measured anew'] if self.measured else []
        lines += [
            f'{len(names)} batch norms not recalibrated ({names[0]} ...): {why}' for why, names in reasons.items()
        ]
        return lines or ['the network has no batch norms: nothing to recalibrate']


class _Sums:
    """Sums over all values of each channel that pass by: (channels,) float64 each, and how many they were."""

    def __init__(self, channels: int) -> None:
        self.count = np.zeros(1)
        self.calls = np.zeros(1)
        self.total, self.squares = np.zeros(channels), np.zeros(channels)

    def add(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not module.training:  # a part of the forward that the model itself runs in evaluation mode
            return
        values = inputs[0].detach().double()
        dims = [dim for dim in range(values.dim()) if dim != 1]
        self.total += values.sum(dims).cpu().numpy()
        self.squares += values.square().sum(dims).cpu().numpy()
        self.count += values.numel() // values.shape[1]
        self.calls += 1

    @property
    def parts(self) -> list[np.ndarray]:
        return [self.count, self.calls, self.total, self.squares]


def recalibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    frozen: bool = False,
) -> Recalibration:
    """Measure the running statistics of batch norms over batches of data.

    With n values of a channel in all batches (samples and positions), ``running_mean`` becomes their mean and
    ``running_var`` their variance, sum((x - mean)^2) / (n - 1): those of the concatenated data, computed in float64.
    (A cumulative average, ``momentum=None``, would leave out how the batches' means differ.) During the measurement a
    batch norm normalises with the statistics of its batch, as in training, so that those of earlier layers, which are
    no longer valid, do not matter; all else is in evaluation mode: no dropout, no augmentation in the model.

    Args:
        model: Untouched; a copy runs.
        batches: Functions run(model), one forward each. If they have ``reduce``, every process has its share of them,
            all have to call this, and get the same.
        frozen: Measure also those that the model's ``train()`` leaves in evaluation mode (``norm_eval``, frozen
            stages). Their statistics belong to pretrained weights, so it has to be asked for.

    Raises:
        ValueError: There are no batches.
    """
    twin = copy.deepcopy(model)
    twin.train()
    norms, skipped = {}, {}
    for name, module in twin.named_modules():
        if not isinstance(module, BatchNorm):
            continue
        if module.running_mean is None or module.running_var is None:
            skipped[name] = 'they keep no statistics'
        elif not module.training and not frozen:
            skipped[name] = 'training leaves their statistics as they are (norm_eval, or a frozen stage)'
        else:
            norms[name] = module
    if not norms:
        return Recalibration({}, [], skipped)
    for module in twin.modules():
        module.training = False
    for module in norms.values():
        module.training, module.momentum = True, 0.0  # normalises with its batch, its buffers stay
    sums = {name: _Sums(_channels(module)) for name, module in norms.items()}
    done = np.zeros(1)
    with random_state_kept(), torch.no_grad(), ExitStack() as hooks:
        for name, module in norms.items():
            hooks.callback(module.register_forward_pre_hook(sums[name].add).remove)
        for number, batch in enumerate(batches):
            with random_state_kept(getattr(batch, 'number', number)):
                batch(twin)
            done += 1
    flat = iter(reduced(batches, [done, *(part for each in sums.values() for part in each.parts)]))
    if not next(flat):
        raise ValueError('recalibrate: there are no batches')
    state: dict[str, Tensor] = {}
    for name, module in norms.items():
        count, calls, total, squares = (next(flat) for _ in range(4))
        if count < 2:
            skipped[name] = 'no data passed through them'
        else:
            state.update(
                _buffers(f'{name}.' if name else '', module, float(count[0]), int(calls[0]), total / count, squares)
            )
    return Recalibration(state, [name for name in norms if name not in skipped], skipped)


def _channels(module: Any) -> int:
    return int(module.running_mean.numel())


def _buffers(
    prefix: str, norm: Any, count: float, calls: int, mean: np.ndarray, squares: np.ndarray
) -> Iterator[tuple[str, Tensor]]:
    variance = np.maximum(squares - count * mean**2, 0) / (count - 1)
    for key, value in (('running_mean', mean), ('running_var', variance)):
        yield f'{prefix}{key}', torch.from_numpy(value).to(getattr(norm, key))
    if norm.num_batches_tracked is not None:
        yield f'{prefix}num_batches_tracked', torch.full_like(norm.num_batches_tracked, calls)
