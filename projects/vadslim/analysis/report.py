"""The report of one slimming: plain data, written as JSON, printed as tables.

Collecting (``complexity``, ``latency``) and printing know nothing of each other; this is what lies between.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from vadslim.analysis.complexity import Complexity
from vadslim.analysis.latency import Latency
from vadslim.analysis.numbers import human


@dataclass(frozen=True)
class Measured:
    """What one network weighs and costs; None is 'not measured'.

    Attributes:
        params: number of parameters.
        complexity: counted operations of one forward.
        latency: time of one forward.
        file_bytes: size of its checkpoint file.
    """

    params: int
    complexity: Complexity | None = None
    latency: Latency | None = None
    file_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        counted = self.complexity
        return {
            'params': self.params,
            'macs': counted.macs if counted else None,
            'sampling_macs': counted.sampling_macs if counted else None,
            'uncounted': counted.uncounted if counted else None,
            'latency': self.latency.to_dict() if self.latency else None,
            'file_bytes': self.file_bytes,
        }


@dataclass(frozen=True)
class GroupRow:
    """One Group: how many of its units stay, and why none went if none did.

    ``params_saved`` and ``macs_saved``: what leaves when this Group alone is slimmed, as planned, or at the ratio of
    the run if it could lose units and nobody asked for it. None is 'cannot lose any', or not counted.
    """

    name: str
    kind: str
    num_units: int
    kept: int
    reason: str = ''
    params_saved: int | None = None
    macs_saved: int | None = None


@dataclass(frozen=True)
class EditRow:
    """Layers that left, or a grid that got coarser; ``macs_saved`` is None where nothing was counted."""

    what: str
    params_saved: int
    macs_saved: int | None = None


@dataclass(frozen=True)
class Report:
    """Everything that is said about one slimming.

    Attributes:
        settings: what was asked for (config, checkpoint, ratio, importance, ...), JSON values only.
        example: the sizes that MACs and latency hold for; '' when nothing was run.
        before, after: the networks.
        groups: one row per Group.
        seconds: stage -> wall-clock seconds ('plan', 'slim', 'write', ...).
        notes: one-line remarks (optimizer moments dropped, ...).
        target: what a search was for, if there was one: ``cost`` ('latency', 'MACs', 'params'), ``goal``, ``before``,
            ``predicted``, ``counted``, ``ratio`` and ``scale``.
        edits: what left before any units, and in ``changes`` by how much that alone changed the outputs of a small
            example: name -> norm of the change as a part of the norm before.
    """

    settings: Mapping[str, Any]
    example: str
    before: Measured
    after: Measured
    groups: list[GroupRow]
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    target: Mapping[str, Any] | None = None
    edits: list[EditRow] = field(default_factory=list)
    changes: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; ``modules`` has the params and MACs, before and after, of what both networks have."""
        return {
            'format': 1,
            'settings': dict(self.settings),
            'example': self.example,
            'before': self.before.to_dict(),
            'after': self.after.to_dict(),
            'modules': {
                name: {'params': [p0, p1], 'macs': [m0, m1]}
                for name, (p0, m0), (p1, m1) in paired_modules(self.before, self.after)
            },
            'groups': [asdict(row) for row in self.groups],
            'seconds': dict(self.seconds),
            'notes': list(self.notes),
            'target': dict(self.target) if self.target else None,
            'edits': [asdict(row) for row in self.edits],
            'changes': dict(self.changes),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + '\n'


def paired_modules(dense: Measured, slim: Measured) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """(name, dense (params, MACs), slim (params, MACs)) of each module of both, in the dense one's order."""
    if dense.complexity is None or slim.complexity is None:
        return
    for name, before in dense.complexity.modules.items():
        if name in slim.complexity.modules:
            yield name, before, slim.complexity.modules[name]


def print_report(report: Report, console: Console, every_group: bool = False) -> None:
    """Prints the tables of a report.

    Args:
        report: the data.
        console: where to.
        every_group: one line per Group rather than one per kind and per reason.
    """
    console.print(before_after(report))
    for condition in _conditions(report):
        console.print(condition, markup=False, highlight=False)
    modules = module_table(report)
    if modules.row_count:
        console.print(modules)
    print_groups(report.groups, console, every_group)
    for note in report.notes:
        console.print(note, markup=False, highlight=False)


def before_after(report: Report) -> Table:
    """Parameters, MACs, latency and file size of both networks, and what is left of each in per cent."""
    before, after = report.before, report.after
    table = Table(title='Before and after', title_justify='left')
    for column in ('', 'before', 'after', 'left'):
        table.add_column(column, justify='left' if not column else 'right', no_wrap=True)

    def row(name: str, old: float | None, new: float | None, unit: str = '', exact: bool = False) -> None:
        if old is None or new is None:
            return
        shown = [f'{n:,}' if exact else human(n, unit) for n in (old, new)]
        table.add_row(name, *shown, f'{new / old:.1%}' if old else '-')

    row('parameters', before.params, after.params, exact=True)
    if before.complexity and after.complexity:
        row('MACs', before.complexity.macs, after.complexity.macs)
        if before.complexity.sampling_macs:
            row('+ bilinear sampling', before.complexity.sampling_macs, after.complexity.sampling_macs)
    if before.latency and after.latency:
        row('latency (ms)', round(before.latency.median_ms, 2), round(after.latency.median_ms, 2), exact=True)
    if report.target:
        target, exact = report.target, report.target['cost'] == 'latency'
        name = 'latency (ms)' if exact else target['cost']
        row(f'{name}, predicted', round(target['before'], 2), round(target['predicted'], 2), exact=exact)
    row('checkpoint file', before.file_bytes, after.file_bytes, 'B')
    return table


def _conditions(report: Report) -> Iterator[str]:
    if report.example:
        yield f'one forward of {report.example}'
    if report.after.latency:
        latency = report.after.latency
        yield f'latency: median of {latency.repeats} on {latency.where}'
    if report.before.complexity and report.before.complexity.uncounted:
        yield f'not counted: {", ".join(report.before.complexity.uncounted)}'


def module_table(report: Report, depth: int = 2) -> Table:
    """Parameters and MACs of the modules down to a depth that changed."""
    table = Table(title='Where they went', title_justify='left')
    table.add_column('module')
    for column in ('params', 'after', 'MACs', 'after'):
        table.add_column(column, justify='right', no_wrap=True)
    for name, before, after in paired_modules(report.before, report.after):
        if name and name.count('.') < depth and before != after:
            table.add_row(name, human(before[0]), human(after[0]), human(before[1]), human(after[1]))
    return table


def print_groups(rows: Iterable[GroupRow], console: Console, every_group: bool = False) -> None:
    """Prints what happens to the Groups, and every one that stays whole with its reason."""
    rows = list(rows)
    cut = [row for row in rows if row.kept < row.num_units]
    table = Table(title=f'Groups: {len(cut)} of {len(rows)} lose units', title_justify='left')
    table.add_column('Group' if every_group else 'kind')
    for column in ('kind', 'kept', 'of', 'params', 'MACs') if every_group else ('Groups', 'kept', 'of'):
        table.add_column(column, justify='right', no_wrap=True)
    if every_group:
        for row in cut:
            table.add_row(row.name, row.kind, str(row.kept), str(row.num_units), *_saved(row))
    else:
        for kind, of_kind in _by(cut, 'kind').items():
            kept, total = sum(r.kept for r in of_kind), sum(r.num_units for r in of_kind)
            table.add_row(kind, str(len(of_kind)), str(kept), str(total))
    console.print(table)
    possible = [row for row in rows if row.kept == row.num_units and row.params_saved] if every_group else []
    if possible:
        table = Table(title='What others would save alone', title_justify='left')
        table.add_column('Group')
        for column in ('kind', 'units', 'params', 'MACs'):
            table.add_column(column, justify='right', no_wrap=True)
        for row in possible:
            table.add_row(row.name, row.kind, str(row.num_units), *_saved(row))
        console.print(table)
    for reason, whole in _by([row for row in rows if row.kept == row.num_units], 'reason').items():
        names = [row.name for row in whole]
        shown = names if every_group else names[:3]
        more = f' and {len(names) - len(shown)} more' if len(names) > len(shown) else ''
        line = f'{len(names)} kept whole, {reason or "nothing to remove"}: {", ".join(shown)}{more}'
        console.print(line, markup=False, highlight=False)


def _saved(row: GroupRow) -> list[str]:
    return ['' if saved is None else f'-{human(saved)}' for saved in (row.params_saved, row.macs_saved)]


def _by(rows: Iterable[GroupRow], attribute: str) -> dict[str, list[GroupRow]]:
    grouped: dict[str, list[GroupRow]] = defaultdict(list)
    for row in rows:
        grouped[getattr(row, attribute)].append(row)
    return dict(grouped)
