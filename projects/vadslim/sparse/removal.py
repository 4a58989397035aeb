"""From mask to metal: the smaller network that computes exactly what a network with zeros in its weights computes.

A unit of a Group can go when nobody hears it: in each layer that reads it, the column of the weight is zero there, or
what comes in is zero whatever the network is given (``reach``). So go channels whose filter, bias, gamma and beta are
zero, those of which the last of several layers is dead (depthwise), heads and neurons whose columns in the next layer
are zero. A channel that has beta left is a constant and stays; so does one of a residual stream as long as any of its
branches makes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..pruning import Group, Slice, Structure, StructureError, find_groups, make_structure, resize, run_example
from ..pruning.group import first_names, tensors_of
from ..pruning.proof import RTOL, RTOL_FLOAT32, floating_outputs, max_error
from ..pruning.slim import copy_with
from .companions import companion_masks, find_companions
from .reach import READERS, live_inputs, not_zero

_MIXING = (nn.LayerNorm, nn.GroupNorm)  # their statistics are over units, dead ones too


@dataclass(frozen=True)
class Removal:
    """A network without the units that nobody hears.

    Attributes:
        model: The smaller network.
        structure: What it has left of the given one.
        groups: All Groups of the given one.
        kept: Group name -> units that stay, for the Groups that lose some.
        reasons: Group name -> why it stays whole whatever is zero, or keeps units that look dead.
        error: The largest difference of the outputs, relative to the largest of them; float64 where it runs in that.
    """

    model: nn.Module
    structure: Structure
    groups: list[Group]
    kept: dict[str, list[int]]
    reasons: dict[str, str]
    error: float

    @property
    def units(self) -> int:
        """How many units went."""
        return sum(group.num_units - len(self.kept[group.name]) for group in self.groups if group.name in self.kept)


def remove_dead(model: nn.Module, example: Any, groups: Sequence[Group] | None = None) -> Removal:
    """Remove each unit that nobody hears, and try whether the outputs are still the same.

    Args:
        model: With zeros in its weights; it is left as it is.
        example: A tensor, a tuple (positional arguments), a dict (keyword arguments) or a function run(model) that
            does one forward, as in ``find_groups``.
        groups: Of the model; found if not given. Protected ones stay whole, and those that are off by default.

    Returns:
        The smaller network. A Group without whose dead units the outputs differ (code that no layer shows read them)
        stays whole, and the reason says so.
    """
    groups = list(find_groups(model, example) if groups is None else groups)
    roles, named, kept = _Roles(model), {group.name: group for group in groups}, {}
    reasons = {name: why for name, group in named.items() if (why := roles.obstacle(group))}
    for name, dead in dead_units(model, groups, example).items():
        group = named[name]
        missing = max(0, group.min_units - group.num_units + len(dead))
        if missing:
            reasons[name] = f'at least {group.min_units} have to stay'
        if dead[missing:]:
            kept[name] = sorted(set(range(group.num_units)) - set(dead[missing:]))
    wrong = _wrong(model, groups, kept, example)
    kept = {name: units for name, units in kept.items() if name not in wrong}
    structure = make_structure(model, groups, kept)
    slim = resize(model, structure)
    return Removal(slim, structure, groups, kept, {**reasons, **wrong}, difference(model, slim, example)[0])


def difference(model: nn.Module, slim: nn.Module, example: Any) -> tuple[float, float]:
    """(largest difference of the outputs, relative to the largest of each; what rounding allows).

    Both are run as float64 copies in eval mode; as they are, and compared more loosely, if the model does not run so.
    The difference is inf if the shapes differ or the slim one does not run.
    """

    def outputs(network: nn.Module, double: bool) -> list[Tensor]:
        floating = {n: t.detach() for n, t in tensors_of(network).items() if t.is_floating_point()}
        twin = copy_with(network, {n: t.double() for n, t in floating.items()} if double else {})
        return floating_outputs(twin, lambda twin: run_example(twin, example), double)

    double, allowed = True, RTOL
    try:
        expected = outputs(model, double)
    except Exception:  # the model's own code may know float32 only, and raise anything
        double, allowed = False, RTOL_FLOAT32
        expected = outputs(model, double)
    try:
        return max_error(outputs(slim, double), expected), allowed
    except Exception:
        return float('inf'), allowed


def _wrong(
    model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]], example: Any
) -> dict[str, str]:
    """Groups without whose dead units the outputs differ, and by how much; looked for by halving."""

    def search(names: list[str]) -> dict[str, str]:
        part = {name: kept[name] for name in names}
        try:
            error, allowed = difference(model, resize(model, make_structure(model, groups, part)), example)
            why = '' if error <= allowed else f'without the units that look dead its outputs differ by {error:.3g}'
        except StructureError as refusal:  # a module that cannot be narrower
            why = str(refusal)
        if not why:
            return {}
        if len(names) == 1:
            return {names[0]: why}
        middle = len(names) // 2
        return {**search(names[:middle]), **search(names[middle:])} or dict.fromkeys(names, why)

    return search(list(kept)) if kept else {}


# --- what is dead -------------------------------------------------------------------------------------------


def dead_units(model: nn.Module, groups: Sequence[Group], example: Any) -> dict[str, list[int]]:
    """Units that nobody hears: Group name -> their numbers, for the Groups that may lose any and have some."""
    roles = _Roles(model)
    groups = [group for group in groups if not roles.obstacle(group)]
    names = {name for group in groups for part in group.slices for name in roles.readers(part)}
    live = live_inputs(model, example, names) if names else {}
    found = {group.name: np.flatnonzero(~roles.heard(group, live)).tolist() for group in groups}
    return {name: units for name, units in found.items() if units}


def held_by_companions(model: nn.Module, groups: Sequence[Group], example: Any) -> int:
    """How many more units would be dead if biases, gammas and betas of channels without weights were zero as well."""
    first = first_names(model)
    layers = [first[f'{name}.weight'.lstrip('.')] for name, part in model.named_modules() if isinstance(part, READERS)]
    tensors = {name: tensor.detach() for name, tensor in tensors_of(model).items()}
    masks = companion_masks({name: tensors[name] != 0 for name in layers}, find_companions(model, example))
    twin = copy_with(model, {name: tensors[name] * mask for name, mask in masks.items()})
    now, then = (dead_units(network, groups, example).values() for network in (model, twin))
    return sum(map(len, then)) - sum(map(len, now))


class _Roles:
    """What the tensors of a model do with the units of Groups: make them, read them, or who knows."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors, first = tensors_of(model), first_names(model)
        self.buffers = dict(model.named_buffers())
        self.layers: dict[tuple[str, int], list[str]] = defaultdict(list)  # a weight and its reading dim -> layers
        self.parts: dict[str, nn.Module] = dict(model.named_modules())
        self.hidden: set[tuple[str, int]] = set()  # readers that are no modules of their own
        self.makers: set[tuple[str, int]] = set()
        self.mixing: set[str] = set()
        for name, part in self.parts.items():
            own = {key: first[f'{name}.{key}' if name else key] for key, p in part._parameters.items() if p is not None}
            if isinstance(part, READERS) and 'weight' in own:
                reading = int(getattr(part, 'transposed', False) is False)
                self.layers[own['weight'], reading].append(name)
                self.makers.add((own['weight'], 1 - reading))
            elif isinstance(part, nn.Embedding):
                self.makers.add((own['weight'], 1))
            elif isinstance(part, nn.MultiheadAttention):
                packed = {own[key] for key in own if key.endswith('proj_weight')}
                self.hidden |= {(tensor, 1) for tensor in packed}
                self.makers |= {(tensor, 0) for tensor in packed}
            elif isinstance(part, _MIXING):
                self.mixing |= set(own.values())

    def obstacle(self, group: Group) -> str:
        """Why units of a Group stay whatever is zero; '' if they may go."""
        if group.protected or not group.on:
            return group.protected or f'off by default, being of the kind {group.kind}'
        if mixing := next((part.tensor for part in group.slices if part.tensor in self.mixing), ''):
            return f'{mixing.rpartition(".")[0]} takes its statistics over them'
        if not all(np.isfinite(part.mask_value) for part in group.slices):
            return 'zeros do not remove them from a softmax'
        return ''

    def readers(self, part: Slice) -> list[str]:
        """The layers that read units at a place."""
        return self.layers.get((part.tensor, part.dim), [])

    def heard(self, group: Group, live: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which units reach somebody; all if nobody is known to read them."""
        heard, made = np.zeros(group.num_units, bool), np.zeros(group.num_units, bool)
        unseen: list[tuple[Slice, np.ndarray]] = []
        seen = False
        for part in group.slices:
            place, tensor = (part.tensor, part.dim), self.tensors[part.tensor]
            if part.tensor in self.buffers or not part.index.flat.size:
                continue
            there = not_zero(tensor, part.dim)
            readers = self.readers(part)
            if readers or place in self.hidden:
                seen = True
                if readers and all(name in live for name in readers):
                    there = there & np.any([self._columns(name, live[name]) for name in readers], 0)
                    _mark(heard, part, there)
                else:
                    unseen.append((part, there))
            elif place in self.makers or tensor.numel() == tensor.shape[part.dim]:
                _mark(made, part, there)
            else:  # it may read as well as make
                _mark(heard, part, there)
        for part, there in unseen:  # what comes in is known only by all that makes it
            reached = np.zeros_like(heard)
            _mark(reached, part, there)
            heard |= reached & made
        return heard if seen else np.ones_like(heard)

    def _columns(self, name: str, live: np.ndarray) -> np.ndarray:
        """Live channels of a layer's input -> live positions of its weight's reading dim."""
        part = self.parts[name]
        if isinstance(part, nn.modules.conv._ConvNd) and not part.transposed:
            return np.asarray(live.reshape(part.groups, -1).any(0))
        return live


def _mark(units: np.ndarray, part: Slice, there: np.ndarray) -> None:
    """Set the units that have any of the positions that are ``there``."""
    units[part.index.units[there[part.index.flat]]] = True
