"""The kept slices of an optimizer's moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .slim import cut
from .structure import Structure


def optimizer_param_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The integer of every parameter in ``optimizer.state_dict()`` -> its (first) name in the model.

    Raises:
        ValueError: The optimizer holds a parameter that the model does not have.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    result: dict[int, str] = {}
    numbers: dict[int, int] = {}
    for group in optimizer.param_groups:
        for parameter in group['params']:
            number = numbers.setdefault(id(parameter), len(numbers))
            if id(parameter) not in names:
                raise ValueError(f'parameter {number} of the optimizer, {tuple(parameter.shape)}, is not in the model')
            result[number] = names[id(parameter)]
    return result


def slice_optimizer_state(
    state: Mapping[str, Any],
    names: Mapping[int, str] | Sequence[str],
    structure: Structure,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Slice an optimizer's state_dict; param_groups (and with them all hyper-parameters) are passed on.

    A tensor of the dense parameter's shape is a moment and is sliced; numbers and one-element tensors
    (``step``) are kept. The state of a parameter in which anything else is found is dropped as a whole, and
    the optimizer starts that parameter afresh.

    Args:
        state: ``optimizer.state_dict()`` of the dense run.
        names: The name of every integer (``optimizer_param_names``).
        structure: What was kept.
        shapes: Dense shapes of the parameters; without them those that lose nothing are passed on unchecked.

    Returns:
        The new state_dict and one line per parameter whose state was dropped.
    """
    by_number = names if isinstance(names, Mapping) else dict(enumerate(names))
    entries, report = {}, []
    for number, moments in state['state'].items():
        name = by_number.get(number)
        if name is None:
            report.append(f'optimizer state of parameter {number} dropped: its name is not known')
            continue
        known = structure.shapes.get(name) or (shapes or {}).get(name)
        if known is None:
            entries[number] = {key: _sliced(value, None, {}) for key, value in moments.items()}
            continue
        dense = tuple(known)
        strange = [key for key, value in moments.items() if not _fits(value, dense)]
        if strange:
            found = f'{strange[0]} is {tuple(moments[strange[0]].shape)}'
            report.append(f'optimizer state of {name} dropped: {found}, the dense parameter {dense}')
            continue
        dims = structure.tensors.get(name, {})
        entries[number] = {key: _sliced(value, dense, dims) for key, value in moments.items()}
    rest = {key: value for key, value in state.items() if key != 'state'}
    return {**rest, 'state': entries}, report


def _sliced(value: Any, dense: tuple[int, ...] | None, dims: Mapping[int, list[int]]) -> Any:
    """A new tensor in any case: ``Optimizer.load_state_dict`` keeps the very tensors it is given."""
    if not isinstance(value, torch.Tensor):
        return value
    return cut(value, dims if tuple(value.shape) == dense else {})


def _fits(value: Any, dense: tuple[int, ...]) -> bool:
    return not isinstance(value, torch.Tensor) or value.numel() == 1 or tuple(value.shape) == dense
