"""What goes over from the tensors of a checkpoint to a network, and what does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..checkpoint import CheckpointError

SHOWN = 10
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transfer:
    """Names of tensors, by what becomes of them.

    Attributes:
        loaded: of the same name and shape.
        new: of the network alone.
        dropped: of the checkpoint alone.
        reshaped: name -> shapes in the checkpoint and in the network.
    """

    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)

    def problems(self, allow_new: Sequence[str] = (), allow_dropped: Sequence[str] = ()) -> list[str]:
        """Say what was not declared: one short text per tensor.

        Args:
            allow_new: fnmatch patterns of tensors that the checkpoint may lack.
            allow_dropped: fnmatch patterns of tensors that it may have and the network not. A tensor of another shape
                is both: left behind, and new.
        """
        texts = [f'{name} is missing' for name in self.new if not _matches(name, allow_new)]
        texts += [
            f'{name} is {theirs}, the model has {mine}'
            for name, (theirs, mine) in self.reshaped.items()
            if not (_matches(name, allow_new) and _matches(name, allow_dropped))
        ]
        return texts + [f'{name} is not in the model' for name in self.dropped if not _matches(name, allow_dropped)]

    def check(
        self, source: str = 'the checkpoint', allow_new: Sequence[str] = (), allow_dropped: Sequence[str] = ()
    ) -> None:
        """Refuse what was not declared.

        Raises:
            CheckpointError: names the first ten tensors.
        """
        problems = self.problems(allow_new, allow_dropped)
        if problems:
            raise CheckpointError(f'{source} is not one of this network: {shorten(problems)}')

    def __str__(self) -> str:
        """One line: how many tensors were loaded, are new, were dropped, and where these stand."""
        parts = [f'{len(self.loaded)} tensors loaded']
        if self.new:
            parts.append(f'{len(self.new)} new ({places(self.new)})')
        if self.dropped:
            parts.append(f'{len(self.dropped)} dropped ({places(self.dropped)})')
        if self.reshaped:
            parts.append(f'{len(self.reshaped)} of another shape, new ({places(list(self.reshaped))})')
        return ', '.join(parts)


def compare_architecture(state: Mapping[str, Any], model: nn.Module) -> Transfer:
    """Compare a state dict with a network's, name by name; the prefix that DDP puts before the names does not count."""
    theirs = {name.removeprefix('module.'): tuple(value.shape) for name, value in state.items() if _is_tensor(value)}
    mine = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    both = [name for name in mine if name in theirs]
    return Transfer(
        [name for name in both if theirs[name] == mine[name]],
        [name for name in mine if name not in theirs],
        [name for name in theirs if name not in mine],
        {name: (theirs[name], mine[name]) for name in both if theirs[name] != mine[name]},
    )


def differences(
    model: nn.Module,
    state: Mapping[str, Any],
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> list[str]:
    """Compare a state dict with a model's, name by name.

    Returns:
        One short text per tensor that is missing, of another shape or unexpected.
    """
    return compare_architecture(state, model).problems(allow_missing, allow_unexpected)


def shorten(problems: Sequence[str]) -> str:
    """The first of what :func:`differences` found, on one line."""
    more = f' and {len(problems) - SHOWN} more' if len(problems) > SHOWN else ''
    return '; '.join(problems[:SHOWN]) + more


def places(names: Sequence[str], most: int = 3) -> str:
    """The modules that tensors stand in: at the least depth that tells a few of them apart."""
    deepest = max(_parent(name).count('.') for name in names) + 1
    depth = 1
    while depth < deepest and len({_module(name, depth) for name in names}) == 1:
        depth += 1
    found = list(dict.fromkeys(_module(name, depth) for name in names))
    return ', '.join(found[:most]) + (f' and {len(found) - most} more' if len(found) > most else '')


def _module(name: str, depth: int) -> str:
    return '.'.join(_parent(name).split('.')[:depth])


def _parent(name: str) -> str:
    return name.rpartition('.')[0] or name


def _is_tensor(value: Any) -> bool:
    return hasattr(value, 'shape')


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
