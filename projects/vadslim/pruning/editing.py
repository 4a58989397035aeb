"""Which layers of a model can leave and which grids can shrink, and the proof that a shorter network is right."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .depth import Depth, stack_at
from .edits import Edit, EditError, Edits
from .grid import Grid
from .group import Group, tensors_of
from .mask import mask
from .proof import RTOL, ProofError, floating_outputs, max_error
from .slim import resize
from .structure import make_structure


class Skipped(nn.Module):
    """Stands where a layer was removed: passes its first argument on, and has the layer's attributes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('layer'), name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


@dataclass(frozen=True)
class Stack:
    """Layers that map a shape to itself, so that each of them can leave.

    Args:
        layers: Dotted path of the ``nn.ModuleList`` or ``nn.Sequential``, seen from the module that declares it.
        beside: Paths of lists with one entry per layer, which go with their layer.
        attrs: Paths of the numbers that say how many layers there are.
        fixed: Layers that have to stay.
        skip: For the twin of the proof, see :func:`skip_layers`: called with the declaring module, in which layers
            were replaced already, and the kept layers, for what else a removed layer must not do.
    """

    layers: str
    beside: tuple[str, ...] = ()
    attrs: tuple[str, ...] = ()
    fixed: tuple[int, ...] = ()
    skip: Callable[[Any, Sequence[int]], None] | None = None


@dataclass(frozen=True)
class Resizable:
    """A grid that can be coarser.

    Args:
        name: What the grid is of.
        size: Its cells along each side.
        edit: New size -> the data of an edit, with names as seen from the module that declares it.
    """

    name: str
    size: tuple[int, ...]
    edit: Callable[[Sequence[int]], Mapping[str, Any]]


@dataclass(frozen=True)
class Choice:
    """An edit that can be made, and what it alone would save.

    Attributes:
        what: In words.
        edit: Its data, for ``make_structure``.
        params_saved: Parameters.
        macs_saved: Multiply-accumulates of the forward that was counted; None when none was.
    """

    what: str
    edit: dict[str, Any]
    params_saved: int
    macs_saved: int | None


Declaration = Callable[[Any], Sequence[Stack | Resizable]]
_DECLARATIONS: dict[type[nn.Module], Declaration] = {}


def declares_edits(module_class: type[nn.Module]) -> Callable[[Declaration], Declaration]:
    """Register a function module -> Stacks and Resizables for a class; the nearest class in the MRO wins."""

    def register(declaration: Declaration) -> Declaration:
        _DECLARATIONS[module_class] = declaration
        return declaration

    return register


@declares_edits(nn.TransformerEncoder)
@declares_edits(nn.TransformerDecoder)
def _torch_layers(module: nn.Module) -> list[Stack]:
    return [Stack('layers', attrs=('num_layers',))]


def _declared(model: nn.Module) -> Iterator[tuple[str, Stack | Resizable]]:
    """(path of the declaring module, what it declares)."""
    for name, module in model.named_modules():
        declaration = next((_DECLARATIONS[cls] for cls in type(module).__mro__ if cls in _DECLARATIONS), None)
        for found in declaration(module) if declaration else ():
            yield name, found


def _below(prefix: str, path: str) -> str:
    return f'{prefix}.{path}' if prefix else path


def find_stacks(model: nn.Module, run: Callable[[nn.Module], Any] | None = None) -> list[Stack]:
    """Stacks, with paths seen from the model; what an outer module declares of the same layers wins.

    Args:
        model: The network.
        run: Does one forward. With it, blocks of an ``nn.Sequential`` that were seen to keep the shape of their
            input (residual blocks) count as layers too.
    """
    stacks: dict[str, Stack] = {}
    for prefix, found in _declared(model):
        if isinstance(found, Stack):
            layers = _below(prefix, found.layers)
            beside, attrs = (tuple(_below(prefix, path) for path in paths) for paths in (found.beside, found.attrs))
            stacks.setdefault(layers, replace(found, layers=layers, beside=beside, attrs=attrs))
    for stack in _chains(model, run) if run else ():
        stacks.setdefault(stack.layers, stack)
    return list(stacks.values())


def _chains(model: nn.Module, run: Callable[[nn.Module], Any]) -> Iterator[Stack]:
    """Sequences of blocks, each of which may leave if its (only) output has the shape of its (only) input."""
    twin = copy.deepcopy(model)
    alike: dict[str, bool] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            tensors = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            alike[name] = alike.get(name, True) and tensors and args[0].shape == output.shape

        return hook

    chains = [(n, m) for n, m in twin.named_modules() if isinstance(m, nn.Sequential)]
    for name, chain in chains:
        for child, block in chain.named_children():
            block.register_forward_hook(watch(f'{name}.{child}'))
    with torch.no_grad():
        run(twin)
    for name, chain in chains:
        blocks = list(chain.named_children())
        numbered = [child for child, _ in blocks] == [str(number) for number in range(len(blocks))]
        if name and numbered and all(any(block.children()) for _, block in blocks):
            fixed = tuple(n for n in range(len(blocks)) if not alike.get(f'{name}.{n}'))
            if len(fixed) < len(blocks):
                yield Stack(name, fixed=fixed)


