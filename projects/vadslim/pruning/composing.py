"""Two structures made one after the other become one."""

from __future__ import annotations

from collections.abc import Callable

from .edits import EditError, Edits
from .structure import Structure, StructureError, read_edits

Dims = dict[int, list[int]]


def compose(old: Structure, new: Structure) -> Structure:
    """One structure for two steps; positions, units, layers and names count in the dense network again.

    ``new`` was made on the network that ``old`` leaves (another architecture), and its positions and names are
    translated; or it was made on the same dense network, and what it keeps has to be among what ``old``
    keeps.

    Raises:
        StructureError: They do not fit together.
    """
    same = old.architecture_sha256 == new.architecture_sha256
    before = read_edits(old.edits)
    try:
        edits = before.then(read_edits(new.edits), same)
        name_of = str if same else before.dense_name
        tensors, shapes = _tensors(old, new, before, same, name_of)
        attrs = {**old.attrs, **{name_of(path): value for path, value in new.attrs.items()}}
        groups = _groups(old, new, same, name_of)
    except EditError as error:
        raise StructureError(str(error)) from None
    for name, resampling in read_edits(edits).resamplings.items():
        if resampling.dim in tensors.get(name, {}):
            raise StructureError(f'{name} dim {resampling.dim} is cut by one structure and resampled by the other')
    return Structure(old.architecture_sha256, tensors, shapes, attrs, edits, groups)


def _tensors(
    old: Structure, new: Structure, before: Edits, same: bool, name_of: Callable[[str], str]
) -> tuple[dict[str, Dims], dict[str, tuple[int, ...]]]:
    """Kept positions and dense shapes of both."""
    tensors, shapes = {name: dict(dims) for name, dims in old.tensors.items()}, dict(old.shapes)
    for later, dims in new.tensors.items():
        name, shape = name_of(later), new.shapes[later]
        here = shape
        if name in old.shapes:
            here = old.shapes[name] if same else old.slim_shape(name)
        if here != shape:
            raise StructureError(f'{later} is {here} after the first structure, the second expects {shape}')
        resampling = None if same else before.resamplings.get(name)
        shapes.setdefault(name, resampling.shape(shape, dense=True) if resampling else shape)
        kept = tensors.setdefault(name, {})
        for dim, positions in dims.items():
            kept[dim] = _narrow(kept.get(dim), positions, same, f'{name} dim {dim}')
    return tensors, shapes


def _groups(old: Structure, new: Structure, same: bool, name_of: Callable[[str], str]) -> dict[str, dict]:
    groups = {name: dict(group) for name, group in old.groups.items()}
    for later, group in new.groups.items():
        name = name_of(later)
        first = groups.get(name)
        if first is None:
            groups[name] = dict(group)
            continue
        count = first['num_units'] if same else len(first['kept'])
        if group['num_units'] != count:
            raise StructureError(f'Group {name} has {group["num_units"]} units in the second structure, not {count}')
        first['kept'] = _narrow(first['kept'], group['kept'], same, f'Group {name}')
    return groups


def _narrow(old: list[int] | None, new: list[int], same: bool, where: str) -> list[int]:
    """Kept positions of the second step, counted in the dense network."""
    if old is None:
        return list(new)
    if not same:
        return [old[position] for position in new]
    if not set(new) <= set(old):
        raise StructureError(f'{where}: the second structure keeps what the first has removed')
    return list(new)
