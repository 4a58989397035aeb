"""``analyze_results.py`` and ``visualize_pruning.py``: tables and pictures of runs of sparse training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vadslim.analysis.sparse_results import SparseRun, collect
from vadslim.analysis.sparse_summary import (
    Rows,
    by_level,
    cell_text,
    experiments,
    layers_of,
    levels_of,
    means,
    methods,
    remarks,
    to_csv,
    to_markdown,
)
from vadslim.cli import Parser, UserError, run, say
from vadslim.files import atomic_write

WIDTH = 180  # of tables that no terminal breaks
RUN_HELP = (
    'a folder with results.json, or with <state>checkpoint.pth.tar and <state>model_SA_best.pth.tar of the predecessor'
)
EPILOG = 'exit codes: 0 done; 2 a line says which file could not be read, or what is wrong; 130 interrupted'


def analyze(argv: Sequence[str] | None = None) -> int:
    """Runs ``analyze_results.py``; returns the exit code."""
    return run(_analyze, argv)


def visualize(argv: Sequence[str] | None = None) -> int:
    """Runs ``visualize_pruning.py``; returns the exit code."""
    return run(_visualize, argv)


def _analyze(argv: Sequence[str]) -> int:
    parser = Parser(
        prog='analyze_results.py',
        description='Compares runs of sparse training: a table, CSV files and two pictures. Runs of the same '
        'settings and other seeds are averaged: mean ± sample standard deviation (number of runs).',
        epilog=EPILOG,
    )
    parser.add_argument('runs', nargs='+', metavar='RUN', help=f'{RUN_HELP}; or a folder that holds such folders')
    parser.add_argument('--by-level', action='store_true', help='test accuracy and weights left, method by level')
    parser.add_argument('--markdown', action='store_true', help='print the tables as Markdown')
    parser.add_argument('--x-axis', choices=('log', 'linear'), default='log', help='of accuracy_over_weights.png (log)')
    _add_output(
        parser, 'experiment_comparison.png, accuracy_over_weights.png, experiments.csv, means.csv, by_level.csv'
    )
    options = parser.parse_args(argv)
    runs = _read(options.runs)
    grouped = methods(runs)
    tables = [experiments(runs), means(grouped), by_level(grouped)]
    several = any(len(method.runs) > 1 for method in grouped)
    shown = [tables[0], *([tables[1]] if several else []), *([tables[2]] if options.by_level else [])]
    _print_tables(shown, options.markdown)
    for line in remarks(runs, grouped):
        say(line)

    def draw() -> dict[str, bytes | None]:
        from vadslim.analysis.sparse_plots import comparison_picture, weights_picture

        return {
            'experiment_comparison.png': comparison_picture(grouped),
            'accuracy_over_weights.png': weights_picture(grouped, options.x_axis),
        }

    texts = dict(zip(('experiments.csv', 'means.csv', 'by_level.csv'), map(to_csv, tables)))
    _write(options.output_dir, draw, texts)
    return _say_problems(runs)


def _visualize(argv: Sequence[str]) -> int:
    parser = Parser(
        prog='visualize_pruning.py',
        description='Draws one run of sparse training level by level, and prints its levels.',
        epilog=EPILOG,
    )
    parser.add_argument('run', metavar='RUN', help=RUN_HELP)
    parser.add_argument('--layers', action='store_true', help='print what each layer has left, too')
    parser.add_argument('--markdown', action='store_true', help='print the tables as Markdown')
    _add_output(parser, 'sparsity_evolution.png, lambda.png, layer_density.png')
    options = parser.parse_args(argv)
    runs = _read([options.run])
    if len(runs) > 1:
        names = ', '.join(str(one.path) for one in runs[:3])
        raise UserError(f'{options.run}: holds {len(runs)} runs ({names} ...); name one')
    (one,) = runs
    for line in remarks(runs, []):
        say(line)
    _print_tables([levels_of(one), *([layers_of(one)] if options.layers else [])], options.markdown)

    def draw() -> dict[str, bytes | None]:
        from vadslim.analysis.sparse_plots import density_picture, evolution_picture, lambda_picture

        return {
            'sparsity_evolution.png': evolution_picture(one),
            'lambda.png': lambda_picture(one),
            'layer_density.png': density_picture(one),
        }

    _write(options.output_dir, draw, {})
    return _say_problems(runs)


def _add_output(parser: Parser, files: str) -> None:
    parser.add_argument('--output-dir', type=Path, default=Path(), metavar='OUT', help=f'for {files} (here)')


def _read(paths: Sequence[str]) -> list[SparseRun]:
    """Reads runs.

    Raises:
        UserError: none has a level.
    """
    runs = collect(paths, lambda place: say(f'reading {place}') if sys.stderr.isatty() else None)
    if not any(one.levels for one in runs):
        *before, last = remarks(runs, []) + [line for one in runs for line in one.problems]
        for line in before:
            say(f'error: {line}')
        raise UserError(last)
    return runs


def _print_tables(tables: Sequence[Rows], markdown: bool) -> None:
    if markdown:
        print('\n'.join(map(to_markdown, tables)))
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for table in tables:
        shown = Table(title=escape(table.title), title_justify='left')
        for column, text in zip(table.columns, table.is_text):
            shown.add_column(escape(column), justify='left' if text else 'right', overflow='fold')
        for row in table.rows:
            shown.add_row(*(escape(cell_text(cell, column)) for cell, column in zip(row, table.columns)))
        console.print(shown)


def _write(folder: Path, draw: Callable[[], Mapping[str, bytes | None]], texts: Mapping[str, str]) -> None:
    """Writes tables and pictures, each whole or not at all; says which there are no data for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with atomic_write(folder / name) as file:
                file.write(text)
        drawn = draw()
        for name, png in drawn.items():
            if png is not None:
                with atomic_write(folder / name, 'wb') as file:
                    file.write(png)
    except OSError as error:
        raise UserError(f'{folder}: cannot be written to: {error.strerror}') from error
    except ModuleNotFoundError as error:
        raise UserError(f'no picture can be made: {error.name} is not installed (pip install matplotlib)') from error
    for name in (name for name, png in drawn.items() if png is None):
        say(f'{name}: not drawn, nothing is known for it')
    say(f'written to {folder}: {", ".join([*texts, *(name for name, png in drawn.items() if png is not None)])}')


def _say_problems(runs: Sequence[SparseRun]) -> int:
    lines = [line for one in runs for line in one.problems]
    for line in lines:
        say(f'error: {line}')
    return 2 if lines else 0
