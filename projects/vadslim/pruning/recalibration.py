"""Statistics of batch norms measured anew: after slimming, other values pass through them than in training."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .passes import Batch, random_state_kept, reduced
from .structure import Structure, read_edits

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Recalibration:
    """What was measured.

    Attributes:
        state: Name of a buffer -> its new value, for ``load_state_dict(state, strict=False)``.
        measured: Names of the batch norms.
        matched: Those of them whose statistics training leaves alone, and which follow the network before slimming.
        skipped: Name of a batch norm that keeps its statistics -> why.
    """

    state: dict[str, Tensor]
    measured: list[str]
    skipped: dict[str, str]
    matched: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            reasons.setdefault(why, []).append(name)
        own = len(self.measured) - len(self.matched)
        lines = [f'batch norms: statistics of {own} measured anew'] if own else []
        if self.matched:
            lines.append(
                f'batch norms: statistics of {len(self.matched)} that training leaves alone ({self.matched[0]} ...) '
                'shifted by what slimming changed'
            )
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

    def hook(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training:  # else a part of the forward that the model itself runs in evaluation mode
            self.add(inputs[0])

    def add(self, values: Tensor) -> None:
        values = values.detach().double()
        dims = _all_but_channels(values)
        self.total += values.sum(dims).cpu().numpy()
        self.squares += values.square().sum(dims).cpu().numpy()
        self.count += values.numel() // values.shape[1]
        self.calls += 1

    @property
    def parts(self) -> list[np.ndarray]:
        return [self.count, self.calls, self.total, self.squares]


class _Pair:
    """A norm before and after slimming, whose statistics are constants; both see each batch, one after the other.

    Args:
        kept: Channels that are left.
    """

    def __init__(self, kept: Sequence[int]) -> None:
        self.kept = torch.as_tensor(kept)
        self.whole, self.slim = _Sums(len(kept)), _Sums(len(kept))
        self.passed: deque[tuple[Tensor, Tensor]] = deque()

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach().index_select(1, self.kept.to(inputs[0].device))
        self.whole.add(values)
        self.passed.append(_moments(values))

    def after(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Makes the values like those of the same batch before slimming, for the layers that follow."""
        self.slim.add(inputs[0])
        if not self.passed:
            return None
        (mean, var), (own_mean, own_var) = self.passed.popleft(), _moments(inputs[0])
        scale = ((var + module.eps) / (own_var + module.eps)).sqrt()
        return ((inputs[0] - own_mean) * scale + mean, *inputs[1:])


