"""Pictures of a slimming, as PNG: widths of layers, and where the costs went.

Each function takes plain data and returns the file's bytes. Nothing here needs a screen or pyplot's global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from vadslim.analysis.numbers import human

if TYPE_CHECKING:  # these import torch, which not all pictures need
    from vadslim.analysis.layer_sizes import LayerSize, PartSize

BEFORE, AFTER, TEXT, GRID = '#c9d1da', '#12718f', '#1c2733', '#e4e8ec'
LINES = ('#12718f', '#c2571a', '#5b8c2a', '#8a4fa3', '#3c4f9e', '#7a6a58')
DPI = 140


def widths_picture(layers: Sequence[LayerSize], parts: Sequence[str]) -> bytes:
    """The output width of each layer before and after, in the network's order; norms are as wide as what they follow.

    Args:
        layers: of ``layer_sizes``.
        parts: of ``parts``; they are named under the layers, where there is room.
    """
    shown = [layer for layer in layers if 'Norm' not in layer.kind]
    figure, axes = new_figure(11, 4.4)
    edges = range(len(shown) + 1)
    for color, name, widths in (
        (BEFORE, 'before', [layer.width_out_before for layer in shown]),
        (AFTER, 'after', [layer.width_out_after for layer in shown]),
    ):
        axes.stairs(widths, edges, fill=True, color=color, label=name, linewidth=0)
    axes.set_xlim(0, max(len(shown), 1))
    axes.set_ylim(0, 1.08 * max((layer.width_out_before for layer in shown), default=1))
    axes.set_ylabel('width (channels, features)')
    axes.set_xticks([])
    axes.grid(axis='y', color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    _name_parts(axes, [layer.name for layer in shown], parts)
    figure.suptitle(f'Width of {len(shown)} layers', x=0.01, ha='left', fontweight='bold')
    figure.legend(*axes.get_legend_handles_labels(), loc='upper right', ncols=2, frameon=False)
    return to_png(figure)


def _name_parts(axes: Any, layers: Sequence[str], parts: Sequence[str]) -> None:
    """Borders between the parts of the network below the axis, and the names that fit."""
    from vadslim.analysis.layer_sizes import Belonging

    belongs = Belonging(parts)
    runs: list[tuple[str, int, int]] = []
    for number, layer in enumerate(layers):
        part = belongs(layer)
        if runs and runs[-1][0] == part:
            runs[-1] = (part, runs[-1][1], number + 1)
        else:
            runs.append((part, number, number + 1))
    room, last = len(layers) / 36, float('-inf')  # of a slanted label
    below = axes.get_xaxis_transform()
    for part, start, stop in runs:
        axes.plot([start, start], [0, -0.03], color='#8a949e', linewidth=0.8, transform=below, clip_on=False)
        middle = (start + stop) / 2
        if part and middle - last >= room:
            style = {'rotation': 28, 'ha': 'right', 'va': 'top', 'rotation_mode': 'anchor', 'fontsize': 8}
            axes.text(middle, -0.04, short(part), transform=below, **style)
            last = middle


def title_of(parts: Sequence[str]) -> dict[str, str]:
    """part -> what it is called; one that others were taken out of is the rest of it."""
    divided = {part for part in parts if part and any(other.startswith(f'{part}.') for other in parts)}
    return {part: f'{part}, the rest' if part in divided else part or 'the rest' for part in parts}


def short(name: str, most: int = 30) -> str:
    """The end of a long dotted name."""
    return name if len(name) <= most else f'…{name[1 - most :]}'


def parts_picture(parts: Sequence[PartSize], cost: str) -> bytes:
    """Where a cost went: a bar before and after for each part of the network that has half a per cent of it.

    Args:
        parts: of ``part_sizes``.
        cost: 'params', 'macs' or 'ms'; every part has it.
    """
    from matplotlib.patches import Patch

    title = {'params': 'Parameters', 'macs': 'MACs', 'ms': 'Latency, timed part by part'}[cost]
    names = title_of([part.name for part in parts])
    rows = [(names[part.name], *getattr(part, cost)) for part in parts]
    totals = [sum(row[side] for row in rows) for side in (1, 2)]
    rows = [row for row in rows if max(row[1:]) > 0.005 * max(totals)]
    longest = max((max(before, after) for _, before, after in rows), default=1) or 1
    height = 0.85 + 0.46 * max(len(rows), 1)
    figure, axes = new_figure(5.6, height, layout=None)
    axes.set_position((0.015, 0.0, 0.97, 1 - 0.65 / height))
    for number, (name, before, after) in enumerate(rows):
        axes.barh(number, before, height=0.36, color=BEFORE)
        axes.barh(number, after, height=0.2, color=AFTER)  # both can be seen where the part got slower
        left = f' ({after / before:.0%})' if before else ''
        numbers = f'{_value(before, cost)} → {_value(after, cost)}{left}'
        axes.text(0, number - 0.26, short(name, 40), va='bottom', fontsize=9)
        axes.text(longest, number - 0.26, numbers, va='bottom', ha='right', fontsize=9)
    axes.set_ylim(max(len(rows), 1) - 0.7, -0.75)
    axes.set_xlim(0, longest)
    axes.axis('off')
    of_all = f'{_value(totals[0], cost)} → {_value(totals[1], cost)}'
    figure.suptitle(f'{title}: {of_all}', x=0.015, y=1 - 0.1 / height, ha='left', fontweight='bold')
    boxes = [Patch(color=BEFORE, label='before'), Patch(color=AFTER, label='after')]
    where = {'loc': 'upper right', 'bbox_to_anchor': (0.99, 1 - 0.26 / height), 'borderpad': 0.0}
    figure.legend(handles=boxes, ncols=2, frameon=False, fontsize=9, handlelength=1.6, **where)
    return to_png(figure)


def _value(number: float, cost: str) -> str:
    return f'{number:.1f} ms' if cost == 'ms' else human(number)


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    layout: Literal['constrained'] | None = 'constrained',
) -> tuple[Any, Any]:
    """A figure of inches with its axes (an array if there are several), without the borders that say nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    axes = figure.subplots(rows, columns)
    for one in [axes] if rows * columns == 1 else axes.flat:
        one.spines[['top', 'right']].set_visible(False)
        one.tick_params(colors=TEXT)
    return figure, axes


def to_png(figure: Any, dpi: int = DPI) -> bytes:
    """The file of a figure; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=dpi, metadata={'Software': None})
    return file.getvalue()
