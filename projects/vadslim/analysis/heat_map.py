"""A heat map of relative changes: rows by columns, a panel per metric."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vadslim.checkpoint import atomic_write

CELL = (0.48, 0.2)  # inches
LINEAR = 0.01  # changes below it are shown by a linear scale, larger ones by a logarithmic one, up to 1


def draw_heat_map(
    path: str | os.PathLike[str],
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Mapping[str, np.ndarray],
    title: str = '',
) -> None:
    """Writes a PNG, as tall as it has to be for every row to be read.

    The colours mean the same in every picture: red is worse, blue better, from 1 % to 100 % by a logarithmic scale.
    Each cell tells its change in per cent.

    Args:
        path: the picture.
        rows: their names.
        columns: theirs.
        panels: title -> (rows, columns) relative changes, 0.1 for 10 % worse; nan is drawn grey.
        title: above all.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    left = 0.3 + 0.068 * max(map(len, rows), default=0)
    top, bottom, gap = 0.75, 0.95, 0.15
    heading = 0.07 * max(map(len, panels), default=0)
    size = max(len(columns) * CELL[0], heading), len(rows) * CELL[1]  # of a panel
    width = left + len(panels) * (size[0] + gap) + 0.15
    width, height = max(width, left + 3.4, 0.25 + 0.075 * len(title)), top + size[1] + bottom
    figure = Figure(figsize=(width, height), facecolor='white')
    FigureCanvasAgg(figure)
    figure.text(0.1 / width, 1 - 0.2 / height, title, fontsize=9, va='center')
    norm = SymLogNorm(LINEAR, vmin=-1, vmax=1)
    colours = colormaps['RdBu_r'].with_extremes(bad='0.85')
    image = None
    for number, (name, changes) in enumerate(panels.items()):
        corner = left + number * (size[0] + gap)
        axes = figure.add_axes((corner / width, bottom / height, size[0] / width, size[1] / height))
        image = axes.imshow(np.clip(changes, -1, 1), cmap=colours, norm=norm, aspect='auto', interpolation='nearest')
        axes.set_title(name, fontsize=8)
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
        axes.set_yticks(range(len(rows)), rows if number == 0 else [], fontsize=7)
        axes.tick_params(length=0)
        for (row, column), change in np.ndenumerate(changes):
            strong = abs(change) > 0.09  # the colour is dark
            axes.text(column, row, percent(change), color='white' if strong else 'black', **_CENTRED)
    if image is not None:
        axes = figure.add_axes((left / width, 0.5 / height, min(3.0, width - left - 0.3) / width, 0.12 / height))
        ticks = FixedLocator([-1, -0.1, -0.01, 0, 0.01, 0.1, 1])
        bar = figure.colorbar(image, cax=axes, orientation='horizontal', ticks=ticks)
        bar.minorticks_off()
        bar.ax.set_xticklabels(['-100', '-10', '-1', '0', '+1', '+10', '+100'], fontsize=7)
        bar.set_label('change in per cent: red is worse', fontsize=7)
    with atomic_write(path, 'wb') as file:
        figure.savefig(file, format='png', dpi=120, metadata={'Software': None})


_CENTRED: dict[str, Any] = {'fontsize': 6, 'ha': 'center', 'va': 'center'}


def percent(change: float) -> str:
    """A relative change in at most five characters."""
    if np.isnan(change):
        return 'nan'
    if abs(change) >= 9.995:
        return '>+999' if change > 0 else '<-999'
    if change == 0:
        return '0'
    return f'{100 * change:+.1f}' if abs(change) < 0.0995 else f'{100 * change:+.0f}'
