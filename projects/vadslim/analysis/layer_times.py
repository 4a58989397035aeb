"""The latency of a slim network, predicted from the dense one's layers and a table of what their widths cost."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vadslim.analysis.latency import Latency, measure, measure_in_turn, now
from vadslim.analysis.latency_table import Grid, LatencyTable
from vadslim.analysis.layers import Call, is_layer, read_call, widths_of
from vadslim.analysis.predict import Removed, share

TOLERANCE = 0.05  # measuring again differs by about as much
COVERED = 0.98  # of the time of all layers is tabulated; the smallest ones are scaled with their widths


@dataclass(frozen=True)
class Timeline:
    """Where the time of one forward goes, layer by layer.

    Attributes:
        total: the whole forward.
        before: milliseconds until the first layer starts.
        own: layer -> milliseconds in its calls.
        after: layer -> milliseconds from the end of its calls to the start of the next layer's: what is done with its
            output (activations, residual sums, sampling, copies, Python).
        calls: layer -> what it was called with, and how often.
    """

    total: Latency
    before: float
    own: dict[str, float]
    after: dict[str, float]
    calls: dict[str, Counter[Call]]


def timeline(model: nn.Module, run: Callable[[nn.Module], Any], repeats: int = 5, warmup: int = 1) -> Timeline:
    """Times one forward; medians over the repetitions, scaled so that the parts add up to the whole.

    Args:
        model: any module, in eval mode for what is timed to make sense.
        run: does one forward, ``run(model)``.
        repeats, warmup: timed calls, and calls before them.
    """
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    watch = _Watch(model, device)
    with watch.hooked():
        total = measure(lambda: watch.once(run), repeats, warmup, device)
    spent: dict[tuple[str, str], float] = {}
    for key in dict.fromkeys(key for parts in watch.spent for key in parts):
        spent[key] = statistics.median(parts.get(key, 0.0) for parts in watch.spent[warmup:])
    scale = total.median_ms / max(sum(spent.values()), 1e-9)
    own = {name: ms * scale for (name, what), ms in spent.items() if what == 'own'}
    after = {name: ms * scale for (name, what), ms in spent.items() if what == 'after' and name in own}
    before = total.median_ms - sum(own.values()) - sum(after.values())
    return Timeline(total, before, own, after, watch.calls)


class LayerTimes:
    """Milliseconds of one forward: a cost for ``StructuredPruner.search``.

    Each layer takes the time that it takes inside the dense network, times what the table says of the narrower layer
    over the table's time of the dense one. The time between two layers is proportional to the width of the first
    one's output; what precedes the first layer stays. Numbers of pixels and tokens are those of the dense network.
    What an operation costs however narrow it is, shows only in a slim network that runs: ``check`` is for that.

    With ONNX Runtime, which cannot run every network as a whole, the latency is the sum of its layers alone.

    Args:
        model: the network as it is, in eval mode.
        run: does one forward, ``run(model)``.
        table: times of layers; measures those it does not know.
        repeats: timed forwards.
        progress: called with (layers tabulated, layers to tabulate).
    """

    name = 'latency'
    units: Mapping[str, float] = {'us': 1e-3, 'ms': 1.0, 's': 1e3}

    def __init__(
        self,
        model: nn.Module,
        run: Callable[[nn.Module], Any],
        table: LatencyTable | None = None,
        repeats: int = 3,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model, self.run, self.repeats = model, run, repeats
        self.table = LatencyTable() if table is None else table
        self.timeline = timeline(model, run, repeats)
        self._layers = dict(self._parts(model, progress))
        self.rest = 0.0 if self.table.backend == 'onnxruntime' else self.timeline.before
        self.dense = self({})
        self.tolerance: float | None = None if self.table.backend == 'onnxruntime' else TOLERANCE

    def __call__(self, removed: Removed) -> float:
        return self.rest + sum(part.at(removed) for part in self._layers.values())

    def layers(self, removed: Removed) -> dict[str, float]:
        """Milliseconds of each layer, with what is done with its output."""
        return {name: part.at(removed) for name, part in self._layers.items()}

    def check(self, slim: nn.Module) -> float:
        """What a slim network really takes, measured in turn with the dense one and in milliseconds of ``dense``."""
        device = next((p.device for p in slim.parameters()), torch.device('cpu'))
        runs = [lambda: self.run(self.model), lambda: self.run(slim)]
        before, after = measure_in_turn(runs, self.repeats, 1, device)
        return self.dense * after.median_ms / before.median_ms

    def show(self, value: float) -> str:
        return f'{value:.1f} ms'

    def _parts(self, model: nn.Module, progress: Callable[[int, int], None] | None) -> Iterator[tuple[str, _Part]]:
        times, covered = self.timeline, 0.0
        largest, tabulated = sorted(times.own, key=lambda name: -times.own[name]), set()
        for name in largest:
            known = all(self.table.knows(call) for call in times.calls[name])
            if known or covered <= COVERED * sum(times.own.values()) or self.table.backend == 'onnxruntime':
                tabulated.add(name)
            covered += times.own[name]
        calls = list(dict.fromkeys(call for name in largest if name in tabulated for call in times.calls[name]))
        grids = {}
        for number, call in enumerate(calls):
            if progress:
                progress(number, len(calls))
            grids[call] = self.table.grid(call)
        first: dict[int, str] = {}
        for path, parameter in model.named_parameters():
            first.setdefault(id(parameter), path)
        for name in times.own:
            module = model.get_submodule(name)
            widths = widths_of(module)
            ends = []
            for path, dim in ((widths.tensor_in, widths.dim_in), (widths.tensor_out, widths.dim_out)):
                value = module.get_parameter(path)
                ends.append(_End(first[id(value)], dim, value.shape[dim]))
            tables = {call: (grids[call], number) for call, number in times.calls[name].items() if call in grids}
            own, after = times.own[name], times.after.get(name, 0.0)
            if self.table.backend == 'onnxruntime':
                own, after = sum(grid.at(c.width_in, c.width_out) * n for c, (grid, n) in tables.items()), 0.0
            yield name, _Part(own, after, ends[0], ends[1], tables)


@dataclass(frozen=True)
class _End:
    """A width of a layer: a dimension of a tensor."""

    tensor: str
    dim: int
    size: int

    def left(self, removed: Removed) -> float:
        return share(removed, self.tensor, self.dim, 0, self.size)


@dataclass(frozen=True)
class _Part:
    """A layer's time, and how it changes."""

    own: float
    after: float
    reads: _End
    makes: _End
    grids: dict[Call, tuple[Grid, int]] = field(default_factory=dict)

    def at(self, removed: Removed) -> float:
        reads, makes = self.reads.left(removed), self.makes.left(removed)
        if reads == makes == 1:
            return self.own + self.after
        return self.own * self._fraction(reads, makes) + self.after * makes

    def _fraction(self, reads: float, makes: float) -> float:
        """What is left of the layer's own time."""
        if not self.grids:
            return makes if self.reads == self.makes else reads * makes
        dense = left = 0.0
        for call, (grid, number) in self.grids.items():
            dense += number * grid.at(call.width_in, call.width_out)
            left += number * grid.at(call.width_in * reads, call.width_out * makes)
        return left / dense