def depth_edit(
    model: nn.Module, stack: str, kept: Sequence[int], run: Callable[[nn.Module], Any] | None = None
) -> dict[str, Any]:
    """The edit that keeps some layers of a stack.

    Args:
        model: The dense network.
        stack: Path of the layers or the end of it, ``decoder`` for ``head.decoder.layers``; or the path of any
            ``nn.ModuleList`` or ``nn.Sequential`` whose members map a shape to itself, which is not checked.
        kept: The layers that stay, counted from 0.
        run: As of :func:`find_stacks`.

    Raises:
        EditError: There is no such stack, or these layers cannot leave.
    """
    stacks = find_stacks(model, run)
    try:
        found = _named(stack, {s.layers: s for s in stacks})
        if found is None:
            stack_at(model, stack)
            found = Stack(stack)
    except EditError as error:
        counts = {s.layers: len(stack_at(model, s.layers)._modules) for s in stacks}
        able = ', '.join(f'{path} ({count})' for path, count in counts.items() if count > 1)
        raise EditError(f'{error}; layers can leave {able or "nothing"}') from None
    count = len(stack_at(model, found.layers)._modules)
    edit = Depth(found.layers, count, tuple(sorted(kept)), found.beside, found.attrs)
    if lost := sorted(set(found.fixed) - set(edit.kept)):
        raise EditError(f'{found.layers}: layer {lost[0]} has to stay, it changes the shape')
    edit.check(model)
    _check_shared(model, edit)
    return edit.to_dict()


def grid_edit(model: nn.Module, name: str, size: Sequence[int]) -> dict[str, Any]:
    """The edit that resamples a grid which a module of the model declares.

    Args:
        model: The dense network.
        name: Of the grid, as declared.
        size: New cells along each side; none may be more than before.

    Raises:
        EditError: There is no such grid, or it cannot have this size.
    """
    grids = _grids(model)
    if name not in grids:
        raise EditError(f'the model has no grid {name}, it has {", ".join(grids) or "none"}')
    edit = _grid(*grids[name], size)
    edit.check(model)
    return edit.to_dict()


