"""Groups: the units of a network that can be removed, and every place that shrinks with them.

A ``Group`` is data. It knows nothing about where it came from (a tracer, a declaration) nor about who uses it
(importance, allocation, slimming, masking, a sparsity penalty). Positions and units count in the dense
architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from .kinds import ByKind, Kind

Place = tuple[str, int]  # a tensor and one of its dims

OPEN = 'open: '  # starts the reason of a Group that reaches a place nobody declared; ``Group.closes`` lifts it
FROZEN = 'frozen: '


class GroupError(ValueError):
    """A Group that contradicts itself or the model it is used on."""


class Index(Sequence[np.ndarray]):
    """The positions of every unit, kept in one array: ``index[u]`` is an int64 array, a view.

    Args:
        positions: The positions of unit 0, then those of unit 1, and so on.
        counts: How many each unit has.
    """

    def __init__(self, positions: np.ndarray, counts: np.ndarray) -> None:
        self.flat = np.asarray(positions, np.int64).reshape(-1)
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    @classmethod
    def of(cls, units: Iterable[Any]) -> Index:
        """From one sequence of positions per unit."""
        if isinstance(units, Index):
            return units
        arrays = [np.asarray(positions, np.int64).reshape(-1) for positions in units]
        flat = np.concatenate([np.empty(0, np.int64), *arrays])
        return cls(flat, np.array([array.size for array in arrays], np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, unit: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, unit: slice) -> tuple[np.ndarray, ...]: ...

    def __getitem__(self, unit: int | slice) -> np.ndarray | tuple[np.ndarray, ...]:
        if isinstance(unit, slice):
            return tuple(self[number] for number in range(*unit.indices(len(self))))
        if not -len(self) <= unit < len(self):
            raise IndexError(unit)
        unit %= len(self)
        return self.flat[self.starts[unit] : self.starts[unit + 1]]

    @cached_property
    def units(self) -> np.ndarray:
        """The unit of each entry of ``flat``."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


@dataclass(frozen=True, eq=False)
class Slice:
    """The positions of one dimension of one tensor that belong to the units of a Group.

    Args:
        tensor: Dotted path of a parameter or buffer; tied tensors by their first name.
        dim: Dimension of the tensor, not negative.
        index: ``index[u]`` are the sorted, unique positions of unit ``u``, possibly none. The positions of two
            units of one Slice are disjoint. Any sequence of sequences is taken and kept as an ``Index``.
        mask_value: What the masked twin writes at a removed unit's positions: 0, or -inf for the bias of a
            softmax logit, or 1 for a running variance.
    """

    tensor: str
    dim: int
    index: Index
    mask_value: float = 0.0

    def __post_init__(self) -> None:
        index = Index.of(self.index)
        object.__setattr__(self, 'index', index)
        where, flat = f'{self.tensor} dim {self.dim}', index.flat
        if self.dim < 0:
            raise GroupError(f'{where}: a dim must count from the front (0, 1, ...)')
        if flat.size and flat.min() < 0:
            raise GroupError(f'{where}: negative position {flat.min()}')
        if np.unique(flat).size != flat.size:
            raise GroupError(f'{where}: a position belongs to two units, or twice to one')
        falling = np.flatnonzero((np.diff(flat) < 0) & (np.diff(index.units) == 0))
        if falling.size:
            raise GroupError(f'{where}: the positions of unit {index.units[falling[0]]} are not sorted')

    def positions(self, units: Sequence[int]) -> np.ndarray:
        """The sorted positions of some units."""
        chosen = np.zeros(len(self.index), bool)
        chosen[list(units)] = True
        return np.sort(self.index.flat[chosen[self.index.units]])


@dataclass(frozen=True)
class Attr:
    """A number that no tensor tells: ``new = old - removed units * per_unit``.

    Args:
        module: Dotted path of the module that has the attribute ('' is the model itself).
        name: The attribute; ``sizes.1`` is the second entry of a list or tuple.
        per_unit: By how much it falls per removed unit.
    """

    module: str
    name: str
    per_unit: int = 1

    @property
    def path(self) -> str:
        return f'{self.module}.{self.name}' if self.module else self.name