class _Watch:
    """Books the time of a forward on its layers."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.spent: list[dict[tuple[str, str], float]] = []
        self.calls: dict[str, Counter[Call]] = {}
        self._mark, self._last, self._depth = 0.0, ('', 'before'), 0

    def once(self, run: Callable[[nn.Module], Any]) -> None:
        """One forward."""
        self.spent.append(defaultdict(float))
        self.calls = defaultdict(Counter)
        self._last, self._depth = ('', 'before'), 0
        self._mark = now(self.device)
        run(self.model)
        self._book()

    def _book(self) -> None:
        """Books what has passed since the last mark."""
        mark = now(self.device)
        self.spent[-1][self._last] += (mark - self._mark) * 1000
        self._mark = mark

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, calls of layers are noted; of layers inside layers, only the outer one."""
        handles = []
        for name, module in self.model.named_modules():
            if is_layer(module):
                enter, leave = self._hooks(name)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._depth += 1
            call = read_call(module, args, kwargs) if self._depth == 1 else None
            if call is not None:
                self._book()
                self._last = name, 'own'
                self.calls[name][call] += 1
                self._mark = now(self.device)

        def leave(*_: Any) -> None:
            self._depth -= 1
            if self._depth == 0 and self._last == (name, 'own'):
                self._book()
                self._last = name, 'after'

        return enter, leave