def find_grids(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names of the grids that can be coarser -> their cells along each side."""
    return {name: found.size for name, (_, found) in _grids(model).items()}


def _grids(model: nn.Module) -> dict[str, tuple[str, Resizable]]:
    return {found.name: (prefix, found) for prefix, found in _declared(model) if isinstance(found, Resizable)}


def _grid(prefix: str, found: Resizable, size: Sequence[int]) -> Grid:
    if len(size) != len(found.size):
        raise EditError(f'the grid {found.name} is {found.size}, {tuple(size)} has another number of sides')
    edit = Grid.parse(found.edit(size))
    return edit.renamed(lambda path: _below(prefix, path))


def _named(name: str, stacks: Mapping[str, Stack]) -> Stack | None:
    """The stack of this path, or the only one whose path ends so (with or without ``layers``)."""
    if name in stacks:
        return stacks[name]
    ends = (f'.{name}', f'.{name}.layers')
    hits = [path for path in stacks if f'.{path}'.endswith(ends)]
    if len(hits) > 1:
        raise EditError(f'{name} may be {" or ".join(hits)}')
    return stacks[hits[0]] if hits else None


def _check_shared(model: nn.Module, edit: Edit) -> None:
    """Refuse to remove a layer that shares a parameter or buffer with what stays."""
    edits = Edits([edit.to_dict()])
    names: dict[int, list[str]] = {}
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in every:
        names.setdefault(id(tensor), []).append(name)
    for shared in names.values():
        leaving = [name for name in shared if edits.slim_name(name) is None]
        if leaving and len(leaving) < len(shared):
            stays = next(name for name in shared if name not in leaving)
            raise EditError(f'{leaving[0]} is also {stays}: its layer cannot leave alone')


def find_edits(
    model: nn.Module,
    count: Callable[[nn.Module], Mapping[str, int]] | None = None,
    run: Callable[[nn.Module], Any] | None = None,
    fractions: Sequence[float] = (0.75, 0.5),
) -> list[Choice]:
    """What can be edited: every layer that can leave, and some coarser sizes of every grid.

    Args:
        model: The dense network.
        count: Model -> MACs of each module by its name ('' is the model), as ``vadslim.analysis.count`` tells.
            Called once for all layers and once per size of a grid.
        run: As of :func:`find_stacks`.
        fractions: Sizes of grids, as parts of the sides.
    """
    macs = count(model) if count else None
    choices = []
    for stack in find_stacks(model, run):
        number = len(stack_at(model, stack.layers)._modules)
        for layer in sorted(set(range(number)) - set(stack.fixed)) if number > 1 else ():
            others = tuple(n for n in range(number) if n != layer)
            edit = Depth(stack.layers, number, others, stack.beside, stack.attrs)
            gone = [f'{path}.{layer}' for path in (stack.layers, *stack.beside)]
            if _possible(model, edit):
                saved = sum(p.numel() for path in gone for p in model.get_submodule(path).parameters())
                mine = None if macs is None else sum(macs.get(path, 0) for path in gone)
                choices.append(Choice(f'{stack.layers} without layer {layer}', edit.to_dict(), saved, mine))
    for prefix, found in _declared(model):
        for fraction in fractions if isinstance(found, Resizable) else ():
            assert isinstance(found, Resizable)
            size = tuple(max(1, round(side * fraction)) for side in found.size)
            grid = _grid(prefix, found, size)
            if size != found.size and _possible(model, grid):
                data, mine = grid.to_dict(), None
                if count is not None and macs is not None:
                    mine = macs[''] - count(resize(model, make_structure(model, [], {}, edits=[data])))['']
                what = f'grid {found.name} {found.size} -> {size}'
                choices.append(Choice(what, data, _params_saved(model, grid), mine))
    return choices


def _possible(model: nn.Module, edit: Depth | Grid) -> bool:
    try:
        edit.check(model)
        _check_shared(model, edit)
    except EditError:
        return False
    return True


def _params_saved(model: nn.Module, edit: Grid) -> int:
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameters[name].shape) for name in edit.tensors if name in parameters}
    return sum(math.prod(shape) - math.prod(edit.tensors[name].shape(shape)) for name, shape in shapes.items())


def skip_layers(model: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
    """The twin of a network with fewer layers: a copy at the dense depth in which the removed layers do nothing.

    They are replaced by the identity, and what stands beside them by what stands beside the kept layer before; so
    all that is read from a removed layer is what that one says.
    """
    depth = Depth.parse(edit)
    twin = copy.deepcopy(model)
    for layer in set(range(depth.num_layers)) - set(depth.kept):
        layers = twin.get_submodule(depth.layers)
        layers._modules[str(layer)] = Skipped(layers.get_submodule(str(layer)))
        before = max((kept for kept in depth.kept if kept < layer), default=layer)
        for path in depth.beside:
            stack = twin.get_submodule(path)
            stack._modules[str(layer)] = copy.deepcopy(stack._modules[str(before)])
    for prefix, found in _declared(model):
        if isinstance(found, Stack) and _below(prefix, found.layers) == depth.layers and found.skip:
            found.skip(twin.get_submodule(prefix), depth.kept)
    return twin


def check_edit(
    model: nn.Module,
    edit: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    run: Callable[[nn.Module], Any],
    groups: Sequence[Group] = (),
    kept: Mapping[str, Sequence[int]] | None = None,
    rtol: float = RTOL,
    double: bool = True,
) -> float:
    """Compare a network without some layers with its twin of the dense depth, as ``check_group`` does.

    Args:
        model: The dense network.
        edit: Of type depth; or several, of different stacks.
        run: Does one forward, as for ``check_group``. Of outputs that have an entry per layer those of the layers that
            stay are compared; all others have the same shapes for both depths.
        groups: Its Groups, if units leave too.
        kept: Group name -> kept units.
        rtol, double: Allowed difference, relative to the largest magnitude of each output; and whether in float64.

    Returns:
        The largest relative difference.

    Raises:
        ProofError: It is above ``rtol``, the outputs differ in shape, or the slim copy does not run.
    """
    edits = [edit] if isinstance(edit, Mapping) else list(edit)
    depths, kept = [Depth.parse(each) for each in edits], kept or {}
    name = ', '.join(depth.layers for depth in depths)
    dense = copy.deepcopy(model).eval()
    if double:
        dense.double()
    twin = mask(dense, groups, kept)
    for each in edits:
        twin = skip_layers(twin, each)
    slim = resize(dense, make_structure(dense, groups, kept, edits=edits))
    if len(tensors_of(slim)) >= len(tensors_of(dense)):
        raise ProofError(f'{name}: no tensor has left')
    expected = floating_outputs(twin, run, double)
    try:
        result = floating_outputs(slim, run, double)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ProofError(f'{name}: the slim copy does not run: {error}') from error
    worst = 0.0 if len(result) == len(expected) else math.inf
    for new, old in zip(result, expected):
        worst = max(worst, min(max_error([new], [same]) for same in _same_layers(old, new, depths)))
    if not worst <= rtol:
        raise ProofError(f'{name}: slim and skipped differ by {worst:.3g}, {rtol:g} is allowed')
    return worst


def _same_layers(old: Tensor, new: Tensor, depths: Sequence[Depth]) -> list[Tensor]:
    """What an output of the twin may be compared by: itself, or its entries of the layers that some stack keeps."""
    differ = [dim for dim in range(old.dim()) if old.dim() == new.dim() and old.shape[dim] != new.shape[dim]]
    if len(differ) != 1:
        return [old]
    counts = old.shape[differ[0]], new.shape[differ[0]]
    alike = [depth.kept for depth in depths if (depth.num_layers, len(depth.kept)) == counts]
    return [old.index_select(differ[0], torch.tensor(kept, device=old.device)) for kept in alike] or [old]
