"""Importance from what a unit says: the magnitude of its outputs over the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..registry import IMPORTANCES
from .attention import SlimMultiheadAttention
from .gradients import TINY
from .group import Group, Slice, first_names, tensors_of
from .importance import L2, Importance, Scores, per_unit, prunable, sum_except
from .passes import ScoringError, evaluated_copy, numbered, random_state_kept, reduced
from .places import gate, reading


class Meter:
    """Mean magnitudes along the channels of tensors that pass by.

    Args:
        size: Number of channels; of a grouped convolution those of one group, the others fold onto them.
        exponential: Of the values, in place of the magnitude: for the logits of a softmax.
    """

    def __init__(self, size: int, exponential: bool = False) -> None:
        self.exponential = exponential
        self.total, self.count = np.zeros(size), np.zeros(1)

    def add(self, values: Any, axis: int) -> None:
        """Takes a tensor whose channels run along ``axis``; what has another size is no channel and passes."""
        size = len(self.total)
        if not isinstance(values, Tensor) or values.dim() < 2 or values.shape[axis] % size:
            return
        rows = values.detach().movedim(axis, -1).reshape(-1, size).double()
        self.total += sum_except(rows.exp() if self.exponential else rows.abs(), 1)
        self.count += len(rows)


@IMPORTANCES.register_module()
class Activation(Importance):
    """Mean magnitude of a unit's outputs over the data.

    A unit's outputs are what its readers get: the inputs of the linear layers and convolutions in which it has
    columns or input channels (behind norms and nonlinearities), query, key and value of ``nn.MultiheadAttention``.
    The mean runs over samples, positions, the unit's channels and readers, all with the same weight. Where nothing
    reads a unit, they are the outputs of the layers that make it; a parameter that is used as a tensor (queries) is
    its own output. Of the logits of a softmax that forgets the unit, the exponentials are averaged.

    The network is in evaluation mode; the losses are not used.
    """

    needs_batches = True

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        groups = prunable(groups)
        tensors, reads = tensors_of(model), reading(model)
        gates = {group.name: gate(group, tensors, reads) for group in groups}
        parts = {_key(part): part for gated in gates.values() for part in gated}
        meters = {key: Meter(tensors[key[0]].shape[key[1]], key[2]) for key in parts}
        twin = evaluated_copy(model)
        count = np.zeros(1)
        with random_state_kept(), plain_attention(twin), torch.no_grad(), ExitStack() as hooks:
            for key, meter in meters.items():
                for handle in _watch(twin, key, meter, reads):
                    hooks.callback(handle.remove)
            for number, batch in numbered(batches, self):
                with random_state_kept(number):
                    batch(twin)
                count += 1
        assert batches is not None  # else numbered has raised
        flat = [part for meter in meters.values() for part in (meter.total, meter.count)]
        *sums, count = reduced(batches, [*flat, count])
        if not count:
            raise ScoringError('importance Activation: there are no batches')
        means = {
            key: total / seen if seen else _own_size(tensors[key[0]], key[1])
            for key, total, seen in zip(meters, sums[::2], sums[1::2])
        }
        sizes = L2()(model, groups)
        return {group.name: _mean(group, gates[group.name], means) + TINY * sizes[group.name] for group in groups}


Key = tuple[str, int, bool]  # tensor, dim, whether its outputs are logits


def _key(part: Slice) -> Key:
    return part.tensor, part.dim, part.mask_value == -np.inf


def _mean(group: Group, parts: Sequence[Slice], means: dict[Key, np.ndarray]) -> np.ndarray:
    """The mean over the positions of each unit in all its Slices; 0 for one without."""
    total, count = np.zeros(group.num_units), np.zeros(group.num_units)
    for part in parts:
        total += per_unit(part, means[_key(part)], group.num_units)
        count += np.diff(part.index.starts)
    return np.asarray(total / np.maximum(count, 1))


def _own_size(tensor: Tensor, dim: int) -> np.ndarray:
    return sum_except(tensor.detach().abs(), dim) * tensor.shape[dim] / tensor.numel()


def _watch(twin: nn.Module, key: Key, meter: Meter, reads: dict[tuple[str, int], list[str]]) -> Iterator[Any]:
    """Hooks that show a meter the values at a place."""
    tensor, dim, _ = key
    if (tensor, dim) in reads:
        for name in reads[tensor, dim]:
            module = twin.get_submodule(name)
            hook = partial(_inputs, meter=meter, axis=_axis(module), names=_ARGUMENTS.get(tensor.rpartition('.')[2]))
            yield module.register_forward_pre_hook(hook, with_kwargs=True)
        return
    owners = [name for name, first in first_names(twin).items() if first == tensor]
    for owner in owners:
        module = twin.get_submodule(owner.rpartition('.')[0])
        if not (isinstance(module, nn.Embedding) and dim == 0):  # looked up are rows, the outputs are of all of them
            yield module.register_forward_hook(partial(_outputs, meter=meter, axis=_axis(module)))


_ARGUMENTS = {  # of nn.MultiheadAttention, by what reads them
    'in_proj_weight': ('query', 'key', 'value'),
    'q_proj_weight': ('query',),
    'k_proj_weight': ('key',),
    'v_proj_weight': ('value',),
}


def _inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], meter: Meter, axis: int, names: Any
) -> None:
    if isinstance(module, nn.MultiheadAttention):
        given = {**dict(zip(('query', 'key', 'value'), args)), **kwargs}
        for name in names:
            meter.add(given[name], axis)
    else:
        meter.add([*args, *kwargs.values()][0], axis)


def _outputs(module: nn.Module, args: tuple[Any, ...], output: Any, meter: Meter, axis: int) -> None:
    meter.add(output, axis)


def _axis(module: nn.Module) -> int:
    """Where the channels of a layer's inputs and outputs are."""
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return 1
    weight = module._parameters.get('weight')
    kernel = weight is not None and weight.dim() > 2
    return 1 - weight.dim() if kernel and weight is not None else -1


@contextmanager
def plain_attention(twin: nn.Module) -> Iterator[None]:
    """Every layer inside attention is called, not PyTorch's fused operators; ``twin`` is changed for good."""
    for module in twin.modules():
        if type(module) is nn.MultiheadAttention:
            module.__class__ = SlimMultiheadAttention
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