@dataclass(frozen=True, eq=False)
class Group:
    """Units that can be removed, with all the places that shrink together when one goes.

    Args:
        name: Unique in a model; starts with the dotted path of the module or tensor that the units belong to.
        kind: 'channel', 'neuron', 'head', 'query', ...: what a unit is.
        num_units: Number of units in the dense architecture.
        slices: Every place; each with one index entry per unit.
        attrs: Numbers that fall with the units.
        min_units: How many units have to stay.
        protected: Why no unit may be removed; '' when they may. Reasons that start with 'open: ' say that the
            units reach a place nobody declared.
        closes: This declaration states the places behind the border where a traced Group ends, so that the
            'open: ' reasons of what it is joined with no longer hold.
        on: Pruned unless told otherwise; a Group that is off is pruned only when ``targets`` match it.
    """

    name: str
    kind: str
    num_units: int
    slices: tuple[Slice, ...]
    attrs: tuple[Attr, ...] = ()
    min_units: int = 1
    protected: str = ''
    closes: bool = False
    on: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, 'slices', tuple(self.slices))
        object.__setattr__(self, 'attrs', tuple(self.attrs))
        if self.num_units < 1:
            raise GroupError(f'Group {self.name}: num_units is {self.num_units}, at least 1 is needed')
        if not 1 <= self.min_units <= self.num_units:
            raise GroupError(f'Group {self.name}: min_units is {self.min_units}, allowed is 1 to {self.num_units}')
        for part in self.slices:
            if len(part.index) != self.num_units:
                raise GroupError(
                    f'Group {self.name}: {part.tensor} dim {part.dim} has {len(part.index)} units, '
                    f'the Group has {self.num_units}'
                )

    def removed(self, kept: Sequence[int]) -> list[int]:
        """The units that are not in ``kept``, sorted."""
        return sorted(set(range(self.num_units)) - set(kept))

    def prefixed(self, prefix: str) -> Group:
        """The same Group seen from a model in which the module stands at ``prefix``."""
        if not prefix:
            return self
        return replace(
            self,
            name=f'{prefix}.{self.name}',
            slices=tuple(replace(part, tensor=f'{prefix}.{part.tensor}') for part in self.slices),
            attrs=tuple(
                replace(attr, module=f'{prefix}.{attr.module}' if attr.module else prefix) for attr in self.attrs
            ),
        )


def blocks(num_units: int, size: int = 1, offsets: Iterable[int] = (0,)) -> Index:
    """An index in which unit ``u`` owns ``size`` consecutive positions after every offset.

    ``blocks(8, 32)`` are eight heads of 32 rows; ``blocks(8, 32, (0, 256, 512))`` the same heads in a packed
    [query; key; value] matrix.
    """
    inner = (np.asarray(sorted(offsets), dtype=np.int64)[:, None] + np.arange(size)[None]).reshape(-1)
    flat = inner[None] + np.arange(num_units, dtype=np.int64)[:, None] * size
    return Index(flat, np.full(num_units, inner.size))


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by its first dotted name, in the model's order."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def first_names(model: nn.Module) -> dict[str, str]:
    """Every dotted name of a parameter or buffer -> its first one (they differ for tied tensors)."""
    first: dict[int, str] = {}
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in every}


def check_groups(model: nn.Module, groups: Sequence[Group]) -> None:
    """Raise ``GroupError`` where a Group names what the model does not have."""
    names: set[str] = set()
    tensors, known = tensors_of(model), first_names(model)
    for group in groups:
        if group.name in names:
            raise GroupError(f'two Groups are named {group.name}')
        names.add(group.name)
        for part in group.slices:
            tensor = tensors.get(part.tensor)
            if tensor is None:
                hint = f', its first name is {known[part.tensor]}' if part.tensor in known else ''
                raise GroupError(f'Group {group.name}: the model has no tensor {part.tensor}{hint}')
            if part.dim >= tensor.dim():
                raise GroupError(
                    f'Group {group.name}: {part.tensor} has shape {tuple(tensor.shape)}, no dim {part.dim}'
                )
            last = int(part.index.flat.max(initial=-1))
            if last >= tensor.shape[part.dim]:
                raise GroupError(
                    f'Group {group.name}: position {last} of {part.tensor} dim {part.dim}, '
                    f'which has shape {tuple(tensor.shape)}'
                )
        for attr in group.attrs:
            try:
                value = read_attr(model, attr.path)
            except (AttributeError, LookupError, TypeError, ValueError):
                raise GroupError(f'Group {group.name}: the model has no attribute {attr.path}') from None
            if not isinstance(value, int):
                raise GroupError(f'Group {group.name}: attribute {attr.path} is {value!r}, not an integer')


