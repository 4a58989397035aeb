"""A heat map of relative changes: rows by columns, a panel per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from vadslim.analysis.plots import to_png

if TYPE_CHECKING:
    from matplotlib.path import Path

CELL = (0.48, 0.2)  # inches
LINEAR = 0.01  # changes below it are shown by a linear scale, larger ones by a logarithmic one, up to 1


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Mapping[str, np.ndarray],
    title: str = '',
) -> bytes:
    """A PNG, as tall as it has to be for every row to be read.

    The colours mean the same in every picture: red is worse, blue better, from 1 % to 100 % by a logarithmic scale.
    Each cell tells its change in per cent.

    Args:
        rows: their names.
        columns: theirs.
        panels: title, of one or two lines -> (rows, columns) relative changes, 0.1 for 10 % worse; nan is drawn grey.
        title: above all.
    """
    from matplotlib import colormaps
    from matplotlib.collections import PathCollection
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator
    from matplotlib.transforms import Affine2D

    left = 0.3 + 1.03 * max((_length(row, 7) for row in rows), default=0.0)
    top, bottom, gap = 0.85, 0.95, 0.15
    heading = max((_length(line, 8) for name in panels for line in name.split('\n')), default=0.0)
    size = max(len(columns) * CELL[0], heading), len(rows) * CELL[1]  # of a panel
    width = left + len(panels) * (size[0] + gap) + 0.15
    width, height = max(width, left + 3.4, 0.2 + _length(title, 9)), top + size[1] + bottom
    figure = Figure(figsize=(width, height), facecolor='white')
    figure.text(0.1 / width, 1 - 0.2 / height, title, fontsize=9, va='center')
    norm = SymLogNorm(LINEAR, vmin=-1, vmax=1)
    points = Affine2D().scale(1 / 72) + figure.dpi_scale_trans
    colours = colormaps['RdBu_r'].with_extremes(bad='0.85')
    image = None
    for number, (name, changes) in enumerate(panels.items()):
        corner = left + number * (size[0] + gap)
        axes = figure.add_axes((corner / width, bottom / height, size[0] / width, size[1] / height))
        image = axes.imshow(np.clip(changes, -1, 1), cmap=colours, norm=norm, aspect='auto', interpolation='nearest')
        axes.set_title(name, fontsize=8)
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
        axes.set_yticks(range(len(rows)) if number == 0 else [], rows if number == 0 else [], fontsize=7)
        axes.tick_params(length=0)
        dark = colours(norm(np.clip(changes, -1, 1)))[..., :3] @ (0.3, 0.59, 0.11) < 0.5
        numbers = PathCollection(
            [_centred(percent(change)) for change in changes.flat],
            offsets=np.argwhere(np.ones_like(changes))[:, ::-1],
            offset_transform=axes.transData,
            transform=points,
            facecolors=np.where(dark, 'white', 'black').ravel(),
            linewidths=0,
        )
        axes.add_collection(numbers, autolim=False)  # thousands of texts would take many seconds
    if image is not None:
        axes = figure.add_axes((left / width, 0.5 / height, min(3.0, width - left - 0.3) / width, 0.12 / height))
        ticks = FixedLocator([-1, -0.1, -0.01, 0, 0.01, 0.1, 1])
        bar = figure.colorbar(image, cax=axes, orientation='horizontal', ticks=ticks)
        bar.minorticks_off()
        bar.ax.set_xticklabels(['-100', '-10', '-1', '0', '+1', '+10', '+100'], fontsize=7)
        bar.set_label('change in per cent: + and red are worse', fontsize=7)
    return to_png(figure, dpi=120)


@cache
def _centred(text: str) -> Path:
    """The outlines of a number, in points around its middle."""
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    outlines = TextPath((0, 0), text, size=6)
    box = outlines.get_extents()
    return outlines.transformed(Affine2D().translate(-(box.x0 + box.x1) / 2, -2.2))


def _length(text: str, size: float) -> float:
    """The width of a line of text, inches; ``size`` is in points."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text.strip() else 0.0


def percent(change: float) -> str:
    """A relative change in at most five characters."""
    if np.isnan(change):
        return 'nan'
    if abs(change) >= 9.995:
        return '>+999' if change > 0 else '<-999'
    if change == 0:
        return '0'
    return f'{100 * change:+.1f}' if abs(change) < 0.0995 else f'{100 * change:+.0f}'
