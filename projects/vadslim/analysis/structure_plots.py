"""Pictures of analysed models, as PNG: what each layer has left, method by method, and models side by side.

Each function takes models as ``structure_summary`` has them and returns the file's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vadslim.analysis.model_comparison import compare_structures
from vadslim.analysis.numbers import human
from vadslim.analysis.plots import AFTER, BEFORE, GRID, LINES, new_figure, short, to_png
from vadslim.analysis.structure_summary import PARTS, Model, layers_of, ratio_of, summarize, total_of

PANELS = {'ratio': 'whole layers', 'attention_ratio': 'attention', 'mlp_ratio': 'MLP'}
MOST_LINES = 5  # of models in one panel; more are rows of a heat map
MARKS = 'os^Dv'
#: what a layer is counted as; the first that holds
KINDS = {'empty or gone': '#b3262e', 'heavy (> 80 % removed)': '#e69f00', 'between': BEFORE, 'light (< 20 %)': AFTER}
SMALL = 8  # points


def retention_picture(models: Sequence[Model]) -> bytes | None:
    """What the layers of each model have left, attention and MLP apart; None if no model was compared.

    A line for each of a few models, else a row of a heat map. Layers of which nothing tells where they were are not
    in it.
    """
    shown = _sorted(model for model in models if model['has_comparison'] and model['layers'])
    panels = {key: name for key, name in PANELS.items() if any(_left(model, key) for model in shown)}
    if not panels:
        return None
    return _lines(shown, panels) if len(shown) <= MOST_LINES else _heat_maps(shown, panels)


def comparison_picture(models: Sequence[Model]) -> bytes | None:
    """Bars of the parameters that each model has left, and of how many of its layers are empty, heavy, light.

    None if there is no model.
    """
    shown = _sorted(models)
    if not shown:
        return None
    names = [short(model['name'], 44) for model in shown]
    left = 0.35 + 0.07 * max(map(len, names))
    height = 1.35 + 0.26 * len(shown)
    compared = any(model['has_comparison'] for model in shown)
    figure, axes = new_figure(left + (9.0 if compared else 5.5), height, 1, 2 if compared else 1)
    params, layers = axes if compared else (axes, None)
    originals = [model['pruning']['original_params'] if model['has_comparison'] else 0 for model in shown]
    totals = [total_of(model) for model in shown]
    most = max(*originals, *totals, 1)
    places = range(len(shown))
    params.barh(places, originals, height=0.72, color=BEFORE)
    params.barh(places, totals, height=0.42, color=AFTER)
    for place, model in enumerate(shown):
        ratio = ratio_of(model)
        text = human(total_of(model)) + ('' if ratio is None else f', {ratio:.1%} removed')
        params.text(1.02 * max(originals[place], totals[place]), place, text, va='center', fontsize=SMALL)
    params.set_xlim(0, 1.52 * most)
    params.set_xticks([])
    params.spines['bottom'].set_visible(False)
    params.set_title('parameters' + (', grey: of the original' if compared else ''), loc='left', fontsize=10)
    _name_rows(params, names)
    if layers is not None:
        _count_layers(layers, shown)
    figure.suptitle(f'{len(shown)} models' if len(shown) > 1 else names[0], x=0.01, ha='left', fontweight='bold')
    return to_png(figure)


def layers_picture(model: Model) -> bytes | None:
    """The parameters of each layer of one model, by parts; None if it has no layers."""
    layers = model['layers']
    if not layers:
        return None
    figure, axes = new_figure(10, 4)
    below = [0] * len(layers)
    colours = (LINES[0], LINES[1], LINES[2], LINES[3], BEFORE)
    for part, colour in zip(PARTS, colours):
        counts = [layer[part] or 0 for layer in layers]
        if any(counts):
            label = 'MLP' if part == 'mlp' else part
            axes.bar(range(len(layers)), counts, bottom=below, width=0.86, color=colour, label=label, linewidth=0)
            below = [a + b for a, b in zip(below, counts)]
    axes.set_xlim(-0.8, len(layers) - 0.2)
    axes.set_ylim(0, 1.05 * max(*below, 1))
    axes.set_xlabel('layer')
    axes.yaxis.set_major_formatter(lambda value, _: human(value))
    _whole_numbers(axes)
    axes.grid(axis='y', color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    title = f'{short(model["name"], 60)}: parameters of its {len(layers)} layers'
    figure.suptitle(title, x=0.01, ha='left', fontweight='bold')
    if any(below):
        figure.legend(*axes.get_legend_handles_labels(), loc='upper right', ncols=5, frameon=False, fontsize=SMALL)
    return to_png(figure)


def pictures_of(model: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, bytes]:
    """Pictures of one model by file name; its structure and the original's are as their JSON files have them."""
    comparison = None if base is None else compare_structures(base, model)
    one = summarize(model['model_name'], model, comparison)
    drawn = {'layer_parameters.png': layers_picture(one), 'layer_retention.png': retention_picture([one])}
    return {name: png for name, png in drawn.items() if png is not None}


