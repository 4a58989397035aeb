"""``generate_results_table.py``: what models score and how they were pruned, as one table."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from vadslim.analysis.evaluation_results import AVERAGE, COLUMNS, PPL, STD, Results, Row, read_results
from vadslim.analysis.results_table import FORMATS, cell_text
from vadslim.cli import Parser, UserError, at_least, run, say
from vadslim.files import atomic_write

MOST_PLACES = 15  # more a float does not know
FIRST = 3  # models that the summary shows


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 written; 2 nothing to write, or a file that cannot be read."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> int:
    parser = Parser(
        prog='generate_results_table.py',
        description='Writes one table of what language models score and how they were pruned: a row for each folder in '
        'DIR with evaluation/evaluation_results.json; analysis/pruning_comparison.json (or model_comparison.json, or '
        'pruning_comparison.txt) tells what each layer has kept.',
        epilog='exit codes: 0 written; 2 a line says which file could not be read (the others are in the table), or '
        'what is wrong; 130 interrupted',
    )
    add = parser.add_argument
    add(
        '--result_dir',
        '--result-dir',
        type=Path,
        default=Path('results'),
        metavar='DIR',
        help='folder of models, or one',
    )
    add('--output', type=Path, required=True, metavar='FILE', help='.csv, .md, .html, .xlsx or .tex; folders are made')
    add('--format', choices=('auto', *FORMATS), default='auto', help="auto: by FILE's suffix, CSV for any other (auto)")
    add(
        *('--decimal_places', '--decimal-places'),
        type=at_least(0),
        metavar='N',
        help='of all numbers; without it each column has its own, and CSV holds what was read. Excel shows N places',
    )
    add('--no_summary', '--no-summary', action='store_true', help='print no summary')
    options = parser.parse_args(argv)
    if options.decimal_places is not None and options.decimal_places > MOST_PLACES:
        raise UserError(f'--decimal_places {options.decimal_places}: at most {MOST_PLACES}')
    _check(options.output)
    kind = _format(options.output, options.format)
    results = read_results(options.result_dir)
    for line in results.notes:
        say(f'note: {" ".join(line.split())}')
    for line in results.problems:
        say(f'error: {" ".join(line.split())}')
    if not results.rows:
        what = (
            'no model could be read' if results.problems else 'no folder in it has evaluation/evaluation_results.json'
        )
        raise UserError(f'--result_dir {options.result_dir}: {what}; nothing is written')
    _write(options.output, FORMATS[kind][1](results.rows, options.decimal_places), results)
    say(f'written to {options.output}: {len(results.rows)} models, {len(COLUMNS)} columns ({kind})')
    if not options.no_summary:
        print_summary(results.rows, options.decimal_places)
    return 2 if results.problems else 0


def _check(output: Path) -> None:
    try:
        if output.exists() and not output.is_file():
            what = 'is a folder' if output.is_dir() else 'is no ordinary file'
            raise UserError(f'--output {output}: {what}')
    except OSError as error:
        raise UserError(f'--output {output}: {error.strerror}') from error


def _format(output: Path, asked: str) -> str:
    of_suffix = next((kind for kind, (suffix, _) in FORMATS.items() if output.suffix.lower() == suffix), None)
    kind = (of_suffix or 'csv') if asked == 'auto' else asked
    if kind != of_suffix:
        say(f'note: {output} is written as {kind}, whose files end with {FORMATS[kind][0]}')
    return kind


def _write(path: Path, content: bytes, results: Results) -> None:
    try:
        if path.exists() and any(path.samefile(file) for row in results.rows for file in row.files):
            raise UserError(f'--output {path}: is one of the files that the table is made from')
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path.resolve(), 'wb') as file:  # not in place of a link, such as /dev/stdout
            file.write(content)
    except FileExistsError as error:
        raise UserError(f'--output {path}: {error.filename} is no folder') from error
    except OSError as error:
        raise UserError(f'--output {path}: cannot be written: {error.strerror}') from error


def print_summary(rows: Sequence[Row], places: int | None = None) -> None:
    """Prints how many models there are, the first of them, and the range of what counts most.

    Args:
        rows: at least one.
        places: decimal places of all numbers; None: each column's own.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='replace')  # a terminal that knows no Chinese
    first = rows[:FIRST]
    shown = Table(title=f'{len(rows)} models' + (f', the first {FIRST}' if len(rows) > FIRST else ''))
    for number, heading in enumerate([COLUMNS[0].name, *(row.name for row in first)]):
        shown.add_column(escape(heading), justify='right' if number else 'left', overflow='fold')
    for place, column in enumerate(COLUMNS[1:], 1):
        shown.add_row(escape(column.name), *(escape(cell_text(row.cells[place], column, places)) for row in first))
    spread = Table(title='Over all models')
    for number, heading in enumerate(['', 'models', 'min', 'max', 'mean']):
        spread.add_column(heading, justify='right' if number else 'left')
    for column in (column for column in COLUMNS if column.name in (*PPL, AVERAGE, STD)):
        values = [value for row in rows if isinstance(value := row.values.get(column.name), float)]
        finite = [value for value in values if math.isfinite(value)]
        numbers = [min(finite), max(finite), sum(value / len(finite) for value in finite)] if finite else [None] * 3
        count = str(len(finite)) + (f' ({len(values) - len(finite)} infinite)' if len(finite) < len(values) else '')
        spread.add_row(column.name, count, *(cell_text(number, column, places) for number in numbers))
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(shown, spread)
