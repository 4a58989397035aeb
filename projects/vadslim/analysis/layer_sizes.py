"""Each layer before and after slimming: widths, parameters, MACs; and the same for the parts of the network.

A layer is a module that owns parameters. Parts are the families of modules that a picture has room for.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from typing import Any

import torch
from torch import nn

from vadslim.analysis.complexity import Complexity, count_params
from vadslim.analysis.latency import now
from vadslim.analysis.layers import is_layer, widths_of

#: What both networks have: name before -> name after, None if it is gone (``Edits.slim_name``).
Rename = Callable[[str], str | None]


@dataclass(frozen=True)
class LayerSize:
    """One layer before and after. What is gone has 0 everywhere; MACs are None where they were not counted. Parameters
    that several layers share count in the first.

    ``width_in``, ``width_out``: channels or features read and made; of an attention its embedding, and the values of
    all heads side by side; of an embedding its rows and their width. ``width_in`` is None for a bare parameter.
    """

    name: str
    kind: str
    width_in_before: int | None
    width_in_after: int | None
    width_out_before: int
    width_out_after: int
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None

    @property
    def changed(self) -> bool:
        return self.params_before != self.params_after


@dataclass(frozen=True)
class PartSize:
    """One part of the network: (before, after) of each cost; MACs and milliseconds are None where not measured."""

    name: str
    params: tuple[int, int]
    macs: tuple[int, int] | None = None
    ms: tuple[float, float] | None = None


def layers_and_parts(
    dense: nn.Module,
    slim: nn.Module,
    before: Complexity | None = None,
    after: Complexity | None = None,
    run: Callable[[nn.Module], Any] | None = None,
    repeats: int = 1,
    slim_name: Rename = lambda name: name,
) -> tuple[list[LayerSize], list[PartSize]]:
    """Everything here of two networks: each layer, and each part with its time.

    Args:
        run: does one forward, to time the parts; both networks are warm. None: no times.
        repeats: number of forwards of each; the median is taken.
        Others: as for ``layer_sizes``.
    """
    layers = layer_sizes(dense, slim, before, after, slim_name)
    names = parts(before.modules if before else {name: (count_params(m), 0) for name, m in dense.named_modules()})
    times = None
    if run is not None:
        times = part_times(dense, run, names, repeats), part_times(slim, run, names, repeats, slim_name)
    return layers, part_sizes(names, dense, slim, before, after, times, slim_name)


def layer_sizes(
    dense: nn.Module,
    slim: nn.Module,
    before: Complexity | None = None,
    after: Complexity | None = None,
    slim_name: Rename = lambda name: name,
) -> list[LayerSize]:
    """Every layer of a network beside what slimming left of it, in the network's order.

    Args:
        dense, slim: the networks.
        before, after: their operations, if they were counted.
        slim_name: where layers left or got other numbers.
    """
    slim_modules, of_dense, of_slim = dict(slim.named_modules()), _own_macs(before), _own_macs(after)
    counted = before is not None and after is not None
    seen: tuple[set[nn.Parameter], set[nn.Parameter]] = set(), set()
    rows = []
    for name, module in _owners(dense):
        new_name = slim_name(name)
        left = None if new_name is None else slim_modules.get(new_name)
        (reads, makes), (reads_left, makes_left) = _widths(module), (0, 0) if left is None else _widths(left)
        rows.append(
            LayerSize(
                name,
                type(module).__name__,
                reads,
                0 if left is None and reads is not None else reads_left,
                makes,
                makes_left,
                _own_params(module, seen[0]),
                0 if left is None else _own_params(left, seen[1]),
                of_dense(name, module) if counted else None,
                (0 if left is None else of_slim(str(new_name), left)) if counted else None,
            )
        )
    return rows


def to_csv(rows: Sequence[LayerSize]) -> str:
    """The layers as CSV with a header; an empty cell is 'not counted'."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([field.name for field in fields(LayerSize)])
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue()


def parts(modules: Mapping[str, tuple[int, int]], most: int = 16, share: float = 0.2) -> list[str]:
    """The names of the parts: the biggest modules are divided until none is too big, but for their small children.

    A module belongs to the part with the longest name that is a prefix of its own; '' is all that is left.

    Args:
        modules: dotted name -> (params, MACs) of everything below it, as ``Complexity.modules``.
        most: number of parts to stop at.
        share: of the params or the MACs of the network that a part may have undivided.
    """
    total = [max(cost, 1) for cost in modules.get('', (1, 1))]
    children: dict[str, list[str]] = {}
    for name, costs in modules.items():
        if name and any(costs):
            children.setdefault(name.rpartition('.')[0], []).append(name)
    size = {name: max(cost / whole for cost, whole in zip(costs, total)) for name, costs in modules.items()}
    found = set(children.get('', []))
    whole = {name for name in found if size[name] > share}
    while whole:
        biggest = max(sorted(whole), key=lambda name: size[name])
        whole.remove(biggest)
        below = sorted(children.get(biggest, []), key=lambda name: -size[name])
        below = [name for name in below if size[name] > share / 4][: most - len(found)]
        found.update(below)  # the biggest stays, for what else it does
        whole.update(name for name in below if size[name] > share)
    return [name for name in modules if name in found]