def _sorted(models: Any) -> list[Model]:
    return sorted(models, key=lambda model: (-total_of(model), model['name']))


def _left(model: Model, key: str) -> list[tuple[int, float]]:
    """(layer, fraction left) of the layers that had any."""
    return [(layer['layer_idx'], 1 - layer[key]) for layer in model['layers'] if layer[key] is not None]


def _lines(models: Sequence[Model], panels: Mapping[str, str]) -> bytes:
    figure, axes = new_figure(10, 0.8 + 2.1 * len(panels) + 0.2 * len(models), len(panels), 1)
    last = max(place for model in models for place, _ in _left(model, 'ratio'))
    for axis, (key, name) in zip(axes if len(panels) > 1 else [axes], panels.items()):
        highest = 1.0
        for number, model in enumerate(models):
            points = _left(model, key)
            highest = max(highest, *(left for _, left in points)) if points else highest
            style = {'color': LINES[number], 'marker': MARKS[number], 'markersize': 4, 'linewidth': 1.4}
            ratio = f'{model["pruning"]["reduction_ratio"]:.1%} removed'
            label = f'{short(model["name"], 60)} ({ratio}, {layers_of(model)} layers)'
            axis.plot(*zip(*points), label=label, alpha=0.85, **style) if points else None
        axis.set_ylim(-0.04, 1.06 * highest)
        axis.set_xlim(-0.5, last + 0.5)
        axis.yaxis.set_major_formatter(lambda value, _: f'{value:.0%}')
        _whole_numbers(axis)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.set_title(f'{name}: what is left', loc='left', fontsize=10)
    (axes[-1] if len(panels) > 1 else axes).set_xlabel('layer')
    handles = (axes[0] if len(panels) > 1 else axes).get_legend_handles_labels()
    figure.legend(*handles, loc='outside lower left', ncols=1, frameon=False, fontsize=SMALL)
    return to_png(figure)


def _heat_maps(models: Sequence[Model], panels: Mapping[str, str]) -> bytes:
    import numpy as np
    from matplotlib import colormaps

    names = [short(model['name'], 44) for model in models]
    last = max(place for model in models for place, _ in _left(model, 'ratio'))
    cell = max(0.05, min(0.11, 5.0 / (last + 1)))  # inches
    left, width = 0.3 + 0.065 * max(map(len, names)), max(1.6, cell * (last + 1))
    figure, axes = new_figure(left + (width + 0.25) * len(panels) + 0.6, 1.3 + 0.2 * len(models), 1, len(panels))
    colours = colormaps['viridis'].with_extremes(bad='white')
    image = None
    for number, (axis, (key, name)) in enumerate(zip(axes if len(panels) > 1 else [axes], panels.items())):
        values = np.full((len(models), last + 1), np.nan)
        for row, model in enumerate(models):
            for place, fraction in _left(model, key):
                values[row, place] = fraction
        image = axis.imshow(values, cmap=colours, vmin=0, vmax=1, aspect='auto', interpolation='nearest')
        for row in range(1, len(models)):
            axis.axhline(row - 0.5, color='white', linewidth=0.8)
        axis.set_title(name, loc='left', fontsize=10)
        axis.set_xlabel('layer', fontsize=SMALL)
        axis.set_yticks(range(len(models)) if number == 0 else [], names if number == 0 else [], fontsize=SMALL)
        axis.tick_params(length=0, labelsize=SMALL)
        _whole_numbers(axis)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, aspect=30)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f'{value:.0%}')
    bar.ax.tick_params(labelsize=SMALL, length=2)
    title = f'What the layers of {len(models)} models have left; white: not there, or not known'
    figure.suptitle(title, x=0.01, ha='left', fontweight='bold')
    return to_png(figure)


def _count_layers(axes: Any, models: Sequence[Model]) -> None:
    """Bars of how many layers of the original are of each kind."""
    below = [0] * len(models)
    for kind, counts in zip(KINDS, zip(*map(_kinds, models))):
        axes.barh(range(len(models)), counts, left=below, height=0.72, color=KINDS[kind], label=kind, linewidth=0)
        below = [a + b for a, b in zip(below, counts)]
    _name_rows(axes, [''] * len(models))
    axes.set_xlim(0, max(*below, 1))
    axes.tick_params(axis='x', labelsize=SMALL)
    _whole_numbers(axes)
    axes.set_title('layers of the original', loc='left', fontsize=10)
    handles = axes.get_legend_handles_labels()
    axes.figure.legend(*handles, loc='outside lower right', ncols=4, frameon=False, fontsize=SMALL)


def _kinds(model: Model) -> list[int]:
    """How many layers are of each of ``KINDS``; of a model that was not compared, none is known."""
    if not model['has_comparison']:
        return [0] * len(KINDS)
    left = [layer['layer_idx'] for layer in model['layers'] if not layer['is_zero']]
    heavy, light = (len(set(model[key]) & set(left)) for key in ('heavy_layers', 'light_layers'))
    return [model['num_zero_layers'], heavy, len(left) - heavy - light, light]


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.spines['left'].set_visible(False)


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
