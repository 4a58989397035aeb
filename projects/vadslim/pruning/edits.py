"""Edits: what no Group can say, such as that whole layers leave (``depth.py``) or a grid gets coarser (``grid.py``).

An edit is plain data in ``Structure.edits``, enough to rebuild with no declaration at hand. All its names, numbers
and sizes count in the dense network, also those of edits that were decided one after the other; so their order does
not matter, and cuts (``Structure.tensors``) and edits can be read apart. Cuts come first.

A new kind is a subclass of ``Edit`` that is registered by ``edit_type``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from .group import read_attr, write_attr

Number = int | float
Rename = Callable[[str], str]


class EditError(ValueError):
    """An edit that contradicts itself, another one, or the network it is used on."""


class Resampler(Protocol):
    """What becomes of a (cut) tensor; ``dim`` is the one whose positions change, which no Group may cut."""

    @property
    def dim(self) -> int: ...

    def __call__(self, tensor: Tensor) -> Tensor: ...

    def shape(self, shape: Sequence[int], dense: bool = False) -> tuple[int, ...]:
        """The shape afterwards (or, ``dense``, before) of a tensor of this shape before (afterwards)."""


class Edit(ABC):
    """One edit. It is never changed; names are dotted paths in the dense network."""

    type: str

    @classmethod
    @abstractmethod
    def parse(cls, data: Mapping[str, Any]) -> Edit:
        """From plain data; raises ``EditError`` for anything unexpected."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The plain data."""

    @property
    @abstractmethod
    def about(self) -> Set[str]:
        """The modules or tensors it changes; two edits about the same one are one edit."""

    @abstractmethod
    def renamed(self, rename: Rename) -> Edit:
        """The same with other names."""

    @abstractmethod
    def then(self, later: Any, same: bool) -> Edit:
        """One edit for two of this kind; ``same``: both count in the dense network, else ``later`` in what is left."""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Raise ``EditError`` if a network is not one that this edit was made for."""

    @abstractmethod
    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ``EditError`` if a state_dict is not of such a network."""

    @property
    def numbers(self) -> dict[str, Number]:
        """'module.attr' -> new value."""
        return {}

    @property
    def resamplings(self) -> Mapping[str, Resampler]:
        """Tensor -> what becomes of it."""
        return {}

    @property
    def stacks(self) -> Set[str]:
        """Modules whose children leave or get other names."""
        return frozenset()

    def child(self, name: str) -> str | None:
        """The new name of a child of one of the ``stacks``, None if it leaves."""
        return name

    def dense_child(self, name: str) -> str:
        """The inverse of ``child``."""
        return name

    def shorten(self, module: nn.Module) -> None:
        """Take out what leaves of one of the ``stacks``, in place."""
        raise NotImplementedError(f'{type(self).__name__} has stacks, but cannot shorten them')


EDITS: dict[str, type[Edit]] = {}
AnyEdit = TypeVar('AnyEdit', bound=type[Edit])


def edit_type(cls: AnyEdit) -> AnyEdit:
    """Register a kind of edit under its ``type``."""
    EDITS[cls.type] = cls
    return cls


