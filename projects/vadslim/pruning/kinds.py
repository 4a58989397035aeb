"""What is registered for classes of modules, and for modules that have no class in common but look alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

T = TypeVar('T')
Kind = type[nn.Module] | Callable[[nn.Module], bool]


class ByKind(Generic[T]):
    """A value per kind of module: the nearest class in the MRO wins; else the first likeness that says yes."""

    def __init__(self) -> None:
        self._classes: dict[type[nn.Module], T] = {}
        self._alike: list[tuple[Callable[[nn.Module], bool], T]] = []

    def register(self, kind: Kind, value: T) -> None:
        """For a class and its subclasses, or for every module of which a function says that it is one."""
        if isinstance(kind, type):
            self._classes[kind] = value
        else:
            self._alike.append((kind, value))

    def of(self, module: nn.Module) -> T | None:
        """The value for a module, or None."""
        found = next((self._classes[cls] for cls in type(module).__mro__ if cls in self._classes), None)
        return found or next((value for looks_alike, value in self._alike if looks_alike(module)), None)
