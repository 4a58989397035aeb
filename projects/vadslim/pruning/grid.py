"""The edit by which tensors over a grid (queries or position encodings of cells) get a coarser grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .depth import Depth
from .edits import Edit, EditError, Edits, Number, Rename, check_fields, count_in, edit_type
from .group import first_names, tensors_of

MODES = {1: 'linear', 2: 'bilinear', 3: 'trilinear'}


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

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape runs over the dense grid."""
        return self.dim < len(shape) and self.shape(shape, dense=True) == tuple(shape)


@edit_type
@dataclass(frozen=True)
class Grid(Edit):
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
        check_fields(data, ('tensors',), ('attrs',))
        tensors, attrs = data['tensors'], data.get('attrs', {})
        if not isinstance(tensors, Mapping) or not tensors or not isinstance(attrs, Mapping):
            raise EditError('tensors and attrs have to be objects, tensors not empty')
        for path in (*tensors, *attrs):
            if not isinstance(path, str):
                raise EditError(f'{path!r:.40} is not a name')
        for path, value in attrs.items():
            if type(value) not in (int, float) or not math.isfinite(value):
                raise EditError(f'attrs: {path:.60} is {value!r:.40}, a number is needed')
        return cls({name: _resampling(part) for name, part in tensors.items()}, dict(attrs))

    def to_dict(self) -> dict[str, Any]:
        tensors = {name: {'dim': r.dim, 'sizes': [list(size) for size in r.sizes]} for name, r in self.tensors.items()}
        return {'type': self.type, 'tensors': tensors, 'attrs': dict(self.attrs)}

    @property
    def about(self) -> Set[str]:
        return self.tensors.keys()

    @property
    def numbers(self) -> dict[str, Number]:
        return self.attrs

    @property
    def resamplings(self) -> Mapping[str, Resampling]:
        return self.tensors

    def renamed(self, rename: Rename) -> Grid:
        tensors = {rename(name): resampling for name, resampling in self.tensors.items()}
        return Grid(tensors, {rename(path): value for path, value in self.attrs.items()})

    def then(self, later: Grid, same: bool) -> Grid:
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
            shape = tuple(tensors[first[name]].shape) if name in first else ()
            if not resampling.fits(shape):
                where = f'dim {resampling.dim} of {name}'
                raise EditError(f'{where} ({shape or "missing"}) is no grid of {resampling.sizes[0]} cells')
            if self.tensors.get(first[name]) != resampling:
                raise EditError(f'{name} is tied to {first[name]}, which has to be resampled alike')

    def check_state(self, state: Mapping[str, Any]) -> None:
        for name, resampling in self.tensors.items():
            if name not in state:
                raise EditError(f'the state has no {name}, which the edit resamples')
            shape = tuple(state[name].shape)
            if not resampling.fits(shape):
                raise EditError(f'{name} is {shape}, the edit was made for a grid {resampling.sizes[0]}')


def output_changes(before: Any, after: Any, edits: Iterable[Mapping[str, Any]] = ()) -> dict[str, float]:
    """How far a network's outputs are from what it said before it was edited; a grid has no twin that says the same.

    Args:
        before: Outputs, tensors in any nesting of dicts and lists.
        after: The same of the edited network. An output over a grid that an edit made coarser is compared on the
            coarser one, of an output with an entry per layer the last one; outputs of any other shape than before are
            left out.
        edits: What ``Structure.edits`` holds.

    Returns:
        Dotted name -> norm of the difference as a part of the norm before.
    """
    found = Edits(edits)
    sizes = {r.sizes for r in found.resamplings.values() if isinstance(r, Resampling)}
    depths = {(depth.num_layers, len(depth.kept)) for depth in found.each if isinstance(depth, Depth)}
    changes, later = {}, dict(_named(after))
    for name, old in _named(before):
        new = later.get(name)
        if new is None or new.dim() != old.dim():
            continue
        if old.shape[:1] != new.shape[:1] and (*old.shape[:1], *new.shape[:1]) in depths:
            old, new = old[-1], new[-1]
        for dim, size in ((dim, size) for dim in range(old.dim()) for size in sizes):
            resampling = Resampling(dim, size)
            if old.shape != new.shape and resampling.fits(old.shape) and resampling.shape(old.shape) == new.shape:
                old = resampling(old)
        if old.shape == new.shape and old.is_floating_point():
            norm = old.norm().clamp_min(torch.finfo(old.dtype).tiny)
            changes[name] = float((new - old).norm() / norm)
    return changes


def _named(value: Any, name: str = '') -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _named(item, f'{name}.{key}' if name else str(key))


def _resampling(data: Any) -> Resampling:
    if not isinstance(data, Mapping):
        raise EditError(f'{data!r:.40} where dim and sizes are needed')
    check_fields(data, ('dim', 'sizes'))
    if type(data['dim']) is not int or data['dim'] < 0:
        raise EditError(f'dim is {data["dim"]!r:.40}')
    if not isinstance(data['sizes'], list | tuple) or len(data['sizes']) < 2:
        raise EditError('sizes needs the dense grid and the new one')
    sizes = []
    for size in data['sizes']:
        if not isinstance(size, list | tuple) or len(size) not in MODES:
            raise EditError(f'a grid has one to three sides, not {size!r:.40}')
        sizes.append(tuple(count_in(side) for side in size))
    for one, other in zip(sizes, sizes[1:]):
        if len(one) != len(other) or any(new > old for old, new in zip(one, other)):
            raise EditError(f'a grid of {one} cannot become one of {other}: no side may grow')
    return Resampling(data['dim'], tuple(sizes))
