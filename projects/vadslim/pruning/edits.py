"""Edits: what no Group can say. Whole layers leave (``Depth``), tensors over a grid are resampled (``Grid``).

An edit is plain data in ``Structure.edits``, enough to rebuild with no declaration at hand. All its names, numbers
and sizes count in the dense network, also those of edits that were decided one after the other; so their order does
not matter, and cuts (``Structure.tensors``) and edits can be read apart. Cuts come first.

A new kind of edit is a class with the methods of ``Depth`` and an entry of ``EDITS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .group import first_names, read_attr, tensors_of, write_attr

Number = int | float
Rename = Callable[[str], str]
MODES = {1: 'linear', 2: 'bilinear', 3: 'trilinear'}


class EditError(ValueError):
    """An edit that contradicts itself, another one, or the network it is used on."""


@dataclass(frozen=True)
class Resampling:
    """One dimension of a tensor that runs over a grid, row-major: linear interpolation between the cells' centres.

    Args:
        dim: The dimension.
        sizes: Sizes of the grid, the dense one first; each is resampled from the one before.
    """

    dim: int
    sizes: tuple[tuple[int, ...], ...]

    def __call__(self, tensor: Tensor) -> Tensor:
        """(..., cells, ...) -> (..., new cells, ...), the same dtype."""
        moved = tensor.detach().movedim(self.dim, -1)
        values = moved.reshape(-1, 1, *self.sizes[0]).to(torch.promote_types(tensor.dtype, torch.float32))
        for size in self.sizes[1:]:
            values = functional.interpolate(values, size=size, mode=MODES[len(size)], align_corners=False)
        result = values.reshape(*moved.shape[:-1], -1).movedim(-1, self.dim)
        return result.to(tensor.dtype).contiguous()

    def shape(self, shape: Sequence[int], dense: bool = False) -> tuple[int, ...]:
        """The shape afterwards (or, ``dense``, before) of a tensor of this shape before (afterwards)."""
        cells = math.prod(self.sizes[0 if dense else -1])
        return tuple(cells if dim == self.dim else size for dim, size in enumerate(shape))


@dataclass(frozen=True)
class Depth:
    """Whole layers of a stack leave; those that stay are numbered anew.

    Args:
        layers: Dotted path of an ``nn.ModuleList`` or ``nn.Sequential``.
        num_layers: How many it has in the dense network.
        kept: The layers that stay, rising.
        beside: Paths of lists with one entry per layer, which go with their layer.
        attrs: 'module.attr' of the numbers that say how many layers there are.
    """

    type = 'depth'
    layers: str
    num_layers: int
    kept: tuple[int, ...]
    beside: tuple[str, ...] = ()
    attrs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.kept or list(self.kept) != sorted(set(self.kept)):
            raise EditError(f'{self.layers}: kept layers are not a rising, non-empty list')
        if self.kept[0] < 0 or self.kept[-1] >= self.num_layers:
            raise EditError(f'{self.layers}: kept layers have to be among 0 to {self.num_layers - 1}')

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Depth:
        _fields(data, 'layers', 'num_layers', 'kept', optional=('beside', 'attrs'))
        beside, attrs = (_list(data, key, str) for key in ('beside', 'attrs'))
        if not isinstance(data['layers'], str):
            raise EditError('layers is not a path')
        return cls(data['layers'], _count(data['num_layers']), _list(data, 'kept', int), beside, attrs)

    def to_dict(self) -> dict[str, Any]:
        lists = {'kept': list(self.kept), 'beside': list(self.beside), 'attrs': list(self.attrs)}
        return {'type': self.type, 'layers': self.layers, 'num_layers': self.num_layers, **lists}

    @property
    def about(self) -> set[str]:
        """What it changes; two edits about the same thing are one."""
        return {self.layers, *self.beside}

    @property
    def numbers(self) -> dict[str, Number]:
        """'module.attr' -> new value."""
        return dict.fromkeys(self.attrs, len(self.kept))

    @property
    def resamplings(self) -> dict[str, Resampling]:
        return {}

    def child(self, name: str) -> str | None:
        """The new name of a layer, None for one that leaves."""
        if not name.isdecimal():
            return name
        return str(self.kept.index(int(name))) if int(name) in self.kept else None

    def dense_child(self, name: str) -> str:
        """The dense name of a layer that stayed."""
        if not name.isdecimal():
            return name
        if int(name) >= len(self.kept):
            raise EditError(f'{self.layers} has no layer {name} any more, {len(self.kept)} stayed')
        return str(self.kept[int(name)])

    def renamed(self, rename: Rename) -> Depth:
        beside, attrs = (tuple(map(rename, paths)) for paths in (self.beside, self.attrs))
        return replace(self, layers=rename(self.layers), beside=beside, attrs=attrs)

    def then(self, later: Depth, same: bool) -> Depth:
        """One edit for two; ``same``: both count in the dense network, else ``later`` in what this one leaves."""
        count = self.num_layers if same else len(self.kept)
        if later.num_layers != count or later.about != self.about:
            raise EditError(f'{later.layers}: the second edit is of other layers than the first has left')
        if same and not set(later.kept) <= set(self.kept):
            raise EditError(f'{later.layers}: the second edit keeps layers that the first has removed')
        return replace(self, kept=later.kept if same else tuple(self.kept[layer] for layer in later.kept))

    def check(self, model: nn.Module) -> None:
        """Raise ``EditError`` if a network does not have these layers."""
        for path in (self.layers, *self.beside):
            found = list(stack_at(model, path)._modules)
            if len(found) != self.num_layers or found != [str(number) for number in range(len(found))]:
                names = ', '.join(found[:8])
                raise EditError(f'{path} has the layers {names}; the edit was made for {self.num_layers}')

    def shorten(self, model: nn.Module, find: Callable[[str], nn.Module]) -> None:
        """Take the layers out, in place; ``find`` gives the module at a dense path."""
        for path in (self.layers, *self.beside):
            stack = find(path)
            layers = [stack._modules[str(layer)] for layer in self.kept]
            stack._modules.clear()
            stack._modules.update({str(number): layer for number, layer in enumerate(layers)})


@dataclass(frozen=True)
class Grid:
    """Tensors whose positions are the cells of a grid get another grid.

    Args:
        tensors: Name -> how it is resampled; every name of a tied tensor.
        attrs: 'module.attr' -> new value: sizes of the grid, positions in cells.
    """

    type = 'grid'
    tensors: dict[str, Resampling]
    attrs: dict[str, Number] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Grid:
        _fields(data, 'tensors', optional=('attrs',))
        tensors, attrs = data['tensors'], data.get('attrs', {})
        if not isinstance(tensors, Mapping) or not tensors or not isinstance(attrs, Mapping):
            raise EditError('tensors and attrs have to be objects, tensors not empty')
        for path, value in attrs.items():
            if not isinstance(path, str) or type(value) not in (int, float) or not math.isfinite(value):
                raise EditError(f'attrs: {path!r:.60} is {value!r:.40}, a number is needed')
        return cls({_name(name): _resampling(part) for name, part in tensors.items()}, dict(attrs))

    def to_dict(self) -> dict[str, Any]:
        tensors = {name: {'dim': r.dim, 'sizes': [list(size) for size in r.sizes]} for name, r in self.tensors.items()}
        return {'type': self.type, 'tensors': tensors, 'attrs': dict(self.attrs)}

    @property
    def about(self) -> set[str]:
        return set(self.tensors)

    @property
    def numbers(self) -> dict[str, Number]:
        return dict(self.attrs)

    @property
    def resamplings(self) -> dict[str, Resampling]:
        return self.tensors

    def renamed(self, rename: Rename) -> Grid:
        tensors, attrs = ({rename(name): value for name, value in d.items()} for d in (self.tensors, self.attrs))
        return Grid(tensors, attrs)  # type: ignore[arg-type]

    def then(self, later: Grid, same: bool) -> Grid:
        """As ``Depth.then``; one after the other, tensors are resampled twice."""
        if later.about != self.about:
            raise EditError(f'the second edit resamples other tensors than {", ".join(sorted(self.about))}')
        attrs = {**self.attrs, **later.attrs}
        if same:
            return Grid(later.tensors, attrs)
        tensors = {}
        for name, first in self.tensors.items():
            second = later.tensors[name]
            if (second.dim, second.sizes[0]) != (first.dim, first.sizes[-1]):
                raise EditError(f'{name} is on a grid {first.sizes[-1]}, the second edit is made for {second.sizes[0]}')
            tensors[name] = replace(first, sizes=first.sizes + second.sizes[1:])
        return Grid(tensors, attrs)

    def check(self, model: nn.Module) -> None:
        tensors, first = tensors_of(model), first_names(model)
        for name, resampling in self.tensors.items():
            shape = tuple(tensors[first[name]].shape) if name in first else None
            if shape is None or len(shape) <= resampling.dim or resampling.shape(shape, dense=True) != shape:
                where = f'dim {resampling.dim} of {name}'
                raise EditError(f'{where} ({shape or "missing"}) is no grid of {resampling.sizes[0]} cells')
            if self.tensors.get(first[name]) != resampling:
                raise EditError(f'{name} is tied to {first[name]}, which has to be resampled alike')

    def shorten(self, model: nn.Module, find: Callable[[str], nn.Module]) -> None:
        """Nothing: the tensors were replaced when the model was copied."""


Edit = Depth | Grid
EDITS: dict[str, type[Depth] | type[Grid]] = {Depth.type: Depth, Grid.type: Grid}


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
                raise EditError(f'edit {name!r:.40} is not known, there are {", ".join(EDITS)}')
            try:
                edit = kind.parse(entry)
            except EditError as error:
                raise EditError(f'edit {kind.type}: {error}') from None
            if about & edit.about:
                raise EditError(f'two edits are about {min(about & edit.about)}')
            about |= edit.about
            self.each.append(edit)
        self.stacks = {path: edit for edit in self.each if isinstance(edit, Depth) for path in edit.about}
        self.resamplings = {name: r for edit in self.each for name, r in edit.resamplings.items()}
        self.numbers = {path: value for edit in self.each for path, value in edit.numbers.items()}

    def __bool__(self) -> bool:
        return bool(self.each)

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
        """A (cut) tensor on its new grid; as it is if it has none."""
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
        for path, edit in self.stacks.items():
            start = f'{path}.'
            found = {name[len(start) :].split('.')[0] for name in state if name.startswith(start)}
            if len(found) != edit.num_layers and (found or path == edit.layers):
                raise EditError(f'{path} has {len(found)} layers in the state, the edit was made for {edit.num_layers}')
        for name, resampling in self.resamplings.items():
            if name not in state:
                raise EditError(f'the state has no {name}, which the edit resamples')
            shape = tuple(state[name].shape)
            if len(shape) <= resampling.dim or resampling.shape(shape, dense=True) != shape:
                raise EditError(f'{name} is {shape}, the edit was made for a grid {resampling.sizes[0]}')

    def write_numbers(self, model: nn.Module) -> None:
        """Set the attributes, in place."""
        for path, value in self.numbers.items():
            write_attr(model, path, value)

    def shorten(self, model: nn.Module) -> None:
        """Take whole layers out, in place; paths are dense until the last one is out."""
        modules = {path: stack_at(model, path) for path in self.stacks}
        for edit in self.each:
            edit.shorten(model, modules.__getitem__)

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
            result[number] = first.then(edit, same)  # type: ignore[arg-type]
        return [edit.to_dict() for edit in result]


def stack_at(model: nn.Module, path: str) -> nn.Module:
    """The list of layers at a path."""
    try:
        stack = model.get_submodule(path)
    except AttributeError:
        raise EditError(f'the model has no {path}') from None
    if not isinstance(stack, nn.ModuleList | nn.Sequential):
        raise EditError(f'{path} is a {type(stack).__name__}, not a list of layers')
    return stack


def _fields(data: Mapping[str, Any], *needed: str, optional: Sequence[str] = ()) -> None:
    wrong = [
        *(key for key in needed if key not in data),
        *(key for key in data if key not in ('type', *needed, *optional)),
    ]
    if wrong:
        raise EditError(f'{wrong[0]!r:.40} is missing or not known, the fields are {", ".join((*needed, *optional))}')


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise EditError(f'{value!r:.40} is not a name')
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise EditError(f'{value!r:.40} where a positive integer is needed')
    return value


def _list(data: Mapping[str, Any], key: str, kind: type) -> tuple[Any, ...]:
    value = data.get(key, [])
    if not isinstance(value, list | tuple) or any(type(item) is not kind for item in value):
        raise EditError(f'{key} is {value!r:.40}, a list of {kind.__name__} is needed')
    return tuple(value)


def _resampling(data: Any) -> Resampling:
    if not isinstance(data, Mapping):
        raise EditError(f'{data!r:.40} where dim and sizes are needed')
    _fields(data, 'dim', 'sizes')
    if type(data['dim']) is not int or data['dim'] < 0:
        raise EditError(f'dim is {data["dim"]!r:.40}')
    if not isinstance(data['sizes'], list | tuple) or len(data['sizes']) < 2:
        raise EditError('sizes needs the dense grid and the new one')
    sizes = []
    for size in data['sizes']:
        if not isinstance(size, list | tuple) or len(size) not in MODES:
            raise EditError(f'a grid has one to three sides, not {size!r:.40}')
        sizes.append(tuple(_count(side) for side in size))
    for one, other in zip(sizes, sizes[1:]):
        if len(one) != len(other) or any(new > old for old, new in zip(one, other)):
            raise EditError(f'a grid of {one} cannot become one of {other}: no side may grow')
    return Resampling(data['dim'], tuple(sizes))
