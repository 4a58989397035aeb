"""``compare.py``: prints what differs between two networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vadslim.analysis.compare import Comparison, TensorDifference, compare, read_side
from vadslim.analysis.structure_files import printable
from vadslim.cli import Parser, at_least, run

LONGEST = 200  # characters of a setting's value in a table; JSON has them all
WIDTH = 160  # of lines that no terminal breaks: the longest names of VAD beside their numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 compared, whatever was found; 2 a file that cannot be (one line)."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = Parser(
        description='Says what differs between two networks and their checkpoints: stage, epoch, metric, time, config; '
        'units kept, tensors, their values, edits. Two slim networks are compared at what both have left of the dense '
        'one.',
        epilog='exit codes: 0 compared, 2 a file that cannot be read (one line says why), 130 interrupted',
    )
    for name in ('A', 'B'):
        parser.add_argument(name, help='a structure.json, a slim checkpoint or a dense one')
    parser.add_argument('--top', type=at_least(0), default=10, metavar='N', help='rows of each table (10)')
    parser.add_argument('--json', action='store_true', help='all that was found, as JSON')
    options = parser.parse_args(argv)
    found = compare(read_side(options.A), read_side(options.B))
    if options.json:
        print(found.to_json())
    else:
        print_comparison(found, Console(width=None if sys.stdout.isatty() else WIDTH), options.top)


def print_comparison(found: Comparison, console: Console, top: int = 10) -> None:
    """Prints the tables of a comparison.

    Args:
        found: the data.
        console: where to.
        top: rows of each table; what is left out is counted.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    console.print(sides_table(found))
    _print_config(found, console, top)
    if found.equal:
        values = f', and the values of {found.compared} tensors' if found.compared else ''
        say(f'no difference: the same architecture, the same units{values}')
        return
    if not found.same_architecture:
        say('different dense architectures: tensors are compared by name, and Groups where they have the same size')
    groups = sorted(
        (group for group in found.groups if group.only_a or group.only_b or group.overlap is None),
        key=lambda group: -1 if group.overlap is None else group.overlap,
    )
    if groups:
        title = f'Groups: {len(groups)} keep other units, {len(found.groups) - len(groups)} the same'
        rows = (
            (
                group.name,
                group.kind,
                *map(str, group.kept),
                str(group.num_units) if group.overlap is not None else '-',
                str(len(group.only_a)),
                str(len(group.only_b)),
                '-' if group.overlap is None else f'{group.overlap:.0%}',
            )
            for group in groups
        )
        _print_table(console, title, ('Group', 'kind', 'kept A', 'B', 'of', 'only A', 'only B', 'overlap'), rows, top)
    elif found.groups:
        say(f'Groups: all {len(found.groups)} that lose units keep the same ones')
    _print_tensors(found, console, top)
    if found.attrs:
        numbers = ((path, *('dense' if v is None else str(v) for v in values)) for path, values in found.attrs.items())
        _print_table(console, f'Numbers: {len(found.attrs)} differ', ('attribute', 'A', 'B'), numbers, top)
    for side in ('a', 'b'):
        for edit in found.edits[side]:
            say(f'edit only in {side.upper()}: {json.dumps(edit)}')
    if found.edits['both']:
        say(f'edits of both: {", ".join(json.dumps(edit) for edit in found.edits["both"])}')


def sides_table(found: Comparison) -> Table:
    """Both files: what they are, and how big."""
    table = Table(title='Compared', title_justify='left')
    for column in ('', 'A', 'B'):
        table.add_column(column, overflow='fold')
    a, b = found.sides
    for key in ('path', 'what'):
        table.add_row(key, _cell(a[key]), _cell(b[key]))
    table.add_row('architecture', *(side['architecture'][:12] for side in found.sides))
    for key, name in (('params', 'parameters'), ('tensors', 'tensors'), ('cut', 'values cut off')):
        if a[key] is not None or b[key] is not None:
            table.add_row(name, *('-' if side[key] is None else f'{side[key]:,}' for side in found.sides))
    for key in ('stage', 'epoch', 'metric', 'time'):
        if a[key] is not None or b[key] is not None:
            table.add_row(key, *(_cell(_fact(side, key)) for side in found.sides))
    return table


def _fact(side: dict[str, Any], key: str) -> str:
    if side[key] is None:
        return '-'
    return f'{side[key]:.6g} ({side["metric_name"] or "unnamed"})' if key == 'metric' else str(side[key])


def _print_config(found: Comparison, console: Console, top: int) -> None:
    if found.config is None:
        return
    if not found.config:
        console.print('config: the same', highlight=False)
        return
    rows = (
        (_shorten(key), *(_shorten(json.dumps(values[side], default=str)) if side in values else '-' for side in 'ab'))
        for key, values in found.config.items()
    )
    _print_table(console, f'Config: {len(found.config)} keys differ', ('key', 'A', 'B'), rows, top)


def _print_tensors(found: Comparison, console: Console, top: int) -> None:
    for side, letter in enumerate('AB'):
        names = [row.name for row in found.missing if row.shapes[side] is not None]
        if names:
            _print_names(f'{_tensors(len(names))} only in {letter}', names, console, top)
    if found.reshaped:
        rows = ((row.name, *map(_shape, row.shapes), _change(row)) for row in found.reshaped)
        columns = ['tensor', 'shape A', 'shape B', 'change of what both have']
        if not found.compared:  # there are no values
            rows, columns = (row[:3] for row in rows), columns[:3]
        _print_table(console, f'Reshaped: {len(found.reshaped)} tensors', columns, rows, top)
    if found.changed:
        title = f'Values: {len(found.changed)} of {found.compared} tensors changed; the largest relative changes'
        rows = ((row.name, _change(row), _percent(row.change_of_a)) for row in found.changed)
        _print_table(console, title, ('tensor', 'change', 'of A alone'), rows, top)
    elif found.compared and not found.counts:
        line = f'values: those that both have left are equal, in all {found.compared} tensors compared'
        console.print(line, markup=False, highlight=False)
    if found.counts:
        _print_names(f'{_tensors(len(found.counts))} of whole numbers differ', found.counts, console, top)
    if found.types:
        names = [f'{name} ({" and ".join(kinds)})' for name, kinds in found.types.items()]
        _print_names(f'{_tensors(len(names))} of other types', names, console, top)


def _print_names(title: str, names: Sequence[str], console: Console, top: int) -> None:
    more = f'{" and " if top else ""}{len(names) - top} more' if len(names) > top else ''
    line = printable(f'{title}: {", ".join(names[:top])}{more}')
    console.print(line, markup=False, highlight=False)


def _tensors(count: int) -> str:
    return f'{count} tensor{"s" * (count != 1)}'


def _cell(text: str) -> str:
    return escape(printable(text))


def _print_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], top: int) -> None:
    rows = list(rows)
    console.print(title, style='italic', highlight=False, soft_wrap=True)
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify='right' if number else 'left', overflow='fold')
    for row in rows[:top]:
        table.add_row(*map(_cell, row))
    console.print(table)
    if len(rows) > top:
        console.print(f'and {len(rows) - top} more (--top N)', highlight=False)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 4]} ...'


def _shape(shape: Any) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'


def _change(row: TensorDifference) -> str:
    if not row.finite:
        return 'not finite'
    return 'none' if row.change == 0 else _percent(row.change)


def _percent(change: float | None) -> str:
    if change is None:
        return '-'
    return f'{change:.2%}' if change >= 1e-4 else f'{change:.1e}'
