"""What one forward of a network costs, module by module: collected, computed, printed, in three steps.

``collect`` runs the network, ``compute`` makes plain data of what it found, ``run_tables`` and ``run_page`` take only
those. Figures of a module hold everything below it in the tree of names; what a module does outside of its call, in a
method of its own, is booked on the module that calls it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from typing import Any

from torch import nn

from vadslim.analysis.complexity import Complexity, per_module
from vadslim.analysis.example import Change, Example
from vadslim.analysis.latency import Latency, measure_modules

OTHER = 'other'


@dataclass(frozen=True)
class Collected:
    """What was found out about one forward.

    Attributes:
        complexity: its counts.
        kinds: dotted module name -> class, in the order of the tree, ``''`` first.
        sizes: parameter -> number of elements, tied ones once.
        parts: as the example declares them.
        changes: alternative -> what it does more or less.
        latency: None if nothing was timed; its ``modules`` are those of :func:`timed_modules`.
        label: the sizes that the work depends on.
    """

    complexity: Complexity
    kinds: dict[str, str]
    sizes: dict[str, int]
    parts: Mapping[str, Sequence[str]]
    changes: dict[str, Sequence[Change]]
    latency: Latency | None
    label: str


@dataclass(frozen=True)
class Row:
    """One module, or one part of the network.

    Attributes:
        name: dotted name, ``''`` is the model; or the part's.
        kind: class of the module; '' of a part.
        params: elements of its parameters.
        macs: multiply-accumulates of products (matrix products, convolutions, attention).
        sampling_macs: of bilinear sampling, not among ``macs``.
        activations: elements of the results of products and samplings.
        calls: how often it was called; 0 where only what is below it was.
        ms: median time per forward; None if nothing was timed, or nothing in it is called.
        share: ``ms`` as a fraction of the whole forward.
        alternatives: alternative -> ``macs`` of it.
    """

    name: str
    kind: str
    params: int
    macs: int
    sampling_macs: int
    activations: int
    calls: int
    ms: float | None
    share: float | None
    alternatives: dict[str, int]


@dataclass(frozen=True)
class AlternativeTotal:
    """Another way of computing the same outputs: what it costs, and (why, MACs, sampling MACs) of each difference."""

    macs: int
    sampling_macs: int
    differences: list[tuple[str, int, int]]


@dataclass(frozen=True)
class RunReport:
    """What one forward of a network costs.

    Attributes:
        settings: what was asked for: config, checkpoint and so on.
        example: the sizes that the work depends on.
        total: of the model.
        parts: what people call its parts, and ``other``; empty if none are declared.
        modules: those down to ``depth`` that have parameters or work, in the order of the tree.
        alternatives: other ways of computing the same outputs.
        uncounted: what did work that no table knows, as ``'op in module (times)'``.
        unread: parameter -> its size, of those that no operator read: this forward does not use them.
        latency: how it was timed; None if it was not.
    """

    settings: dict[str, Any]
    example: str
    depth: int
    total: Row
    parts: list[Row]
    modules: list[Row]
    alternatives: dict[str, AlternativeTotal] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    latency: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def collect(model: nn.Module, example: Example, depth: int = 3, repeats: int = 0, warmup: int = 1) -> Collected:
    """Counts, and times, one forward.

    Args:
        model: in the mode that it is to run in.
        example: the forward.
        depth: modules down to here are timed, 1 is the model's children.
        repeats: of the timing; 0 does without.
        warmup: forwards before them that are not timed.
    """
    complexity = example.count(model)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    latency = None
    if repeats:
        timed = timed_modules(kinds, complexity.calls, example.parts, depth)
        latency = measure_modules(model, example.run, timed, repeats, warmup)
    return Collected(
        complexity=complexity,
        kinds=kinds,
        sizes={name: parameter.numel() for name, parameter in model.named_parameters()},
        parts=example.parts,
        changes={name: alternative(model, complexity) for name, alternative in example.alternatives.items()},
        latency=latency,
        label=example.label,
    )


def timed_modules(
    names: Iterable[str], calls: Mapping[str, int], parts: Mapping[str, Sequence[str]], depth: int
) -> list[str]:
    """The modules whose times say what all modules down to a depth, and the parts, take.

    Of a module that is never called itself (a list of layers, one whose methods are used) these are the nearest ones
    below it that are.
    """
    names = [name for name in names if name]
    roots = [name for name in names if name.count('.') < depth]
    roots += [root for patterns in parts.values() for root in _roots(names, patterns)]
    wanted = {called for root in roots for called in _called(root, names, calls)}
    return [name for name in names if name in wanted]


def compute(collected: Collected, depth: int = 3, settings: Mapping[str, Any] | None = None) -> RunReport:
    """Makes the report of what was collected.

    Args:
        collected: with the times, if any, of at least this depth.
        depth: of the tree, 1 is the model's children.
        settings: what was asked for.
    """
    counted = collected.complexity
    amounts = _Amounts(collected)
    modules = [
        row
        for name in collected.kinds
        if name and name.count('.') < depth
        for row in [amounts.module(name)]
        if row.params or row.macs or row.sampling_macs or any(row.alternatives.values())
    ]
    return RunReport(
        settings=dict(settings or {}),
        example=collected.label,
        depth=depth,
        total=amounts.module(''),
        parts=list(amounts.parts()),
        modules=modules,
        alternatives={name: _alternative(counted, changes) for name, changes in collected.changes.items()},
        uncounted=counted.uncounted,
        unread={name: collected.sizes[name] for name in counted.unread},
        latency=_conditions(collected.latency),
    )


class _Amounts:
    """Looks up what modules and parts have and do."""

    def __init__(self, collected: Collected) -> None:
        counted = collected.complexity
        self.collected = collected
        self.times = collected.latency.modules if collected.latency else {}
        self.total_ms = collected.latency.median_ms if collected.latency else None
        outputs = [(each.module, each.outputs) for each in counted.products]
        outputs += [(each.module, each.outputs) for each in counted.samplings]
        self.own: dict[str, list[tuple[str, int]]] = {
            'macs': [(product.module, product.macs) for product in counted.products],
            'sampling_macs': [(sampling.module, sampling.macs) for sampling in counted.samplings],
            'activations': outputs,
        }
        self.other = {
            name: [*self.own['macs'], *((change.module, change.macs) for change in changes)]
            for name, changes in collected.changes.items()
        }
        self.below = {what: per_module(own) for what, own in self.own.items()}
        self.below_other = {name: per_module(own) for name, own in self.other.items()}

    def module(self, name: str) -> Row:
        """The row of a module."""
        counted = self.collected.complexity
        names = _called(name, self.collected.kinds, counted.calls) if name else []
        ms = self.total_ms if not name else self._ms(names)
        return Row(
            name=name,
            kind=self.collected.kinds[name],
            params=counted.modules[name][0],
            **{what: below[name] for what, below in self.below.items()},
            calls=counted.calls.get(name, 0) if name else 1,
            ms=ms,
            share=self._share(ms),
            alternatives={other: below[name] for other, below in self.below_other.items()},
        )

    def parts(self) -> Iterator[Row]:
        """The rows of all parts, and of what belongs to none."""
        declared = self.collected.parts
        if not declared:
            return
        sums = {what: self._per_part(own) for what, own in self.own.items()}
        others = {name: self._per_part(own) for name, own in self.other.items()}
        params = self._per_part(self.collected.sizes.items())
        left = self.total_ms
        for part in [*declared, OTHER]:
            ms = left
            if part != OTHER:
                roots = _roots(self.collected.kinds, declared[part])
                called = [_called(root, self.collected.kinds, self.collected.complexity.calls) for root in roots]
                ms = self._ms([name for names in called for name in names])
                left = None if left is None or ms is None else max(left - ms, 0.0)  # medians need not add up
            yield Row(
                name=part,
                kind='',
                params=params[part],
                **{what: amounts[part] for what, amounts in sums.items()},
                calls=1,
                ms=ms,
                share=self._share(ms),
                alternatives={name: amounts[part] for name, amounts in others.items()},
            )

    def _per_part(self, own: Iterable[tuple[str, int]]) -> Counter[str]:
        total: Counter[str] = Counter()
        owners: dict[str, str] = {}
        for name, amount in own:
            if name not in owners:
                owners[name] = _owner(name, self.collected.parts)
            total[owners[name]] += amount
        return total

    def _ms(self, names: Sequence[str]) -> float | None:
        """Of modules that are called; None also if there are none: what is used without a call takes no time itself."""
        return None if self.total_ms is None or not names else sum(self.times.get(name, 0.0) for name in names)

    def _share(self, ms: float | None) -> float | None:
        return None if ms is None or not self.total_ms else ms / self.total_ms


def _called(root: str, names: Iterable[str], calls: Mapping[str, int]) -> list[str]:
    """A module itself if it is called, else the nearest ones below it that are."""
    found: list[str] = []
    for name in names:
        inside = name == root or name.startswith(f'{root}.')
        if inside and calls.get(name) and not any(name.startswith(f'{above}.') for above in found):
            found.append(name)
    return found


def _roots(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The modules that match a pattern, without those below others."""
    found: list[str] = []
    for name in names:
        matches = any(fnmatch(name, pattern) for pattern in patterns)
        if name and matches and not any(name.startswith(f'{above}.') for above in found):
            found.append(name)
    return found


def _owner(name: str, parts: Mapping[str, Sequence[str]]) -> str:
    """The part that a module or a parameter belongs to."""
    while name:
        for part, patterns in parts.items():
            if any(fnmatch(name, pattern) for pattern in patterns):
                return part
        name = name.rpartition('.')[0]
    return OTHER


def _alternative(counted: Complexity, changes: Sequence[Change]) -> AlternativeTotal:
    """Adds up the changes, those for one reason together; the largest come first."""
    reasons: dict[str, tuple[int, int]] = {}
    for change in changes:
        macs, sampling = reasons.get(change.why, (0, 0))
        reasons[change.why] = (macs + change.macs, sampling + change.sampling_macs)
    differences = [(why, *amounts) for why, amounts in reasons.items() if any(amounts)]
    return AlternativeTotal(
        macs=counted.macs + sum(change.macs for change in changes),
        sampling_macs=counted.sampling_macs + sum(change.sampling_macs for change in changes),
        differences=sorted(differences, key=lambda one: -abs(one[1])),
    )


def _conditions(latency: Latency | None) -> dict[str, Any] | None:
    if latency is None:
        return None
    return {name: value for name, value in latency.to_dict().items() if name != 'modules'}