def _all_but_channels(values: Tensor) -> list[int]:
    return [dim for dim in range(values.dim()) if dim != 1]


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, (1, channels, 1, ...)."""
    var, mean = torch.var_mean(values.detach().double(), _all_but_channels(values), correction=0, keepdim=True)
    return mean.to(values.dtype), var.to(values.dtype)


def recalibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    frozen: bool = False,
    before: tuple[nn.Module, Structure] | None = None,
) -> Recalibration:
    """Measure the running statistics of batch norms over batches of data.

    With n values of a channel in all batches (samples and positions), ``running_mean`` becomes their mean and
    ``running_var`` their variance, sum((x - mean)^2) / (n - 1): those of the concatenated data, computed in float64.
    (A cumulative average, ``momentum=None``, would leave out how the batches' means differ.) During the measurement a
    batch norm normalises with the statistics of its batch, as in training, so that those of earlier layers, which are
    no longer valid, do not matter; all else is in evaluation mode: no dropout, no augmentation in the model.

    Statistics that the model's ``train()`` leaves alone (``norm_eval``, frozen stages) are constants to which all other
    weights were trained: those of the data would be others, slimmed or not. With ``before``, such a norm gets the
    constants with which it makes of a channel what it made of it before slimming, in mean and variance: with m, v of
    the values before and m', v' of those that are left, var' + eps = (var + eps) (v' + eps) / (v + eps), and
    mean' = m' - (m - mean) sqrt((var' + eps) / (var + eps)). If nothing was removed, nothing changes.

    Args:
        model: Untouched; a copy runs.
        batches: Functions run(model), one forward each. If they have ``reduce``, every process has its share of them,
            all have to call this, and get the same.
        frozen: Measure also those that training leaves alone, as if it did not.
        before: The network before slimming and what ``model`` has left of it: those that training leaves alone follow
            it.

    Raises:
        ValueError: There are no batches.
    """
    twin = copy.deepcopy(model)
    norms, skipped = _found(twin, frozen or before is not None)
    matched = [] if frozen or not before else [name for name, module in norms.items() if not module.training]
    if not norms:
        return Recalibration({}, [], skipped)
    _measuring({name: module for name, module in norms.items() if name not in matched}, twin)
    sums = {name: _Sums(int(norms[name].running_mean.numel())) for name in norms if name not in matched}
    pairs: dict[str, _Pair] = {}
    done = np.zeros(1)
    with random_state_kept(), torch.no_grad(), ExitStack() as hooks:
        for name, each in sums.items():
            hooks.callback(norms[name].register_forward_pre_hook(each.hook).remove)
        networks = [twin]
        if before and matched:
            networks = [copy.deepcopy(before[0]), twin]
            others, _ = _found(networks[0], True)
            _measuring({name: module for name, module in others.items() if module.training}, networks[0])
            for name in matched:
                old, kept = _kept(name, others, before[1])
                pair = pairs[name] = _Pair(kept)
                hooks.callback(old.register_forward_pre_hook(pair.before).remove)
                hooks.callback(norms[name].register_forward_pre_hook(pair.after).remove)
        for number, batch in enumerate(batches):
            for pair in pairs.values():
                pair.passed.clear()
            for network in networks:
                with random_state_kept(getattr(batch, 'number', number)):
                    batch(network)
            done += 1
    every = [*sums.values(), *(each for pair in pairs.values() for each in (pair.whole, pair.slim))]
    flat = iter(reduced(batches, [done, *(part for each in every for part in each.parts)]))
    if not next(flat):
        raise ValueError('recalibrate: there are no batches')
    state: dict[str, Tensor] = {}
    for name in [*sums, *pairs]:
        found = [_Statistics(*(next(flat) for _ in range(4))) for _ in range(2 if name in pairs else 1)]
        if min(each.count for each in found) < 2:
            skipped[name] = 'no data passed through them'
        else:
            values = found[0].of(norms[name]) if name in sums else _matched(norms[name], *found)
            state.update({f'{name}.{key}' if name else key: value for key, value in values.items()})
    measured = [name for name in norms if name not in skipped]
    return Recalibration(state, measured, skipped, [name for name in matched if name not in skipped])


def _found(model: nn.Module, frozen: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Batch norms by name, in the mode that ``train()`` leaves them in; and why others are not to be measured."""
    model.train()
    norms, skipped = {}, {}
    for name, module in model.named_modules():
        if not isinstance(module, BatchNorm):
            continue
        if module.running_mean is None or module.running_var is None:
            skipped[name] = 'they keep no statistics'
        elif not module.training and not frozen:
            skipped[name] = 'training leaves their statistics as they are (norm_eval, or a frozen stage)'
        else:
            norms[name] = module
    return norms, skipped


def _measuring(norms: Mapping[str, Any], model: nn.Module) -> None:
    """Everything in evaluation mode but these norms: they normalise with their batch, and their buffers stay."""
    for module in model.modules():
        module.training = False
    for module in norms.values():
        module.training, module.momentum = True, 0.0


def _kept(name: str, norms: Mapping[str, Any], structure: Structure) -> tuple[Any, Sequence[int]]:
    """The norm before slimming, and its channels that are left."""
    old = read_edits(structure.edits).dense_name(name)
    path = f'{old}.running_mean' if old else 'running_mean'
    return norms[old], structure.tensors.get(path, {}).get(0, range(norms[old].running_mean.numel()))


@dataclass(frozen=True)
class _Statistics:
    count: np.ndarray
    calls: np.ndarray
    total: np.ndarray
    squares: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return np.divide(self.total, self.count)

    @property
    def var(self) -> np.ndarray:
        return np.divide(np.maximum(self.squares - self.count * self.mean**2, 0), self.count - 1)

    def of(self, norm: Any) -> dict[str, Tensor]:
        """The buffers of a norm that has these."""
        return _buffers(norm, self.mean, self.var, int(self.calls[0]))


def _matched(norm: Any, before: _Statistics, after: _Statistics) -> dict[str, Tensor]:
    """The buffers with which a norm does to the values now what it did to them before."""
    scale = (after.var + norm.eps) / (before.var + norm.eps)
    mean, var = norm.running_mean.double().cpu().numpy(), norm.running_var.double().cpu().numpy()
    new = np.maximum((var + norm.eps) * scale - norm.eps, 0)
    return _buffers(norm, after.mean - (before.mean - mean) * np.sqrt(scale), new)


def _buffers(norm: Any, mean: np.ndarray, var: np.ndarray, calls: int | None = None) -> dict[str, Tensor]:
    buffers = {
        key: torch.from_numpy(value).to(getattr(norm, key))
        for key, value in (('running_mean', mean), ('running_var', var))
    }
    if norm.num_batches_tracked is not None and calls is not None:
        buffers['num_batches_tracked'] = torch.full_like(norm.num_batches_tracked, calls)
    return buffers
