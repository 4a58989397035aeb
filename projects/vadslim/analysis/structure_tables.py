"""Terminal tables of what a model holds and of what it has lost. Takes dicts, as JSON has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vadslim.analysis.model_comparison import mark_of
from vadslim.analysis.numbers import human
from vadslim.analysis.structure_files import printable
from vadslim.analysis.structure_summary import ranges

if TYPE_CHECKING:
    from rich.console import Console

Data = Mapping[str, Any]

_OUTSIDE = ('embedding', 'lm_head', 'norm', 'conv', 'attention', 'mlp', 'other')


def print_model(model: Data, console: Console) -> None:
    """Prints one model: totals, and its layers, equal neighbours in one row."""
    rows = [('layers', model['layer_summary']['total_layer_params'])] if model['layers'] else []
    rows += [(name.replace('_', ' '), model[f'{name}_params']) for name in _OUTSIDE if model.get(f'{name}_params')]
    total = model['total_params']
    table = _table(
        f'{model["model_name"]}: {total:,} parameters, {human(model["size_bytes"], "B")} ({model["kind"]})', console
    )
    for column in ('part', 'parameters', 'share'):
        table.add_column(column, justify='left' if column == 'part' else 'right')
    for name, count in rows:
        table.add_row(name, f'{count:,}', f'{count / total:.1%}' if total else '')
    if len(model['modules']) > 1:
        table.add_section()
        for name, count in model['modules'].items():
            table.add_row(_text(name), f'{count:,}', f'{count / total:.1%}' if total else '')
    console.print(table)
    if model['tied']:
        _say(console, f'counted once: {", ".join(model["tied"][:4])} (tied)')
    if model.get('classes'):
        _say(console, f'the pickle names {", ".join(model["classes"][:4])} ...: none of it was imported or built')
    if model['layers']:
        _print_layers(model, console)
    _print_zeros(model, console)


def _print_layers(model: Data, console: Console) -> None:
    parts = [key for key in ('conv', 'embedding', 'other') if any(layer.get(key) for layer in model['layers'])]
    counted = any('zeros' in layer for layer in model['layers'])
    zero = len(model['zero_layers'])
    table = _table(f'{len(model["layers"])} layers' + (f', {zero} of them empty' if zero else ''), console)
    for column in ('layer', 'parameters', 'attention', 'MLP', 'norm', *parts, *(('zeros', 'zero units') * counted), ''):
        table.add_column(column, justify='left' if column == 'layer' else 'right', overflow='fold')

    def cells(layer: Data) -> tuple[str, ...]:
        counts = (layer['total'], layer['attention']['total'], layer['mlp']['total'], layer['norm'])
        found = [f'{count:,}' for count in (*counts, *(layer[part] for part in parts))]
        if counted:
            zeros = layer.get('zeros') or {'sparsity': 0.0, 'zero_units': 0, 'units': 0}
            found += [f'{zeros["sparsity"]:.1%}', f'{zeros["zero_units"]:,} / {zeros["units"]:,}']
        return (*found, 'empty' if layer['is_zero_layer'] else '')

    for name, row in _runs(model['layers'], cells):
        table.add_row(_text(name), *row)
    console.print(table)


def print_comparison(comparison: Data, console: Console) -> None:
    """Prints what was removed: totals, and the layers, equal neighbours in one row."""
    table = _table(f'{comparison["pruned_name"]} against {comparison["original_name"]}', console)
    for column in ('', 'original', 'pruned', 'removed', 'ratio'):
        table.add_column(column, justify='right' if column else 'left')
    for name, key in (
        ('parameters', 'total_params'),
        ('in layers', 'layer_params'),
        ('embedding', 'embedding'),
        ('head', 'lm_head'),
        ('layers', 'num_layers'),
    ):
        row = comparison[key]
        if row['original'] or row['pruned']:
            counts = (f'{row[side]:,}' for side in ('original', 'pruned', 'reduced'))
            table.add_row(name, *counts, f'{row["reduction_ratio"]:.2%}')
    console.print(table)
    if comparison['layers']:
        table = _table('Layers: what is left', console)
        for column in ('layer', 'original', 'pruned', 'left', 'attention', 'MLP', ''):
            table.add_column(column, justify='left' if column == 'layer' else 'right', overflow='fold')

        def cells(layer: Data) -> tuple[str, ...]:
            total = layer['total']
            parts = (layer[key] for key in ('total', 'attention', 'mlp'))
            left = [f'{1 - part["reduction_ratio"]:.1%}' if part['original'] else '' for part in parts]
            return f'{total["original"]:,}', f'{total["pruned"]:,}', *left, mark_of(layer)

        for name, row in _runs(comparison['layers'], cells):
            table.add_row(_text(name), *row)
        console.print(table)
    nowhere = comparison['num_zero_layers'] - len(comparison['zero_layers'])
    if nowhere:
        _say(console, f'{nowhere} layers fewer; nothing in the files tells which: layers are compared by position')
    for key, what in (('zero', 'empty or gone'), ('heavy', 'more than 80 % removed'), ('light', 'less than 20 %')):
        found = comparison[f'{key}_layers']
        if found and len(found) < len(comparison['layers']):
            _say(console, f'{what}: {ranges(found)}')


def _print_zeros(model: Data, console: Console) -> None:
    zeros = model.get('zeros')
    if not zeros:
        return
    units = f'{zeros["zero_units"]:,} of {zeros["units"]:,} rows of weights'
    _say(console, f'zeros: {zeros["zeros"]:,} of {zeros["elements"]:,} values ({zeros["sparsity"]:.2%}); {units}')
    if zeros['nonfinite']:
        names = ', '.join(list(zeros['nonfinite'])[:4])
        _say(console, f'not finite: values in {len(zeros["nonfinite"])} tensors ({names})')


def _runs(layers: Sequence[Data], cells: Callable[[Data], tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """(name, cells) of rows, neighbours of one stack with equal cells together: 'model.layers.0-31'."""
    rows: list[tuple[str, int, int, tuple[str, ...]]] = []
    for layer in layers:
        stack, _, number = str(layer.get('name', layer['layer_idx'])).rpartition('.')
        row = cells(layer)
        if rows and rows[-1][0] == stack and rows[-1][3] == row and int(number) == rows[-1][2] + 1:
            rows[-1] = (stack, rows[-1][1], int(number), row)
        else:
            rows.append((stack, int(number), int(number), row))
    return [
        (f'{stack}.{first}'.lstrip('.') + (f'-{last}' if last > first else ''), row) for stack, first, last, row in rows
    ]


def _table(title: str, console: Console) -> Any:
    from rich.table import Table

    console.print(printable(title), style='italic', markup=False, highlight=False, soft_wrap=True)
    return Table()


def _text(text: str) -> Any:
    from rich.text import Text

    return Text(printable(text))


def _say(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False)