def _owner(model: nn.Module, path: str) -> tuple[nn.Module, list[str]]:
    """The deepest module on a dotted path, and what is left of the path."""
    module, parts = model, path.split('.')
    while len(parts) > 1 and parts[0] in module._modules:
        module = getattr(module, parts.pop(0))
    return module, parts


def read_attr(model: nn.Module, path: str) -> object:
    """``model.a.b.name``, where ``name.1`` reads the second entry of a list or tuple."""
    module, parts = _owner(model, path)
    value = getattr(module, parts[0])
    for part in parts[1:]:
        value = value[int(part)]
    return value


def write_attr(model: nn.Module, path: str, value: float) -> None:
    """Set what ``read_attr`` reads; lists and tuples are replaced, never edited in place."""
    module, parts = _owner(model, path)
    if len(parts) == 1:
        setattr(module, parts[0], value)
        return
    if len(parts) > 2:
        raise AttributeError(path)
    old = getattr(module, parts[0])
    entries = list(old)
    entries[int(parts[1])] = value
    setattr(module, parts[0], type(old)(entries))


Declaration = Callable[[nn.Module, str], list[Group]]
_DECLARATIONS: ByKind[tuple[Declaration, bool]] = ByKind()


def declares_groups(kind: Kind, *, owns_children: bool = False) -> Callable[[Declaration], Declaration]:
    """Register a function (module, prefix) -> Groups for a class of modules and its subclasses.

    The function writes tensors and attributes with the prefix in front (or builds them relative to the module
    and calls ``Group.prefixed``). The nearest class in the MRO wins.

    Args:
        kind: The class that the function can read; or a function that tells modules which it can read, where these
            have no class in common (as they may turn out to be something else, it then tries the Groups itself).
        owns_children: The declaration speaks for everything inside: no declaration of a child is used.
    """

    def register(declaration: Declaration) -> Declaration:
        _DECLARATIONS.register(kind, (declaration, owns_children))
        return declaration

    return register


def declaration_of(module: nn.Module) -> tuple[Declaration, bool] | None:
    """(declaration, owns_children) of the nearest class in the MRO, else of what the module looks like, or None."""
    return _DECLARATIONS.of(module)


def declared_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module whose class declares Groups, innermost first; shared ones once, under their first name."""
    seen: set[int] = set()

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        found = declaration_of(module)
        if found is None or not found[1]:
            for name, child in module.named_children():
                yield from walk(child, f'{prefix}.{name}' if prefix else name)
        if found is not None:
            yield prefix, module

    yield from walk(model, '')


def declared_groups(model: nn.Module, prefix: str = '') -> list[list[Group]]:
    """The Groups of every declaring module, one list per declaration, under their first tensor names."""
    first = first_names(model)
    result = []
    for name, module in declared_modules(model):
        found = declaration_of(module)
        assert found is not None
        groups = [with_first_names(group, first).prefixed(prefix) for group in found[0](module, name)]
        if groups:
            result.append(groups)
    return result


def with_first_names(group: Group, first: dict[str, str]) -> Group:
    """Name tied tensors by their first name and drop a Slice that says the same twice."""
    slices: dict[tuple, Slice] = {}
    for part in group.slices:
        tensor = first.get(part.tensor, part.tensor)
        key = (tensor, part.dim, part.index.flat.tobytes(), part.index.starts.tobytes())
        slices.setdefault(key, replace(part, tensor=tensor))
    return replace(group, slices=tuple(slices.values()))
