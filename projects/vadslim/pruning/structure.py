"""The structure file: what was kept of a network, enough to rebuild it without a trace."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .edits import EditError, Edits
from .group import Group, check_groups, first_names, read_attr, tensors_of

FORMAT = 1


class StructureError(ValueError):
    """A structure that is damaged, or that does not belong to the model or state it is used on."""


@dataclass(frozen=True)
class Structure:
    """What is left of a dense network.

    Args:
        architecture_sha256: ``architecture_hash`` of the dense network.
        tensors: name -> {dim: kept positions}, counted in the dense network; every name of a tied tensor.
        shapes: name -> shape in the dense network, for the same names.
        attrs: 'module.attr' -> new value.
        edits: Changes that are no Groups (depth, grids), see ``edits.py``; they follow the cuts.
        groups: name -> {kind, num_units, kept}; for people, nothing is rebuilt from it.
    """

    architecture_sha256: str
    tensors: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    attrs: dict[str, int] = field(default_factory=dict)
    edits: list[dict[str, Any]] = field(default_factory=list)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)

    def slim_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of ``tensors`` after slimming (whatever becomes of the layer it stands in)."""
        kept = self.tensors[name]
        cut = tuple(len(kept.get(dim, range(size))) for dim, size in enumerate(self.shapes[name]))
        resampling = read_edits(self.edits).resamplings.get(name)
        return resampling.shape(cut) if resampling else cut

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what the file and ``meta['structure']`` hold."""
        return {
            'format': FORMAT,
            'architecture_sha256': self.architecture_sha256,
            'tensors': {name: {str(dim): kept for dim, kept in dims.items()} for name, dims in self.tensors.items()},
            'shapes': {name: list(shape) for name, shape in self.shapes.items()},
            'attrs': dict(self.attrs),
            'edits': [dict(edit) for edit in self.edits],
            'groups': {name: dict(group) for name, group in self.groups.items()},
        }

    @classmethod
    def from_dict(cls, data: Any, where: str = 'structure') -> Structure:
        """Read and check plain data; anything unexpected raises one ``StructureError`` that says where."""
        try:
            return cls._parse(data)
        except StructureError as error:
            raise StructureError(f'{where}: {error}') from None

    @classmethod
    def _parse(cls, data: Any) -> Structure:
        _expect(isinstance(data, Mapping), 'is not an object with the key "format"')
        _expect(data.get('format') == FORMAT, f'format is {data.get("format")!r:.40}, this version reads {FORMAT}')
        sha = data.get('architecture_sha256')
        _expect(isinstance(sha, str) and len(sha) == 64, 'architecture_sha256 is not a SHA-256 in hex')
        parts = {key: data.get(key, {}) for key in ('tensors', 'shapes', 'attrs', 'groups')}
        for key, part in parts.items():
            _expect(isinstance(part, Mapping), f'{key} is not an object')
            _expect(all(isinstance(name, str) for name in part), f'{key}: a name is not a string')
        edits = data.get('edits', [])
        _expect(
            isinstance(edits, list) and all(isinstance(e, Mapping) for e in edits),
            'edits is not a list of objects',
        )
        read_edits(edits)
        _expect(set(parts['tensors']) == set(parts['shapes']), 'tensors and shapes name different tensors')
        shapes = {name: _shape(name, shape) for name, shape in parts['shapes'].items()}
        tensors = {name: _dims(name, dims, shapes[name]) for name, dims in parts['tensors'].items()}
        for name, value in parts['attrs'].items():
            _expect(_is_count(value), f'attrs: {name} is {value!r:.40}, a positive integer is needed')
        groups = {name: _group(name, group) for name, group in parts['groups'].items()}
        return cls(sha, tensors, shapes, dict(parts['attrs']), [dict(edit) for edit in edits], groups)

    def save(self, path: str | Path) -> None:
        """Write the JSON file; never half of it."""
        from ..checkpoint import atomic_write

        text = json.dumps(self.to_dict(), separators=(',', ':'), ensure_ascii=False)
        with atomic_write(Path(path)) as stream:
            stream.write(text)

    @classmethod
    def load(cls, path: str | Path) -> Structure:
        """Read a JSON file; a missing or damaged one raises ``StructureError``."""
        try:
            data = json.loads(Path(path).read_text(encoding='utf-8'))
        except OSError as error:
            raise StructureError(f'{path}: {error.strerror or error}') from None
        except (ValueError, RecursionError) as error:
            raise StructureError(f'{path}: not a JSON file ({str(error)[:80]})') from None
        return cls.from_dict(data, str(path))


def read_edits(data: Iterable[Mapping[str, Any]]) -> Edits:
    """The edits of a structure; a damaged or unknown one raises ``StructureError``."""
    try:
        return Edits(data)
    except EditError as error:
        raise StructureError(str(error)) from None


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise StructureError(message)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _kept(value: Any, size: int, where: str) -> list[int]:
    """A non-empty, rising list of positions below ``size``."""
    _expect(isinstance(value, list) and len(value) > 0, f'{where}: kept positions are not a non-empty list')
    _expect(all(type(position) is int for position in value), f'{where}: a kept position is not an integer')
    rising = all(one < other for one, other in zip(value, value[1:]))
    _expect(rising and value[0] >= 0, f'{where}: kept positions are not sorted, unique and positive')
    _expect(value[-1] < size, f'{where}: position {value[-1]} where only {size} exist')
    return list(value)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    _expect(
        isinstance(value, list | tuple) and all(_is_count(size) for size in value),
        f'shapes: {name} has no shape',
    )
    return tuple(value)


def _dims(name: str, value: Any, shape: tuple[int, ...]) -> dict[int, list[int]]:
    _expect(isinstance(value, Mapping) and len(value) > 0, f'tensors: {name} is not an object of dims')
    dims = {}
    for key, kept in value.items():
        _expect(str(key).isdecimal() and int(key) < len(shape), f'tensors: {name} has no dim {key!r:.40}')
        dims[int(key)] = _kept(kept, shape[int(key)], f'tensors: {name} dim {key}')
    return dims


def _group(name: str, value: Any) -> dict[str, Any]:
    _expect(isinstance(value, Mapping), f'groups: {name} is not an object')
    kind, num_units = value.get('kind'), value.get('num_units')
    _expect(isinstance(kind, str) and _is_count(num_units), f'groups: {name} needs a kind and num_units')
    return {
        'kind': kind,
        'num_units': num_units,
        'kept': _kept(value.get('kept'), num_units, f'groups: {name}'),
    }


def architecture_hash(
    model: nn.Module | Mapping[str, torch.Tensor] | Iterable[tuple[str, Sequence[int]]],
    config: Mapping[str, Any] | None = None,
) -> str:
    """SHA-256 of an architecture: the ordered names and shapes of its state, and a config dict if one is
    given.

    Args:
        model: A model, a state_dict, or (name, shape) pairs. Entries that are no tensors (extra state) do not
            count.
        config: Plain data; keys are sorted.
    """
    state: Any = model.state_dict() if isinstance(model, nn.Module) else model
    if isinstance(state, Mapping):
        state = [(name, value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)]
    plain: list[Any] = [[name, [int(size) for size in shape]] for name, shape in state]
    if config is not None:
        plain.append(json.loads(json.dumps(config, sort_keys=True, default=str)))
    return hashlib.sha256(json.dumps(plain, separators=(',', ':')).encode()).hexdigest()


def check_kept(groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Kept units per Group that loses some, checked; Groups that are not named stay whole."""
    by_name = {group.name: group for group in groups}
    result = {}
    for name, units in kept.items():
        group = by_name.get(name)
        if group is None:
            raise StructureError(f'kept names the Group {name}, which is not among the {len(groups)} Groups')
        units = sorted(int(unit) for unit in units)
        if len(set(units)) != len(units) or (units and (units[0] < 0 or units[-1] >= group.num_units)):
            raise StructureError(f'Group {name}: kept units must be distinct numbers from 0 to {group.num_units - 1}')
        if len(units) < group.min_units:
            raise StructureError(f'Group {name}: {len(units)} units kept, at least {group.min_units} have to stay')
        if len(units) == group.num_units:
            continue
        if group.protected:
            raise StructureError(f'Group {name} is protected ({group.protected}), all its units have to be kept')
        result[name] = units
    return result


