"""Pictures of sparse training, as PNG: methods side by side, and one run level by level.

Each function takes what ``sparse_results`` and ``sparse_summary`` give and returns the file's bytes. Colours are
those of Okabe and Ito, which colour-blind people tell apart; marks and dashes differ as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vadslim.analysis.plots import BEFORE, GRID, TEXT, new_figure, short, to_png
from vadslim.analysis.sparse_results import SparseRun
from vadslim.analysis.sparse_summary import Method, Spread, dense_methods, layer_name

BLUE, ORANGE, GREEN, RED = '#0072b2', '#e69f00', '#009e73', '#d55e00'
COLOURS = (RED, BLUE, GREEN, '#cc79a7', ORANGE, '#56b4e9', '#7a6a58')
MARKS, DASHES = 'osD^vP', ('-', '--', '-.', ':')
SMALL = 8  # points, of numbers beside bars and of legends
#: Digits of the numbers along a logarithmic axis; the first that give enough numbers are taken.
DIGITS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 2, 3, 4, 5, 6, 7, 8, 9), tuple(0.5 * half for half in range(2, 20)))


def comparison_picture(of_all: Sequence[Method]) -> bytes | None:
    """Bars of the test accuracy at the last level, a line at that of the dense network; None if no accuracy is known.

    A bar's whisker is the standard deviation. The axis begins at 0, or where it is said if all accuracies are far
    from it.
    """
    shown = [(method, method.at(method.last, 'test')) for method in of_all if method.last is not None]
    bars = [(method, test) for method, test in shown if test is not None]
    if not bars:
        return None
    panels = list(dict.fromkeys(method.panel for method, _ in bars))
    rows = [sum(method.panel == panel for method, _ in bars) for panel in panels]
    names = [_bar_name(method) for method, _ in bars]
    left = 0.4 + 0.068 * max(map(len, names))
    width, height = left + 5.6, 0.5 + 1.0 * len(panels) + 0.42 * len(bars)
    figure, axes = new_figure(width, height, len(panels), 1)
    if len(panels) > 1:
        figure.get_layout_engine().set(hspace=0.06)
        axes[0].get_subplotspec().get_gridspec().set_height_ratios([count + 0.6 for count in rows])
    for axis, panel in zip([axes] if len(panels) == 1 else axes, panels):
        _bars(axis, panel, [bar for bar in bars if bar[0].panel == panel])
    figure.suptitle('Test accuracy at the last level', x=0.01, ha='left', fontweight='bold')
    return to_png(figure)


def _bar_name(method: Method) -> str:
    return f'{short(method.label, 48)}\nlevel {method.last}'


def _bars(axes: Any, panel: str, bars: list[tuple[Method, Spread]]) -> None:
    own = [method.at(0, 'test') for method, _ in bars]  # of the dense networks that each method began with
    least = min([test.mean - (test.std or 0) for _, test in bars] + [dense.mean for dense in own if dense])
    start = 0.0 if least < 50 else float(5 * ((least - 4) // 5))
    for place, ((method, test), dense) in enumerate(zip(bars, own)):
        axes.barh(place, test.mean - start, left=start, height=0.62, color=BLUE, alpha=0.55, linewidth=0)
        if test.std is not None:
            axes.errorbar(test.mean, place, xerr=test.std, color=TEXT, capsize=3, linewidth=1)
        remain = method.at(method.last or 0, 'remain')
        left = '' if remain is None else f' at {remain.mean:.3g} % of the weights'
        axes.text(1.01, place, f'{test}{left}', va='center', fontsize=SMALL, transform=axes.get_yaxis_transform())
        if dense is not None:
            axes.plot([dense.mean] * 2, [place - 0.5, place + 0.5], color=RED, linewidth=1.4, linestyle='--')
    axes.set_yticks(range(len(bars)), [_bar_name(method) for method, _ in bars], fontsize=SMALL)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(start, 100)
    axes.tick_params(axis='y', length=0)
    axes.grid(axis='x', color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(panel, loc='left', fontsize=10)
    axes.set_xlabel(f'test accuracy, %{f": the axis begins at {start:.0f}" if start else ""}', fontsize=SMALL)
    if any(own):
        values = {str(dense) for dense in own}
        axes.set_title(
            f'dashed: dense{f", {own[0]}" if len(values) == 1 else ""}', loc='right', fontsize=SMALL, color=RED
        )


def weights_picture(of_all: Sequence[Method], scale: Literal['log', 'linear'] = 'log') -> bytes | None:
    """Test accuracy over the weights that are left, a panel per network and data set; None if there is no level.

    Marks are means over seeds, whiskers standard deviations, the dashed line and its band the dense networks. Methods
    stand a little beside each other, so that no whisker hides another; the first is at its place.
    """
    panels = list(dict.fromkeys(method.panel for method in of_all if _points(method)))
    if not panels:
        return None
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(0.4 + 5.0 * columns, 0.5 + 4.4 * rows, rows, columns)
    axes = list(axes.flat) if rows * columns > 1 else [axes]
    structs = list(dict.fromkeys(method.label for method in of_all if _points(method)))
    for axis, panel in zip(axes, panels):
        of_panel = [method for method in of_all if method.panel == panel]
        dense = _dense(axis, dense_methods(of_panel))
        lines = [(method, points) for method in of_panel if (points := _points(method))]
        for place, (method, points) in enumerate(lines):
            _line(axis, method, points, structs.index(method.label), 3.5 * place)
        _weights_axis(axis, min(remain for _, points in lines for remain, _ in points), scale)
        _accuracy_axis(axis, dense + [test for _, points in lines for _, test in points])
        axis.set_ylabel('test accuracy, %')
        axis.set_title(panel, loc='left', fontsize=10)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        longest = max((len(label) for label in axis.get_legend_handles_labels()[1]), default=0)
        below = {'loc': 'upper left', 'bbox_to_anchor': (0, -0.15), 'ncols': 2 if longest < 34 else 1}
        axis.legend(frameon=False, fontsize=SMALL, **below)
    for axis in axes[len(panels) :]:
        axis.axis('off')
    figure.suptitle('Test accuracy over weights left', x=0.01, ha='left', fontweight='bold')
    return to_png(figure)


def _dense(axes: Any, dense: Sequence[Method]) -> list[Spread]:
    """A line and a band for each way in which dense networks were trained."""
    tests = [(method.label, test) for method in dense if (test := method.at(0, 'test')) is not None]
    for place, (label, test) in enumerate(tests):
        style = {'color': TEXT, 'linewidth': 1.2, 'linestyle': ('--', ':', '-.')[place % 3], 'zorder': 1}
        axes.axhline(test.mean, label=f'{short(label, 60)}: {test}', **style)
        if test.std:
            axes.axhspan(test.mean - test.std, test.mean + test.std, color=BEFORE, alpha=0.4, linewidth=0)
    return [test for _, test in tests]


def _accuracy_axis(axes: Any, tests: Sequence[Spread]) -> None:
    """Room for every whisker: a line beside its place does not count for Matplotlib."""
    least = min(test.mean - (test.std or 0) for test in tests)
    most = max(test.mean + (test.std or 0) for test in tests)
    room = max(0.05 * (most - least), 0.1)
    axes.set_ylim(least - room, most + room)


def _line(axes: Any, method: Method, points: list[tuple[float, Spread]], place: int, beside: float) -> None:
    """A method's line, some points (1/72 inch) to the right of its place."""
    from matplotlib.transforms import ScaledTranslation

    style: dict[str, Any] = {'color': COLOURS[place % len(COLOURS)], 'marker': MARKS[place % len(MARKS)]}
    style |= {'linestyle': DASHES[place % len(DASHES)], 'markersize': 5, 'linewidth': 1.5, 'capsize': 2.5}
    counts = sorted({test.n for _, test in points})
    seeds = f'{counts[0]}' if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'
    label = short(method.label, 60) + (f' ({seeds} runs)' if counts[-1] > 1 else '')
    xs, ys = [remain for remain, _ in points], [test.mean for _, test in points]
    errors = [test.std or 0 for _, test in points]
    moved = axes.transData + ScaledTranslation(beside / 72, 0, axes.figure.dpi_scale_trans)
    axes.errorbar(xs, ys, errors if any(errors) else None, elinewidth=1, label=label, transform=moved, **style)