class Edits:
    """All edits of a structure.

    Args:
        data: What ``Structure.edits`` holds.

    Raises:
        EditError: One of them is damaged or unknown, or two are about the same thing.
    """

    def __init__(self, data: Iterable[Mapping[str, Any]]) -> None:
        self.each: list[Edit] = []
        about: set[str] = set()
        for entry in data:
            kind = EDITS.get(str(entry.get('type'))) if isinstance(entry, Mapping) else None
            if kind is None:
                name = entry.get('type') if isinstance(entry, Mapping) else entry
                raise EditError(f'edit {name!r:.40} is not known, there are {", ".join(sorted(EDITS))}')
            try:
                edit = kind.parse(entry)
            except EditError as error:
                raise EditError(f'edit {kind.type}: {error}') from None
            if about & edit.about:
                raise EditError(f'two edits are about {min(about & edit.about)}')
            about |= edit.about
            self.each.append(edit)
        self.stacks = {path: edit for edit in self.each for path in edit.stacks}
        self.resamplings = {name: r for edit in self.each for name, r in edit.resamplings.items()}
        self.numbers = {path: value for edit in self.each for path, value in edit.numbers.items()}

    def to_list(self) -> list[dict[str, Any]]:
        """The plain data."""
        return [edit.to_dict() for edit in self.each]

    def slim_name(self, name: str) -> str | None:
        """The name afterwards of a tensor, module or attribute; None if it leaves."""
        dense, slim = '', []
        for part in name.split('.') if name else ():
            new = self.stacks[dense].child(part) if dense in self.stacks else part
            if new is None:
                return None
            slim.append(new)
            dense = f'{dense}.{part}' if dense else part
        return '.'.join(slim)

    def dense_name(self, name: str) -> str:
        """The inverse of ``slim_name``."""
        dense = ''
        for part in name.split('.') if name else ():
            old = self.stacks[dense].dense_child(part) if dense in self.stacks else part
            dense = f'{dense}.{old}' if dense else old
        return dense

    def resample(self, name: str, tensor: Tensor) -> Tensor:
        """What becomes of a (cut) tensor; most stay as they are."""
        return self.resamplings[name](tensor) if name in self.resamplings else tensor

    def check(self, model: nn.Module) -> None:
        """Raise ``EditError`` if the edits are not of this network."""
        for edit in self.each:
            edit.check(model)
        for path in self.numbers:
            try:
                value = read_attr(model, path)
            except (AttributeError, LookupError, TypeError, ValueError):
                raise EditError(f'the model has no attribute {path}, which the edit sets') from None
            if type(value) not in (int, float):
                raise EditError(f'attribute {path} of the model is no number, the edit sets one')

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ``EditError`` if a state_dict is not one of the dense network."""
        for edit in self.each:
            edit.check_state(state)

    def write_numbers(self, model: nn.Module) -> None:
        """Set the attributes, in place."""
        for path, value in self.numbers.items():
            write_attr(model, path, value)

    def shorten(self, model: nn.Module) -> None:
        """Take out what leaves, in place."""
        modules = [(edit, model.get_submodule(path)) for path, edit in self.stacks.items()]  # before names change
        for edit, module in modules:
            edit.shorten(module)

    def then(self, later: Edits, same: bool) -> list[dict[str, Any]]:
        """The data of both; ``same``: ``later`` counts in the dense network too, else in what these edits leave."""
        result = list(self.each)
        for edit in later.each:
            edit = edit if same else edit.renamed(self.dense_name)
            number = next((n for n, old in enumerate(self.each) if old.about & edit.about), None)
            if number is None:
                result.append(edit)
                continue
            first = self.each[number]
            if type(first) is not type(edit):
                raise EditError(f'two edits are about {min(first.about & edit.about)}')
            result[number] = first.then(edit, same)
        return [edit.to_dict() for edit in result]


def check_fields(data: Mapping[str, Any], needed: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raise ``EditError`` for a field that is missing or not known."""
    known = ('type', *needed, *optional)
    wrong = [*(key for key in needed if key not in data), *(key for key in data if key not in known)]
    if wrong:
        raise EditError(f'{wrong[0]!r:.40} is missing or not known, the fields are {", ".join((*needed, *optional))}')


def count_in(value: Any) -> int:
    """``value`` if it is a positive integer."""
    if type(value) is not int or value < 1:
        raise EditError(f'{value!r:.40} where a positive integer is needed')
    return value


def list_in(data: Mapping[str, Any], key: str, kind: type) -> tuple[Any, ...]:
    """A list of plain values of one type; missing is empty."""
    value = data.get(key, [])
    if not isinstance(value, list | tuple) or any(type(item) is not kind for item in value):
        raise EditError(f'{key} is {value!r:.40}, a list of {kind.__name__} is needed')
    return tuple(value)
