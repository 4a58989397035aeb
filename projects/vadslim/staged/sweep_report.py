"""What a sweep has found: a table, a CSV file, and a picture of the metric over the values."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vadslim.cli import UserError, say
from vadslim.files import atomic_write
from vadslim.staged.sweep import labels
from vadslim.staged.sweep_run import Outcome, Run

TABLE, PICTURE = 'sweep.csv', 'sweep.png'


def report(runs: Sequence[Run], outcomes: Sequence[Outcome], save_dir: Path, metric: str | None) -> None:
    """Print the table, and write ``sweep.csv`` and ``sweep.png`` to the sweep's folder.

    Raises:
        UserError: there is no such metric, or a file cannot be written.
    """
    results = [outcome.result for outcome in outcomes]
    title, values = metric_of(results, metric)
    _print(runs, outcomes, title, values)
    written = [save_dir / TABLE]
    try:
        with atomic_write(save_dir / TABLE) as file:
            csv.writer(file, lineterminator='\n').writerows(rows(runs, outcomes, title, values))
        if any(value is not None for value in values):
            with atomic_write(save_dir / PICTURE, 'wb') as file:
                file.write(picture([one.values for one in runs], values, title))
            written.append(save_dir / PICTURE)
    except OSError as error:
        raise UserError(f'{error.filename or save_dir}: cannot be written: {error.strerror}') from None
    say(f'written: {", ".join(map(str, written))}')
    if runs[0].tensorboard:
        say(f'curves: tensorboard --logdir {runs[0].tensorboard}')


def metric_of(results: Sequence[Mapping[str, Any]], name: str | None) -> tuple[str, list[float | None]]:
    """Choose what the points are compared by.

    Args:
        results: of each point, as :class:`Outcome` has them.
        name: of a metric; None: the one that chose the best checkpoint, or the first of the last validation.

    Returns:
        What it is called, and each point's value, None where there is none.

    Raises:
        UserError: no point has a metric of this name.
    """
    best = next((result['best_name'] for result in results if result.get('best_name')), None)
    known = list(dict.fromkeys(key for result in results for key in result.get('metrics') or ()))
    if name is not None and known and name not in known:
        raise UserError(f'--metric {name}: the last stage has {", ".join(known)}')
    name = name or best or next(iter(known), None)
    if not known:
        return name or 'metric', [None for _ in results]
    stage = next(result['stage'] for result in results if result.get('stage'))
    if name == best:
        values = [result.get('best') for result in results]
        return f'{stage}: {name}, best', values
    return f'{stage}: {name}, last', [(result.get('metrics') or {}).get(name) for result in results]


def rows(
    runs: Sequence[Run], outcomes: Sequence[Outcome], title: str, values: Sequence[float | None]
) -> list[list[Any]]:
    """The CSV file: a header, then a line for each point, with all metrics of its last validation."""
    keys = list(runs[0].values)
    metrics = dict.fromkeys(key for outcome in outcomes for key in outcome.result.get('metrics', ()))
    found: list[list[Any]] = [['point', *keys, 'state', title, *metrics, 'seconds', 'folder']]
    for one, outcome, value in zip(runs, outcomes, values):
        result = outcome.result
        numbers = [result.get('metrics', {}).get(key) for key in metrics]
        state = 'failed' if outcome.problem else 'done'
        settings = [one.values[key] for key in keys]
        found.append([one.name, *settings, state, value, *numbers, result.get('seconds'), str(one.folder)])
    return found


def _print(runs: Sequence[Run], outcomes: Sequence[Outcome], title: str, values: Sequence[float | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title='Sweep', title_justify='left')
    for key in runs[0].values:
        table.add_column(key, overflow='fold')
    for column in (title, 'seconds'):
        table.add_column(column, justify='right', overflow='fold')
    for one, outcome, value in zip(runs, outcomes, values):
        shown = 'failed' if outcome.problem else '' if value is None else f'{value:.4g}'
        seconds = outcome.result.get('seconds')
        table.add_row(*one.values.values(), shown, '' if seconds is None else f'{seconds:.0f}')
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def picture(points: Sequence[Mapping[str, str]], values: Sequence[float | None], title: str) -> bytes:
    """Draw the metric over the values of the key that has most numbers; each combination of the others is a line.

    Args:
        points: dotted key -> text, of each point.
        values: of each point; those without one are left out.
        title: what the values are.

    Returns:
        A PNG file.
    """
    from vadslim.analysis.plots import GRID, LINES, new_figure, short, to_png

    names = labels(list(points[0]))
    varied = [key for key in points[0] if len({point[key] for point in points}) > 1] or list(points[0])
    numbers = {key: [_number(point[key]) for point in points] for key in varied}
    across = max(varied, key=lambda key: (None not in numbers[key], len(set(numbers[key]))))
    texts = list(dict.fromkeys(point[across] for point in points))
    numeric = None not in numbers[across]
    lines: dict[str, list[tuple[float, float]]] = {}
    for point, value in zip(points, values):
        place = _number(point[across]) if numeric else float(texts.index(point[across]))
        if value is not None and place is not None:
            label = ', '.join(f'{names[key]} {point[key]}' for key in varied if key != across)
            lines.setdefault(label, []).append((place, value))
    figure, axes = new_figure(7.2, 4.2)
    for number, (label, line) in enumerate(lines.items()):
        xs, ys = zip(*sorted(line))
        turn = number // len(LINES) % 3
        style = ('-', '--', ':')[turn] if numeric else 'none'  # words have no order
        axes.plot(xs, ys, linestyle=style, marker='os^'[turn], color=LINES[number % len(LINES)], label=label)
    places = [place for line in lines.values() for place, _ in line]
    above = [place for place in places if place > 0]
    if numeric and above and min(places) >= 0 and max(above) >= 8 * min(above):
        axes.set_xscale('symlog', linthresh=min(above)) if min(places) == 0 else axes.set_xscale('log')
    if not numeric:
        slanted = {'rotation': 20, 'ha': 'right'} if sum(map(len, texts)) > 60 else {}
        axes.set_xticks(range(len(texts)), [short(text) for text in texts], **slanted)
        axes.set_xlim(-0.5, len(texts) - 0.5)
    elif len(set(places)) <= 8:
        axes.set_xticks(sorted(set(places)), [f'{place:g}' for place in sorted(set(places))])
        axes.minorticks_off()
    axes.set_xlabel(across)
    axes.set_ylabel(title)
    axes.grid(color=GRID, linewidth=0.8)
    if any(lines):
        beside = {'loc': 'upper left', 'bbox_to_anchor': (1, 1)} if len(lines) > 4 else {}
        axes.legend(frameon=False, fontsize=8, **beside)
    return to_png(figure)


def _number(text: str) -> float | None:
    from vadslim.staged.yaml_files import read_scalar

    try:
        value = read_scalar(text)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