def _points(method: Method) -> list[tuple[float, Spread]]:
    """(weights left, test accuracy) of the levels where both are known; none if only the dense level is."""
    found = []
    for number in method.levels:
        remain, test = method.at(number, 'remain'), method.at(number, 'test')
        if remain is not None and remain.mean > 0 and test is not None:
            found.append((remain.mean, test))
    return found if any(method.levels) else []


def _weights_axis(axes: Any, least: float, scale: str) -> None:
    """From 100 % down, with plain numbers."""
    axes.set_xlabel(f'weights left, %{" (log scale)" if scale == "log" else ""}')
    if scale == 'linear':
        axes.set_xlim(103, min(least - 3, 95))
        return
    axes.set_xscale('log')
    axes.set_xlim(108, least / 1.15)
    for digits in DIGITS:
        candidates = (digit * 10.0**power for power in range(-3, 3) for digit in digits)
        ticks = [tick for tick in candidates if least / 1.15 <= tick <= 100]
        if len(ticks) > 4:
            break
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.minorticks_off()


# --- one run ------------------------------------------------------------------------------------------------


def evolution_picture(run: SparseRun) -> bytes | None:
    """Weights left (left axis) and accuracies (right axis) over the levels; None if neither is known."""
    levels = [level.level for level in run.levels]
    curves: list[tuple[str, str, str, str, str]] = [
        ('remain', 'weights left', BLUE, 'o', '-'),
        ('remain_element', 'weights left, element-wise mask', '#56b4e9', '^', ':'),
        ('test', 'test accuracy at the best validation', RED, 's', '-'),
        ('val', 'validation accuracy, best', ORANGE, 'D', '--'),
    ]
    known = [curve for curve in curves if any(getattr(level, curve[0]) is not None for level in run.levels)]
    if not known:
        return None
    figure, left = new_figure(8.6, 4.8)
    right = left.twinx()
    right.spines['top'].set_visible(False)
    handles = []
    for name, label, colour, mark, dash in known:
        values = [_or_nan(getattr(level, name)) for level in run.levels]
        axes = left if 'remain' in name else right
        style = {'color': colour, 'marker': mark, 'linestyle': dash, 'markersize': 5, 'clip_on': False}
        handles += axes.plot(levels, values, label=f'{label} ({"left" if axes is left else "right"})', **style)
    left.set_xlim(min(levels) - 0.5, max(levels) + 0.5)
    named = levels[:: 1 + len(levels) // 26]
    left.set_xticks(named, [f'{level}\n{"dense" if level == 0 else ""}' for level in named])
    left.set_ylim(0, 105)
    left.set_ylabel('weights left, %', color=BLUE)
    left.tick_params(axis='y', colors=BLUE)
    right.set_ylabel('accuracy, %', color=RED)
    right.tick_params(axis='y', colors=RED)
    accuracies = [value for level in run.levels for value in (level.test, level.val) if value is not None]
    if accuracies:
        room = max(0.1 * (max(accuracies) - min(accuracies)), 0.5)
        right.set_ylim(max(min(accuracies) - room, 0), max(accuracies) + room)
    left.set_xlabel('level')
    left.grid(axis='x', color=GRID, linewidth=0.8)
    left.set_axisbelow(True)
    figure.legend(handles=handles, loc='outside lower left', ncols=2, frameon=False, fontsize=SMALL)
    figure.suptitle(f'{short(run.name, 60)}: sparsity and accuracy', x=0.01, ha='left', fontweight='bold')
    return to_png(figure)


def lambda_picture(run: SparseRun) -> bytes | None:
    """RSST's factor over the epochs of all levels, one after the other; None if none has one above 0."""
    values: list[float] = []
    starts: list[tuple[int, int]] = []
    for level in run.levels:
        if level.epochs:
            starts.append((len(values), level.level))
            values += [_or_nan(epoch.reg_lambda) for epoch in level.epochs]
    if not np.nanmax([*values, 0.0]) > 0:
        return None
    figure, axes = new_figure(8.6, 3.8)
    mark = {'marker': 'o', 'markersize': 3} if len(values) < 120 else {}
    ends = [start for start, _ in starts[1:]] + [len(values)]
    for number, ((start, name), end) in enumerate(zip(starts, ends)):
        # epochs count from 1, a level begins half an epoch before its first; no line joins two levels
        axes.plot(range(start + 1, end + 1), values[start:end], color=RED, linewidth=1.5, **mark)
        if number % 2:
            axes.axvspan(start + 0.5, end + 0.5, color=GRID, alpha=0.6, linewidth=0, zorder=0)
        if number % (1 + len(starts) // 25) == 0:
            where = axes.get_xaxis_transform()
            axes.text(
                (start + end + 1) / 2, 1.015, str(name), ha='center', va='bottom', fontsize=SMALL, transform=where
            )
    axes.text(-0.01, 1.015, 'level', ha='right', va='bottom', fontsize=SMALL, transform=axes.transAxes)
    axes.set_xlim(0.5, len(values) + 0.5)
    axes.set_ylim(0, 1.06 * float(np.nanmax(values)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel('epoch of the whole training')
    axes.set_ylabel('lambda at the end of the epoch')
    axes.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
    axes.grid(axis='y', color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    title = f'{short(run.name, 60)}: penalty of the weights that leave'
    figure.suptitle(title, x=0.01, ha='left', fontweight='bold')
    return to_png(figure)


def density_picture(run: SparseRun) -> bytes | None:
    """A heat map of layers by levels, as large as every name and number needs; None if no layer's density is known."""
    from matplotlib import colormaps

    layers = list(dict.fromkeys(layer for level in run.levels for layer in level.density))
    if not layers:
        return None
    names = [layer_name(layer) for layer in layers]
    cells = np.array([[100 * _or_nan(level.density.get(layer)) for level in run.levels] for layer in layers])
    wide = 0.5 * len(run.levels)
    width, height = max(0.5 + 0.072 * max(map(len, names)) + wide + 0.9, 4.8), 1.25 + 0.2 * len(layers)
    figure, axes = new_figure(width, height)
    colours = colormaps['cividis'].with_extremes(bad='0.85')
    image = axes.imshow(cells, cmap=colours, vmin=0, vmax=100, aspect='auto', interpolation='nearest')
    for row, column in np.argwhere(~np.isnan(cells)):
        value = cells[row, column]
        colour = 'black' if value > 45 else 'white'
        axes.text(column, row, _digits(value), ha='center', va='center', fontsize=7, color=colour)
    remains = ['' if level.remain is None else _digits(level.remain) for level in run.levels]
    axes.set_xticks(range(len(remains)), [f'{a.level}\n{b}' for a, b in zip(run.levels, remains)], fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel('level, and weights left of all layers, %', fontsize=SMALL)
    if len(layers) > 5:  # a lower one would be a speck; the cells have numbers
        figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, aspect=30).ax.tick_params(labelsize=7)
    title = f'{short(run.name, 40)}\nweights left of each layer, %'
    figure.suptitle(title, x=0.01, ha='left', fontweight='bold', fontsize=9)
    return to_png(figure)


def _digits(value: float) -> str:
    """A per cent in at most four characters."""
    return f'{value:.0f}' if value >= 99.95 or value == 0 else f'{value:.1f}' if value >= 0.995 else f'{value:.2f}'


def _or_nan(value: float | None) -> float:
    return float('nan') if value is None else value
