"""What one forward of a network costs, as tables for a terminal or a text file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vadslim.analysis.complexity import human
from vadslim.analysis.run_report import Row, RunReport

NAME = 24  # room that names have at least in a table


def print_run(report: RunReport, console: Console) -> None:
    """Prints a report as tables."""
    for line in summary(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.parts:
        console.print(_table('Parts', report, [(row.name, row) for row in report.parts], console.width))
    rows = [('  ' * row.name.count('.') + row.name.rpartition('.')[2], row) for row in report.modules]
    console.print(_table(f'Modules, {report.depth} deep', report, rows, console.width))
    for name, alternative in report.alternatives.items():
        table = Table(title=f'{name[0].upper()}{name[1:]}: what differs', title_justify='left')
        table.add_column('why')
        table.add_column('MACs', justify='right')
        table.add_column('sampling', justify='right')
        for why, macs, sampling in alternative.differences:
            table.add_row(why, *(f'{"+" * (n > 0)}{human(n)}' if n else '' for n in (macs, sampling)))
        console.print(table)
    for line in remarks(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def summary(report: RunReport) -> Iterator[str]:
    """The totals, a line each."""
    total = report.total
    yield f'{total.kind}: one forward of {report.example}'
    yield f'parameters   {total.params:,}'
    yield f'MACs         {total.macs:,} (matrix products, convolutions, attention)'
    for name, alternative in report.alternatives.items():
        yield f'             {alternative.macs:,} {name}'
    yield f'sampling     {total.sampling_macs:,} MACs of bilinear sampling, not among these'
    for name, alternative in report.alternatives.items():
        yield f'             {alternative.sampling_macs:,} {name}'
    yield f'activations  {total.activations:,}'
    if report.latency:
        yield f'latency      {total.ms:.1f} ms ({timing(report.latency)})'


def timing(latency: Mapping[str, Any]) -> str:
    """How a time was measured."""
    repeats, threads = latency['repeats'], latency['threads']
    times = f'median of {repeats}, {latency["min_ms"]:.1f} to {latency["max_ms"]:.1f} ms' if repeats > 1 else 'one run'
    where = f', {threads} thread{"s" * (threads != 1)}' if 'cpu' in latency['device'] else ''
    return f'{times}, {latency["device"]}{where}'


def remarks(report: RunReport) -> Iterator[str]:
    """What the figures do not hold."""
    if report.uncounted:
        yield f'not counted: {", ".join(report.uncounted)}'
    else:
        yield 'not counted: nothing that the tables know to be work'
    if report.unread:
        names = list(report.unread)
        more = f' and {len(names) - 8} more' if len(names) > 8 else ''
        numbers = f'{sum(report.unread.values()):,} numbers'
        yield f'not used by this forward: {len(names)} parameters ({numbers}): {", ".join(names[:8])}{more}'


def _table(title: str, report: RunReport, rows: Iterable[tuple[str, Row]], width: int) -> Table:
    """Rows under the names that they are shown by; no columns that say nothing, or that there is no room for."""
    rows = list(rows)
    columns = {
        'type': [row.kind for _, row in rows],
        'params': [_short(row.params) for _, row in rows],
        'MACs': [_short(row.macs) for _, row in rows],
        '%': [_percent(row.macs, report.total.macs) for _, row in rows],
        **{_heading(name): [_short(row.alternatives[name]) for _, row in rows] for name in report.alternatives},
        'sampling': [_short(row.sampling_macs) for _, row in rows],
        'activa-\ntions': [_short(row.activations) for _, row in rows],
        'ms': ['' if row.ms is None else f'{row.ms:.{1 if row.ms >= 100 else 2}f}' for _, row in rows],
        'time': ['' if row.ms is None else _percent(row.ms, report.total.ms or 0) for _, row in rows],
    }
    columns = {heading: texts for heading, texts in columns.items() if any(texts)}
    room = width - NAME - 4 - sum(map(_width, columns.items()))
    for heading in ('type', 'time', 'activa-\ntions', 'sampling', *map(_heading, report.alternatives)):
        if room < 0 and heading in columns:
            room += _width((heading, columns.pop(heading)))
    table = Table(title=title, title_justify='left')
    table.add_column('name', overflow='fold', min_width=NAME)
    for heading in columns:
        table.add_column(heading, justify='left' if heading == 'type' else 'right', no_wrap=True)
    for (name, _), *texts in zip(rows, *columns.values()):
        table.add_row(name, *texts)
    return table


def _heading(alternative: str) -> str:
    return '\n'.join(['MACs', *textwrap.wrap(alternative, 9)])


def _width(column: tuple[str, Sequence[str]]) -> int:
    """What a column takes of a line, with its frame."""
    heading, texts = column
    return 3 + max(map(len, (*heading.split('\n'), *texts)))


def _short(number: int) -> str:
    return human(number) if number else ''


def _percent(part: float, whole: float) -> str:
    return f'{part / whole:.1%}' if part and whole else ''
