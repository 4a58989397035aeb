"""Where channels enter and leave a module that states its own Groups, so that a trace goes on behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from .group import Place
from .kinds import ByKind, Kind


@dataclass(frozen=True)
class Borders:
    """The channels, the last dim, of what a module takes and of the first tensor that it returns.

    Args:
        inputs: Argument of the forward -> (tensor of the module, its dim that runs over the argument's channels).
        outputs: Every (tensor of the module, its dim) that makes the channels of the output; a weight first.
    """

    inputs: Mapping[str, Place]
    outputs: tuple[Place, ...]


Finder = Callable[[nn.Module], Borders]
_BORDERS: ByKind[Finder] = ByKind()


def declares_borders(kind: Kind) -> Callable[[Finder], Finder]:
    """Register a function (module) -> Borders for modules that state their own Groups; ``kind`` as there."""

    def register(finder: Finder) -> Finder:
        _BORDERS.register(kind, finder)
        return finder

    return register


def borders_of(module: nn.Module) -> Borders | None:
    """The borders of a module; None when nobody has declared them: what enters is protected."""
    finder = _BORDERS.of(module)
    return finder(module) if finder else None
