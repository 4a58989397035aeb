"""Tensors in nestings of dicts, lists, tuples and plain objects, as models take and return them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

CLOSED = (nn.Module, type, FunctionType, ModuleType)  # objects that are not looked into


def tensors_in(value: Any, _around: tuple[int, ...] = ()) -> Iterator[Tensor]:
    """Every tensor of a nesting of dicts, lists, tuples and objects with attributes (data samples), in order."""
    if isinstance(value, Tensor):
        yield value
        return
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    elif hasattr(value, '__dict__') and not isinstance(value, CLOSED) and id(value) not in _around:
        items, _around = vars(value).values(), (*_around, id(value))
    for item in items:
        yield from tensors_in(item, _around)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    return value
