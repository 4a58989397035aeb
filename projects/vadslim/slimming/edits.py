"""What goes besides units: layers (``--keep-layers``) and cells of a grid (``--bev-size``).

Layers and cells leave first; units are found, scored and removed in what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from vadslim.analysis import Complexity, EditRow, Example
from vadslim.analysis.numbers import human
from vadslim.cli import UserError
from vadslim.pruning import (
    EditError,
    ProofError,
    Structure,
    check_edit,
    compose,
    depth_edit,
    find_grids,
    find_stacks,
    grid_edit,
    make_structure,
    output_changes,
    resize,
)
from vadslim.pruning.depth import Depth
from vadslim.pruning.edits import Edit, Edits
from vadslim.pruning.grid import Grid
from vadslim.pruning.passes import random_state_kept
from vadslim.pruning.proof import RTOL, RTOL_FLOAT32
from vadslim.slimming.network import Network
from vadslim.slimming.options import Options

Run = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Edited:
    """A network without some layers, on a coarser grid; the network itself where nothing of that was asked for.

    Attributes:
        before: as it was loaded.
        network: what units leave from; its structure has the edits.
        step: what ``network.model`` has left of ``before.model``; None: all.
        changes: output of the small example -> norm of its change as a part of its norm before.
        notes: lines for the report.
    """

    before: Network
    network: Network
    step: Structure | None = None
    changes: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> list[nn.Module]:
        """What units leave from; after it the network before, if that is another."""
        return [self.network.model] if self.step is None else [self.network.model, self.before.model]

    @property
    def each(self) -> list[Edit]:
        """The edits."""
        return Edits(self.step.edits).each if self.step else []

    @property
    def names(self) -> list[str]:
        """The edits in words."""
        return [_in_words(edit) for edit in self.each]

    def then(self, step: Structure) -> Structure:
        """What is left of ``before.model`` after a further step."""
        return compose(self.step, step) if self.step else step

    def rows(self, before: Complexity | None, after: Complexity | None) -> list[EditRow]:
        """What each edit saves; all together they save what the edited network has less.

        Args:
            before, after: operations before and after the edits, if they were counted. Layers save what they cost, in
                turn; the last edit, for which a grid comes, what then is missing.
        """
        rows: list[EditRow] = []
        for number, edit in enumerate(self.each, 1):
            macs = None
            if before and after:
                rest = before.macs - after.macs - sum(row.macs_saved or 0 for row in rows)
                macs = rest if number == len(self.each) else _macs_of_layers(edit, before)
            rows.append(EditRow(_in_words(edit), _params_saved(edit, self.before.model), macs))
        return rows

    def lines(self, rows: list[EditRow]) -> list[str]:
        """The rows and what changed, for people."""
        lines = []
        for row in rows:
            macs = '' if row.macs_saved is None else f', -{human(row.macs_saved)} MACs'
            lines.append(f'{row.what}, -{human(row.params_saved)} parameters{macs}')
        if self.changes:
            shown = ', '.join(f'{name or "output"} {change:.2g}' for name, change in self.changes.items())
            lines.append(f'these edits alone change the outputs of a small example by (relative norm): {shown}')
        return [*self.notes, *lines]


def apply_edits(options: Options, network: Network, small: Example | None) -> Edited:
    """Takes out the layers and cells that are to go.

    Args:
        options: the command's arguments.
        network: is left as it is.
        small: a forward, by which residual blocks are found and the shorter network is checked.

    Raises:
        UserError: there are no such layers or grids, or they cannot leave.
    """
    model, notes, edits = network.model, [], []
    run = small.run if small else None
    for text in options.keep_layers:
        edits.append(_depth(model, text, run))
    if options.bev_size:
        edits.append(_grid(model, options.bev_size))
    for edit in [*edits]:
        if _saves_nothing(edit):
            notes.append(f'{_in_words(edit)}: it is so already')
            edits.remove(edit)
    if not edits:
        return Edited(network, network, notes=tuple(notes))
    data = [edit.to_dict() for edit in edits]
    try:
        step = make_structure(model, [], {}, edits=data)
    except ValueError as error:
        raise UserError(f'--keep-layers {" ".join(options.keep_layers)}: {error}') from None
    edited = resize(model, step)
    changes: dict[str, float] = {}
    if run is None:
        notes.append('layers and grid: neither checked nor measured, there is no example to run')
    else:
        _check_depth(model, [edit for edit in edits if isinstance(edit, Depth)], run)
        changes = output_changes(_said(model, run), _said(edited, run), step.edits)
    structure = compose(network.structure, step) if network.structure else step
    return Edited(network, replace(network, model=edited, structure=structure), step, changes, tuple(notes))


def _depth(model: nn.Module, text: str, run: Run | None) -> Depth:
    """The edit of ``NAME=0,2``; stacks that modules declare come before those that a forward shows."""
    name, _, numbers = text.partition('=')
    kept = [int(number) for number in numbers.split(',')]
    declared = {stack.layers for stack in find_stacks(model)}
    try:
        try:
            data = depth_edit(model, name, kept)
        except EditError:
            data = {}
        if data.get('layers') not in declared:
            data = depth_edit(model, name, kept, run)
    except EditError as error:
        raise UserError(f'--keep-layers {text}: {error}') from None
    return Depth.parse(data)


def _grid(model: nn.Module, text: str) -> Grid:
    """The edit of ``NAME=50x50``, or of ``50x50`` where there is one grid."""
    name, _, numbers = text.rpartition('=')
    size = [int(side) for side in numbers.split('x')]
    grids = find_grids(model)
    if not grids:
        raise UserError(f'--bev-size {text}: {type(model).__name__} has no grid that could be coarser')
    if not name and len(grids) > 1:
        raise UserError(f'--bev-size {text}: there are the grids {", ".join(grids)}; write {next(iter(grids))}={text}')
    try:
        return Grid.parse(grid_edit(model, name or next(iter(grids)), size))
    except EditError as error:
        raise UserError(f'--bev-size {text}: {error}') from None


def _check_depth(model: nn.Module, edits: list[Depth], run: Run) -> None:
    """Refuses layers without which the network is not what it is with the identity in their place."""
    data, why = [edit.to_dict() for edit in edits], ''
    for double, rtol in ((True, RTOL), (False, RTOL_FLOAT32)) if edits else ():
        try:
            check_edit(model, data, run, rtol=rtol, double=double)
            return
        except ProofError as error:
            raise UserError(f'--keep-layers: {error}; these layers cannot leave') from None
        except Exception as error:  # with the identity in their place; the network's code may know float32 only
            why = ' '.join(f'{error}'.split())[:200] or type(error).__name__
    if why:
        names = ', '.join(edit.layers for edit in edits)
        raise UserError(f'--keep-layers: {names}: it does not run without them ({why}); these layers cannot leave')


def _said(model: nn.Module, run: Run) -> Any:
    with torch.no_grad(), random_state_kept(0):
        return run(model)


def _saves_nothing(edit: Edit) -> bool:
    if isinstance(edit, Depth):
        return len(edit.kept) == edit.num_layers
    return all(r.sizes[0] == r.sizes[-1] for r in edit.resamplings.values())  # type: ignore[attr-defined]


def _in_words(edit: Edit) -> str:
    if isinstance(edit, Depth):
        kept = ', '.join(map(str, edit.kept))
        return f'{edit.layers}: {len(edit.kept)} of {edit.num_layers} layers stay ({kept})'
    assert isinstance(edit, Grid)
    name, largest = max(edit.tensors.items(), key=lambda item: len(item[1].sizes[0]))
    before, after = ('x'.join(map(str, largest.sizes[end])) for end in (0, -1))
    more = f' and {len(edit.tensors) - 1} more' if len(edit.tensors) > 1 else ''
    return f'grid {before} -> {after}: {name}{more} resampled'


def _params_saved(edit: Edit, model: nn.Module) -> int:
    edits, saved = Edits([edit.to_dict()]), 0
    for name, parameter in model.named_parameters():
        if edits.slim_name(name) is None:
            saved += parameter.numel()
        elif name in edits.resamplings:
            saved += parameter.numel() - math.prod(edits.resamplings[name].shape(parameter.shape))
    return saved


def _macs_of_layers(edit: Edit, counted: Complexity) -> int:
    """What the modules cost that leave."""
    edits = Edits([edit.to_dict()])
    return sum(
        macs
        for name, (_, macs) in counted.modules.items()
        if name and edits.slim_name(name) is None and edits.slim_name(name.rpartition('.')[0]) is not None
    )


def dense_names(counted: Complexity | None, step: Structure) -> Complexity | None:
    """The operations of a slim network under the names that its modules had before."""
    if counted is None or not step.edits:
        return counted
    rename = Edits(step.edits).dense_name
    return replace(counted, modules={rename(name): values for name, values in counted.modules.items()})