def removed_positions(groups: Sequence[Group], kept: Mapping[str, Sequence[int]]) -> dict[str, dict[int, np.ndarray]]:
    """tensor -> {dim: positions that leave}, the union over all Groups."""
    leaving: dict[str, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        if group.name in kept:
            units = group.removed(kept[group.name])
            for part in group.slices:
                leaving[part.tensor][part.dim].append(part.positions(units))
    return {
        name: {dim: np.unique(np.concatenate(parts)) for dim, parts in dims.items()} for name, dims in leaving.items()
    }


def make_structure(
    model: nn.Module,
    groups: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    config: Mapping[str, Any] | None = None,
    edits: Sequence[Mapping[str, Any]] = (),
) -> Structure:
    """What ``model`` becomes when every Group keeps the given units, and layers leave or grids change.

    Args:
        model: The network that the Groups were found on.
        groups: Its Groups.
        kept: Group name -> kept units; a Group that is not named stays whole.
        config: Goes into the architecture hash, if given.
        edits: Of ``depth_edit`` and its kin.

    Raises:
        StructureError: A unit does not exist, too few stay, a protected Group loses some, or an edit does not fit.
    """
    check_groups(model, groups)
    parsed = read_edits(edits)
    try:
        parsed.check(model)
    except EditError as error:
        raise StructureError(str(error)) from None
    kept = check_kept(groups, kept)
    tensors, names = tensors_of(model), defaultdict(list)
    for name, first in first_names(model).items():
        names[first].append(name)
    structure = Structure(architecture_hash(model, config), edits=parsed.to_list())
    for tensor, dims in removed_positions(groups, kept).items():
        shape = tuple(tensors[tensor].shape)
        positions = {dim: np.delete(np.arange(shape[dim]), gone).tolist() for dim, gone in dims.items() if gone.size}
        for dim, stay in positions.items():
            if not stay:
                raise StructureError(f'{tensor} {shape}: nothing would be left of dim {dim}')
            if tensor in parsed.resamplings and parsed.resamplings[tensor].dim == dim:
                raise StructureError(f'{tensor} dim {dim} is cut by a Group and resampled by an edit')
        if positions:
            for name in names[tensor]:
                structure.tensors[name] = positions
                structure.shapes[name] = shape
    falls: dict[str, int] = defaultdict(int)
    for group in groups:
        if group.name in kept:
            structure.groups[group.name] = {
                'kind': group.kind,
                'num_units': group.num_units,
                'kept': kept[group.name],
            }
            for attr in group.attrs:
                falls[attr.path] += attr.per_unit * (group.num_units - len(kept[group.name]))
    for path, fall in falls.items():
        old = read_attr(model, path)
        assert isinstance(old, int)
        if old - fall < 1:
            raise StructureError(f'{path} would become {old - fall}')
        structure.attrs[path] = old - fall
    return structure
