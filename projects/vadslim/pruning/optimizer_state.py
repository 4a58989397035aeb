"""The kept slices of an optimizer's moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .slim import cut
from .structure import Structure, read_edits


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
    """Slice an optimizer's state_dict; the hyper-parameters of all param_groups are passed on.

    A tensor of the dense parameter's shape is a moment and is sliced; numbers and one-element tensors
    (``step``) are kept. The state of a parameter in which anything else is found is dropped as a whole, and
    the optimizer starts that parameter afresh; so it does where an edit resamples the parameter. Parameters of
    removed layers leave the param_groups, too, and those that follow are numbered anew.

    Args:
        state: ``optimizer.state_dict()`` of the dense run.
        names: The name of every integer (``optimizer_param_names``).
        structure: What was kept.
        shapes: Dense shapes of the parameters; without them those that lose nothing are passed on unchecked.

    Returns:
        The new state_dict and one line per parameter whose state was dropped.
    """
    by_number = names if isinstance(names, Mapping) else dict(enumerate(names))
    edits = read_edits(structure.edits)
    gone = {number for number, name in by_number.items() if edits.slim_name(name) is None}
    entries, report = {}, []
    for number, moments in state['state'].items():
        name = by_number.get(number)
        if number in gone:
            continue
        if name in edits.resamplings:
            report.append(f'optimizer state of {name} dropped: the parameter was resampled')
            continue
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
    if gone:
        entries, rest['param_groups'] = _numbered_anew(entries, rest['param_groups'], gone)
    return {**rest, 'state': entries}, report


def _numbered_anew(
    entries: Mapping[int, Any], groups: Sequence[Mapping[str, Any]], gone: set[int]
) -> tuple[dict[int, Any], list[dict[str, Any]]]:
    """State and param_groups without some parameters; a group of none but those is left out."""
    left = [[number for number in group['params'] if number not in gone] for group in groups]
    new = {number: count for count, number in enumerate(number for numbers in left for number in numbers)}
    kept = [
        {**group, 'params': [new[number] for number in numbers]}
        for group, numbers in zip(groups, left)
        if numbers or not group['params']
    ]
    return {new[number]: value for number, value in entries.items()}, kept


def _sliced(value: Any, dense: tuple[int, ...] | None, dims: Mapping[int, list[int]]) -> Any:
    """A new tensor in any case: ``Optimizer.load_state_dict`` keeps the very tensors it is given."""
    if not isinstance(value, torch.Tensor):
        return value
    return cut(value, dims if tuple(value.shape) == dense else {})


def _fits(value: Any, dense: tuple[int, ...]) -> bool:
    return not isinstance(value, torch.Tensor) or value.numel() == 1 or tuple(value.shape) == dense