def part_sizes(
    names: Sequence[str],
    dense: nn.Module,
    slim: nn.Module,
    before: Complexity | None = None,
    after: Complexity | None = None,
    times: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
    slim_name: Rename = lambda name: name,
) -> list[PartSize]:
    """What each part weighs and costs before and after; parts add up to the network.

    Args:
        names: of ``parts``, in the dense network.
        times: of ``part_times``, for both networks, under the names in the dense one.
        Others: as for ``layer_sizes``.
    """
    belongs = Belonging(names)
    params, macs = (Counter[str](), Counter[str]()), (Counter[str](), Counter[str]())
    for row in layer_sizes(dense, slim, before, after, slim_name):
        params[0][belongs(row.name)] += row.params_before
        params[1][belongs(row.name)] += row.params_after
    counted = before is not None and after is not None
    if before is not None and after is not None:
        back = {new: name for name, _ in dense.named_modules() if (new := slim_name(name)) is not None}
        for product in before.products:
            macs[0][belongs(product.module)] += product.macs
        for product in after.products:
            macs[1][belongs(back.get(product.module, product.module))] += product.macs
    rows = [
        PartSize(
            name,
            (params[0][name], params[1][name]),
            (macs[0][name], macs[1][name]) if counted else None,
            (times[0].get(name, 0.0), times[1].get(name, 0.0)) if times else None,
        )
        for name in [*names, '']
    ]
    return [row for row in rows if any(row.params) or any(row.macs or ()) or any(row.ms or ())]


class Belonging:
    """Tells which part a module belongs to."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = {*names, ''}

    def __call__(self, module: str) -> str:
        while module not in self.names:
            module = module.rpartition('.')[0]
        return module


def part_times(
    model: nn.Module,
    run: Callable[[nn.Module], Any],
    names: Sequence[str],
    repeats: int = 1,
    slim_name: Rename = lambda name: name,
) -> dict[str, float]:
    """Milliseconds that a forward spends in each part and in no other part inside it; they add up to all of it.

    Args:
        model: the network, warm.
        run: does one forward.
        names: of ``parts``, in the dense network.
        repeats: number of forwards; the median of each part is taken.
        slim_name: the parts' names in ``model``.

    Returns:
        name -> milliseconds, '' for the rest. They include what watching each module costs, some microseconds.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be at least 1, got {repeats}')
    new_names = {name: slim_name(name) for name in [*names, '']}
    belongs = Belonging(new for new in new_names.values() if new is not None)
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    spent: dict[str, list[float]] = {name: [] for name in new_names}
    for _ in range(repeats):
        with _watched(model, belongs, device) as seconds, torch.no_grad():
            run(model)
        for name, new in new_names.items():
            spent[name].append(0.0 if new is None else 1000 * seconds[new])
    return {name: statistics.median(times) for name, times in spent.items()}


@contextmanager
def _watched(model: nn.Module, belongs: Belonging, device: torch.device) -> Iterator[defaultdict[str, float]]:
    """Books the time that passes, in seconds, on the part that is running."""
    seconds: defaultdict[str, float] = defaultdict(float)
    running, since = [''], [now(device)]

    def book() -> None:
        moment = now(device)
        seconds[running[-1]] += moment - since[0]
        since[0] = moment

    def enter(part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if part != running[-1]:  # a device is waited for at the border of parts only
                book()
            running.append(part)

        return hook

    def leave(*_: Any) -> None:
        if running[-2] != running[-1]:
            book()
        running.pop()

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter(belongs(name))))
            handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield seconds
    finally:
        book()
        for handle in handles:
            handle.remove()


def _owners(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that own parameters, with their first names; an attention is one layer with all it has."""
    attention = None
    for name, module in model.named_modules():
        if attention is not None and name.startswith(attention):
            continue
        if isinstance(module, nn.MultiheadAttention):
            attention = f'{name}.'
            yield name, module
        elif next(module.parameters(recurse=False), None) is not None:
            yield name, module


def _own_params(module: nn.Module, seen: set[nn.Parameter]) -> int:
    """Number of parameters of a layer that are not those of one before it."""
    own = set(module.parameters(recurse=isinstance(module, nn.MultiheadAttention))) - seen
    seen |= own
    return sum(parameter.numel() for parameter in own)


def _own_macs(counted: Complexity | None) -> Callable[[str, nn.Module], int]:
    own: Counter[str] = Counter()
    for product in counted.products if counted else ():
        own[product.module] += product.macs

    def macs(name: str, module: nn.Module) -> int:
        if isinstance(module, nn.MultiheadAttention):
            return sum(value for key, value in own.items() if key == name or key.startswith(f'{name}.'))
        return own[name]

    return macs


def _widths(module: nn.Module) -> tuple[int | None, int]:
    """(read, made) of a module that owns parameters."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels, module.out_channels
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if is_layer(module):
        widths = widths_of(module)
        read = module.get_parameter(widths.tensor_in).shape[widths.dim_in]
        return read, module.get_parameter(widths.tensor_out).shape[widths.dim_out]
    biggest = max(module.parameters(recurse=False), key=lambda parameter: parameter.numel())
    return None, biggest.shape[-1] if biggest.dim() else 1
