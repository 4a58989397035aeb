"""What differs between two networks: structure files, slim checkpoints, dense checkpoints, in any pair.

Reading (``read_side``), comparing (``compare``) and printing (``print_comparison``) know nothing of each other. All
names and units count in the dense network, so that two slim networks are compared at what both have left of it, and
a slim one with the dense one it was cut from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadslim.analysis.config_diff import config_differences
from vadslim.checkpoint import CheckpointError
from vadslim.checkpoint_format import load_any
from vadslim.pruning import EditError, Structure, StructureError, architecture_hash
from vadslim.pruning.edits import Edits

#: State that is no parameter, by the last part of its name.
STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')

#: Numbers that are compared at a time: a tensor may be most of a file.
PIECE = 1 << 24

#: What a checkpoint says of itself.
FACTS = ('version', 'stage', 'epoch', 'metric', 'metric_name', 'time')


@dataclass(frozen=True)
class Side:
    """One of the two networks.

    Attributes:
        path: its file.
        structure: what it has left of the dense network; None if it is dense.
        state: dense name -> tensor; None of a structure file.
        facts: what the checkpoint says of itself: the values of ``FACTS``.
        config: what it was configured with, as plain data; None if it holds none.
    """

    path: str
    structure: Structure | None = None
    state: Mapping[str, Tensor] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    edits: Edits = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'edits', Edits(self.structure.edits if self.structure else []))

    @property
    def what(self) -> str:
        if self.state is None:
            return 'structure file'
        return 'slim checkpoint' if self.structure else 'dense checkpoint'

    @property
    def architecture(self) -> str:
        """The hash of the dense network."""
        if self.structure is not None:
            return self.structure.architecture_sha256
        return architecture_hash(self.state or {})

    def params(self) -> int | None:
        """Number of parameters: values that are neither integers nor a norm's statistics, tied ones once."""
        if self.state is None:
            return None
        counted = {_memory(value): value.numel() for name, value in self.state.items() if _is_parameter(name, value)}
        return sum(counted.values())

    def cut(self) -> int:
        """Number of values that left the tensors which the structure names."""
        if self.structure is None:
            return 0
        shapes = self.structure.shapes
        return sum(math.prod(shape) - math.prod(self.structure.slim_shape(name)) for name, shape in shapes.items())

    def names(self) -> Iterable[str]:
        """The tensors that are known to be there."""
        if self.state is not None:
            return self.state
        assert self.structure is not None
        return [name for name in self.structure.tensors if self.edits.slim_name(name) is not None]

    def dense_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape in the dense network, None where only the other file can tell."""
        if self.structure is not None and name in self.structure.shapes:
            return self.structure.shapes[name]
        return None if self.state is None or name not in self.state else tuple(self.state[name].shape)

    def shape(self, name: str, dense: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """The shape here, ``dense`` being that in the dense network; None if the tensor is not there."""
        if self.state is not None:
            return tuple(self.state[name].shape) if name in self.state else None
        assert self.structure is not None
        if self.edits.slim_name(name) is None:
            return None
        return self.structure.slim_shape(name) if name in self.structure.tensors else dense

    def positions(self, name: str) -> dict[int, list[int]]:
        """dim -> kept positions, of the dims that were cut."""
        return self.structure.tensors.get(name, {}) if self.structure else {}


@dataclass(frozen=True)
class GroupDifference:
    """The units of one Group: how many each side keeps, and which only one of them.

    ``overlap``: units that both keep over units that one of them keeps (Jaccard); None where the Groups are not of
    the same size, and numbers of units mean nothing.
    """

    name: str
    kind: str
    num_units: int
    kept: tuple[int, int]
    only_a: list[int]
    only_b: list[int]
    overlap: float | None


@dataclass(frozen=True)
class TensorDifference:
    """One tensor: its shapes (None: not there), and how far its values are apart.

    ``change``: ||b - a|| / max(||a||, ||b||) over the values that both have left, from 0 (equal) to 2 (opposite); None
    where values are not known, share nothing, or are not finite (``finite`` is false then). ``change_of_a``:
    ||b - a|| / ||a||, None also where a is zero and b is not.
    """

    name: str
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    change: float | None = None
    finite: bool = True
    change_of_a: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything that two networks differ in, as plain data.

    Attributes:
        sides: ``path``, ``what``, ``architecture``, ``params``, ``tensors``, ``cut`` and the facts of each.
        same_architecture: whether both count in the same dense network.
        groups: each Group that loses units in one of them.
        missing: tensors that one of them does not have.
        reshaped: tensors of different shape.
        changed: tensors with other values, the largest change first.
        counts: tensors of whole numbers or booleans with other values: counters, indices, masks.
        types: name -> types of the numbers, where they differ.
        compared: number of tensors whose values were compared.
        attrs: 'module.attr' -> both values, None for 'as in the dense network'.
        edits: those that only one has, and those of both.
        config: dotted key -> values of 'a' and 'b' that differ; None if one of them holds no config.
    """

    sides: tuple[dict[str, Any], dict[str, Any]]
    same_architecture: bool
    groups: list[GroupDifference]
    missing: list[TensorDifference]
    reshaped: list[TensorDifference]
    changed: list[TensorDifference]
    counts: list[str]
    types: dict[str, tuple[str, str]]
    compared: int
    attrs: dict[str, tuple[int | None, int | None]]
    edits: dict[str, list[dict[str, Any]]]
    config: dict[str, dict[str, Any]] | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing was found that differs between the networks."""
        units = any(group.only_a or group.only_b for group in self.groups)
        values = self.missing, self.reshaped, self.changed, self.counts, self.types
        rest = (*values, self.attrs, self.edits['a'], self.edits['b'])
        return self.same_architecture and not units and not any(rest)

    def to_json(self) -> str:
        return json.dumps({'format': 1, 'equal': self.equal, **asdict(self)}, indent=1, allow_nan=False)


def read_side(path: str | Path) -> Side:
    """Reads a structure file or a checkpoint, told apart by content.

    Raises:
        CheckpointError, StructureError: it is neither, or damaged; one line.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix == '.pth' or file.name == 'structure.json')
        hint = f'; name one of {", ".join(inside)}'[:120] if inside else ''
        raise CheckpointError(f'{path}: is a folder, a file is needed{hint}')
    if path.is_file() and _is_json(path):
        return Side(str(path), _load_structure(path))
    checkpoint = load_any(path)
    state = checkpoint['state_dict']
    meta = checkpoint.get('meta')
    data = meta.get('structure') if isinstance(meta, Mapping) else None
    structure = None if data is None else Structure.from_dict(data, str(path))
    edits = Edits(structure.edits if structure else [])
    named = {name.removeprefix('module.'): value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in named.items():
        _check_readable(name, value, path)
    try:
        dense = {edits.dense_name(name): value for name, value in named.items()}
    except EditError as error:
        raise StructureError(f'{path}: {error}') from None
    metadata = checkpoint['metadata']
    facts = {'version': checkpoint['version'], 'stage': _text(metadata['stage']), 'epoch': checkpoint['epoch']}
    facts |= {'metric': checkpoint['metric'], 'metric_name': _text(metadata['metric'])}
    facts['time'] = _text(checkpoint['timestamp'])
    return Side(str(path), structure, dense, facts, checkpoint['config'])


def _check_readable(name: str, value: Tensor, path: Path) -> None:
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        kind = 'has no values' if value.is_meta else 'is quantized' if value.is_quantized else 'is sparse'
        raise CheckpointError(f'{path}: tensor {name} {kind}; only plain ones are compared')


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _text(item: Any) -> str | None:
    return None if item is None else str(item)


def _load_structure(path: Path) -> Structure:
    try:
        return Structure.load(path)
    except StructureError as error:
        keys = json.loads(path.read_text(encoding='utf-8')) if 'architecture_sha256' in str(error) else {}
        if 'architecture_sha256' in keys or not keys:
            raise
        raise StructureError(f'{path}: JSON, but no structure file: it has no architecture_sha256') from None


def _is_json(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(64).lstrip()[:1] in (b'{', b'[')


def compare(a: Side, b: Side) -> Comparison:
    """Finds what differs; pure."""
    missing, reshaped, changed, compared = [], [], [], 0
    counts, types = [], {}
    for name in dict.fromkeys([*a.names(), *b.names()]):
        dense = a.dense_shape(name) or b.dense_shape(name)
        shapes = a.shape(name, dense), b.shape(name, dense)
        if None in shapes:
            missing.append(TensorDifference(name, shapes))
            continue
        pair = _shared_values(a, b, name)
        kinds = None if a.state is None or b.state is None else (a.state[name].dtype, b.state[name].dtype)
        if kinds is not None and kinds[0] != kinds[1]:
            types[name] = _kind(kinds[0]), _kind(kinds[1])
        if pair is not None and not (pair[0].is_floating_point() or pair[1].is_floating_point()):
            compared += 1
            counts += [] if torch.equal(pair[0].long(), pair[1].long()) else [name]
            pair = None
        change = None if pair is None else relative_change(*pair)
        finite = change is None or math.isfinite(change)
        of_a = relative_change(*pair, of_a=True) if pair is not None and finite else math.nan
        difference = TensorDifference(
            name, shapes, change if finite else None, finite, of_a if math.isfinite(of_a) else None
        )
        compared += change is not None
        if shapes[0] != shapes[1]:
            reshaped.append(difference)
        if change:  # NaN is true as well
            changed.append(difference)
    changed.sort(key=lambda row: (row.finite, -(row.change or 0)))
    return Comparison(
        sides=(_summary(a), _summary(b)),
        same_architecture=a.architecture == b.architecture,
        groups=compare_groups(a.structure, b.structure),
        missing=missing,
        reshaped=reshaped,
        changed=changed,
        counts=counts,
        types=types,
        compared=compared,
        attrs=_attrs(a.structure, b.structure),
        edits=_edits(a.structure, b.structure),
        config=None if a.config is None or b.config is None else config_differences(a.config, b.config),
    )


def compare_groups(a: Structure | None, b: Structure | None) -> list[GroupDifference]:
    """The Groups that lose units in one of two structures; None is the dense network, which keeps all."""
    of_a, of_b = (structure.groups if structure else {} for structure in (a, b))
    rows = []
    for name in dict.fromkeys([*of_a, *of_b]):
        one, other = of_a.get(name), of_b.get(name)
        known = one or other
        assert known is not None
        total = known['num_units']
        kept_a, kept_b = (set(range(total)) if side is None else set(side['kept']) for side in (one, other))
        alike = one is None or other is None or one['num_units'] == other['num_units']
        rows.append(
            GroupDifference(
                name,
                known['kind'],
                total,
                (len(kept_a), len(kept_b)),
                sorted(kept_a - kept_b) if alike else [],
                sorted(kept_b - kept_a) if alike else [],
                len(kept_a & kept_b) / len(kept_a | kept_b) if alike else None,
            )
        )
    return rows


def relative_change(a: Tensor, b: Tensor, of_a: bool = False) -> float:
    """||b - a|| / max(||a||, ||b||), or / ||a||, in float64; 0 for two zeros, NaN if something is not finite."""
    squares, same = torch.zeros(3, dtype=torch.float64), True
    for one, other in zip(a.reshape(-1).split(PIECE), b.reshape(-1).split(PIECE)):
        x, y = one.double(), other.double()
        same = same and bool(((x == y) | (x.isnan() & y.isnan())).all())
        squares += torch.stack([value.square().sum() for value in (y - x, x, y)])
    if same:
        return 0.0
    change, of_one, of_other = squares.sqrt().tolist()
    if not math.isfinite(change):
        return math.nan
    reference = of_one if of_a else max(of_one, of_other)
    return float(change / reference) if reference else math.nan


def _shared_values(a: Side, b: Side, name: str) -> tuple[Tensor, Tensor] | None:
    """The values of a tensor at the positions that both have left; None where there are none to compare."""
    if a.state is None or b.state is None:
        return None
    one, other = a.state[name], b.state[name]
    if one.is_complex() or other.is_complex():
        one, other = (torch.view_as_real(value.to(torch.complex128)) for value in (one, other))
    if a.edits.resamplings.get(name) != b.edits.resamplings.get(name):
        return None  # grids of different size: a position here is none there
    if not (a.positions(name) or b.positions(name)):
        return (one, other) if one.shape == other.shape else None
    if a.dense_shape(name) != b.dense_shape(name):
        return None
    for dim in a.positions(name).keys() | b.positions(name).keys():
        of_a, of_b = (side.positions(name).get(dim) for side in (a, b))
        of_a, of_b = of_a or list(range(one.shape[dim])), of_b or list(range(other.shape[dim]))
        both = sorted(set(of_a) & set(of_b))
        if not both:
            return None
        one, other = _take(one, dim, of_a, both), _take(other, dim, of_b, both)
    return (one, other) if one.shape == other.shape else None


def _take(tensor: Tensor, dim: int, positions: list[int], wanted: list[int]) -> Tensor:
    """The slices of a cut tensor that stand at the wanted positions of the dense one."""
    where = {position: index for index, position in enumerate(positions)}
    return tensor.index_select(dim, torch.tensor([where[position] for position in wanted]))


def _memory(value: Tensor) -> tuple[int, int, tuple[int, ...]]:
    return value.untyped_storage().data_ptr(), int(value.storage_offset()), tuple(value.shape)


def _is_parameter(name: str, value: Tensor) -> bool:
    return value.is_floating_point() and name.rpartition('.')[2] not in STATISTICS


def _summary(side: Side) -> dict[str, Any]:
    return {
        'path': side.path,
        'what': side.what,
        'architecture': side.architecture,
        'params': side.params(),
        'tensors': None if side.state is None else len(side.state),
        'cut': side.cut(),
        **{key: side.facts.get(key) for key in FACTS},
    }


def _attrs(a: Structure | None, b: Structure | None) -> dict[str, tuple[int | None, int | None]]:
    of_a, of_b = (structure.attrs if structure else {} for structure in (a, b))
    paths = dict.fromkeys([*of_a, *of_b])
    return {path: (of_a.get(path), of_b.get(path)) for path in paths if of_a.get(path) != of_b.get(path)}


def _edits(a: Structure | None, b: Structure | None) -> dict[str, list[dict[str, Any]]]:
    of_a, of_b = (structure.edits if structure else [] for structure in (a, b))
    return {
        'a': [edit for edit in of_a if edit not in of_b],
        'b': [edit for edit in of_b if edit not in of_a],
        'both': [edit for edit in of_a if edit in of_b],
    }
