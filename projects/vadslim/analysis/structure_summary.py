"""Many analysed models side by side: what each holds, what it has lost, which of its layers are empty.

A model is a mapping, plain data, with these keys; None, or a key that is not there, is 'not known':

=================== ===================================================================================================
``name``            folder/model
``has_structure``   then there are ``params`` and ``zero_layers``
``has_comparison``  then there are ``pruning``, ``layer_pruning``, ``heavy_layers`` and ``light_layers``
``params``          total, embedding, lm_head, layers (parameters of all), num_layers
``zero_layers``     layer_idx of those that hold nothing but norms
``pruning``         original_params, pruned_params, reduction_ratio, layer_reduction_ratio
``layer_pruning``   per layer: layer_idx, reduction_ratio, is_zero, attention_reduction_ratio, mlp_reduction_ratio
``heavy_layers``    layer_idx of those that lost more than 80 %; ``light_layers``: less than 20 %
``num_layers``      of the pruned model, as the comparison has it
``removed_layers``  how many layers fewer than the original has
``num_zero_layers`` how many of the original's layers are empty or gone
``parts``           parameters of attention, mlp, norm, conv, other, in all layers
``size_bytes``      of the parameters
``sparsity``        the fraction of zeros, where they were counted; ``unit_sparsity``: of units that are all zeros
``layers``          per layer, not in the JSON: layer_idx, name, is_zero; parameters: attention, mlp, norm, conv,
                    other, total; fractions: ratio, attention_ratio, mlp_ratio (removed), sparsity,
                    unit_sparsity
``about``           texts by name, not in the JSON: path, kind ...
=================== ===================================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from vadslim.analysis.structure_files import one_line, printable, read_comparison, read_json, read_structure

Model = dict[str, Any]
Read = TypeVar('Read')

COMPARISONS = ('model_comparison.json', 'pruning_comparison.json')
STRUCTURES = ('pruned_model_analysis.json', 'model_structure.json')
ORIGINAL = ('original_model_analysis.json',)
PARTS = ('attention', 'mlp', 'norm', 'conv', 'other')


# --- one model ----------------------------------------------------------------------------------------------


def summarize(
    name: str,
    structure: Mapping[str, Any] | None = None,
    comparison: Mapping[str, Any] | None = None,
    original_layers: int | None = None,
) -> Model:
    """Puts together what is known of a model.

    Args:
        name: of it.
        structure: as ``model_structure.json`` has it.
        comparison: as ``model_comparison.json`` has it.
        original_layers: how many the original has, where another file tells.

    Raises:
        ValueError: one of them is something else, or they are of two models; one line.
    """
    own = None if structure is None else read_structure(structure)
    return _merged(name, own, None if comparison is None else read_comparison(comparison), original_layers)


def _merged(name: str, own: Model | None, compared: Model | None, original_layers: int | None = None) -> Model:
    model: Model = {'name': name, 'has_comparison': compared is not None, 'has_structure': own is not None}
    model.update(own or {})
    if compared is not None:
        if own is not None:
            _join(own, compared)
        model.update(compared)
    if own is not None and original_layers is not None:
        model['removed_layers'] = max(0, original_layers - own['params']['num_layers'])
    removed = model.setdefault('removed_layers', None)
    if 'num_zero_layers' not in model:
        empty = [layer for layer in (own or model)['layers'] if layer['is_zero']]
        model['num_zero_layers'] = len(empty) + (removed or 0)
    model['parts'] = {part: sum(layer[part] or 0 for layer in model['layers']) for part in PARTS}
    return model


def _join(own: Model, compared: Model) -> None:
    """Adds what only the structure knows to the layers of a comparison, among which are layers that are gone.

    They are in the order of the original's stacks, which may be another one than the pruned model's.
    """
    total, pruned = own['params']['total'], compared['pruning']['pruned_params']
    if total != pruned:
        raise ValueError(f'is of a model of {total:,} parameters, the comparison of another one, of {pruned:,}')
    for order in (lambda layer: layer['name'].rpartition('.')[0], lambda layer: ''):  # a stack can have another name
        held = sorted((layer for layer in own['layers'] if layer['total']), key=order)
        kept = sorted((layer for layer in compared['layers'] if layer['total']), key=order)
        if [layer['total'] for layer in held] == [layer['total'] for layer in kept]:
            for layer, known in zip(kept, held):
                layer.update({key: known[key] for key in ('norm', 'conv', 'other', 'sparsity', 'unit_sparsity')})
            return


def total_of(model: Model) -> int:
    """Parameters, by whichever file tells them."""
    return int(model['params']['total'] if model['has_structure'] else model['pruning']['pruned_params'])


def layers_of(model: Model) -> int:
    """How many layers it has, removed ones not."""
    return int(model['params']['num_layers'] if model['has_structure'] else model['num_layers'])


def ratio_of(model: Model) -> float | None:
    """The fraction of the parameters that was removed."""
    return model['pruning']['reduction_ratio'] if model['has_comparison'] else None


# --- all models ---------------------------------------------------------------------------------------------


def collect(folders: Iterable[Path], tell: Callable[[str], None]) -> list[Model]:
    """Reads the models in the sub-folders of some folders.

    Args:
        folders: what is missing is told and skipped.
        tell: takes a line for each model, and for each file that cannot be read.

    Returns:
        The models for which there is anything, sorted by name.
    """
    unique: dict[str, Path] = {}
    for folder in folders:
        unique.setdefault(os.path.realpath(folder), folder)
    labels = [Path(path).name for path in unique]
    models = []
    for folder, label in zip(unique.values(), labels):
        shown = printable(str(folder))
        try:
            inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))
        except (FileNotFoundError, NotADirectoryError):
            tell(f'⊘ 跳过不存在的目录: {shown}')
            continue
        except OSError as error:
            tell(f'⚠ 无法读取目录 {shown}: {one_line(error)}')
            continue
        prefix = printable(label) if label and labels.count(label) == 1 else shown
        for path in inside:
            try:
                model, lines = _read_model(path, prefix)
            except OSError as error:
                model, lines = None, [f'⚠ 无法读取目录 {printable(str(path))}: {one_line(error)}']
            for line in lines:
                tell(line)
            models += [model] if model else []
    return sorted(models, key=lambda model: str(model['name']))


def _read_model(folder: Path, prefix: str) -> tuple[Model | None, list[str]]:
    """What is known of a model, and what is told of it."""
    name = printable(folder.name)
    lines: list[str] = []

    def warn(file: Path, error: Exception) -> None:
        lines.append(f'⚠ 无法加载 {name}/{file.name}: {one_line(error)}')

    def first(names: Sequence[str], read: Callable[[Any], Read]) -> tuple[Path, Read] | None:
        for path in _present(folder, names):
            try:
                return path, read(read_json(path))
            except (OSError, ValueError) as error:
                warn(path, error)
        return None

    compared, own = first(COMPARISONS, read_comparison), first(STRUCTURES, read_structure)
    original = None
    if not _present(folder, (*COMPARISONS, *STRUCTURES)):
        own = first(ORIGINAL, read_structure)  # it was analysed alone
    elif own and (compared is None or compared[1].get('removed_layers') is None):
        original = _layers_of_original(folder)
    if own is None and compared is None:
        return None, [*lines, f'⊘ {name:<30} [无分析结果]']
    try:
        model = _merged(f'{prefix}/{name}', own and own[1], compared and compared[1], original)
    except ValueError as error:  # one of the two is from another time; the comparison says more
        assert own is not None
        warn(own[0], error)
        model = _merged(f'{prefix}/{name}', None, compared and compared[1])
    what = [word for key, word in (('has_comparison', '对比✓'), ('has_structure', '结构✓')) if model[key]]
    return model, [*lines, f'✓ {name:<30} [{", ".join(what)}]']


def _present(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files of these names: those in ``analysis``, or if it has none of them, those in the folder."""
    for place in (folder / 'analysis', folder):
        files = [place / name for name in names if (place / name).is_file()]
        if files:
            return files
    return []


def _layers_of_original(folder: Path) -> int | None:
    """How many layers the original has. What is wrong with its file does not matter."""
    for path in _present(folder, ORIGINAL):
        try:
            return int(read_structure(read_json(path))['params']['num_layers'])
        except (OSError, ValueError):
            pass
    return None


# --- as JSON and as text ------------------------------------------------------------------------------------


def to_json(models: Sequence[Model], now: datetime) -> dict[str, Any]:
    """``models_structure_summary.json``."""
    listed = [{key: value for key, value in model.items() if key not in ('layers', 'about')} for model in models]
    return {'timestamp': now.isoformat(timespec='microseconds'), 'total_models': len(models), 'models': listed}


def to_merged_json(models: Iterable[Model], models_dir: str, now: datetime) -> dict[str, Any]:
    """``models_summary.json``, which analysing a folder of models writes: of those with a structure, the totals."""
    listed = []
    for model in (model for model in models if model['has_structure']):
        params = model['params']
        entry = {
            'name': model['name'],
            'total_params': params['total'],
            'num_layers': params['num_layers'],
            'layer_params': params['layers'],
            'embedding_params': params['embedding'],
            'lm_head_params': params['lm_head'],
        }
        if model['has_comparison']:
            entry['pruning'] = {k: model['pruning'][k] for k in ('original_params', 'pruned_params', 'reduction_ratio')}
        listed.append(entry)
    return {'timestamp': now.isoformat(timespec='microseconds'), 'models_dir': models_dir, 'models': listed}


def to_text(models: Sequence[Model]) -> str:
    """``models_structure_summary.txt``, in the layout of earlier tools; what they did not have follows below it."""
    return '\n'.join(_lines(sorted(models, key=lambda model: (-total_of(model), model['name'])))) + '\n'


def _lines(models: Sequence[Model]) -> Iterator[str]:
    yield from ('=' * 120, '模型结构分析汇总表', '=' * 120, '')
    yield f'{"模型名称":<40} {"总参数":>15} {"剪枝比例":>10} {"层数":>6} {"完全剪空的层":>12}'
    yield '-' * 120
    for model in models:
        ratio = ratio_of(model)
        shown = f'{"N/A":>10}' if ratio is None else f'{100 * ratio:>9.2f}%'
        counts = f'{layers_of(model):>6} {model["num_zero_layers"]:>12}'
        yield f'{model["name"]:<40} {total_of(model):>15,} {shown} {counts}'
    yield from ('', '=' * 80, '统计信息', '=' * 80, '', f'总模型数: {len(models)}')
    totals = [total_of(model) for model in models]
    yield from ('', '参数量统计:', f'  最小: {min(totals):,}', f'  最大: {max(totals):,}')
    yield f'  平均: {sum(totals) // len(totals):,}'
    ratios = [ratio for model in models if (ratio := ratio_of(model)) is not None]
    if ratios:
        yield from ('', '剪枝比例统计:', f'  最小: {min(ratios):.2%}', f'  最大: {max(ratios):.2%}')
        yield f'  平均: {sum(ratios) / len(ratios):.2%}'
    empty = [model['num_zero_layers'] for model in models if model['num_zero_layers']]
    if empty:
        yield from ('', '完全剪空的层统计:', f'  有剪空层的模型数: {len(empty)}', f'  总剪空层数: {sum(empty)}')
    marked = [line for model in models if (line := _marked(model))]
    if marked:
        yield from ('', '各模型中移除的层、剪空的层、重度 (> 80%) 和轻度 (< 20%) 剪枝的层:', *marked)


def _marked(model: Model) -> str:
    """A line on the layers of a model that stand out; '' if none does."""
    lists = {
        '剪空': [layer['layer_idx'] for layer in model['layers'] if layer['is_zero']],
        '重度': model.get('heavy_layers'),
        '轻度': model.get('light_layers'),
    }
    words = [f'移除 {model["removed_layers"]}'] if model['removed_layers'] else []
    words += [f'{word} {len(indices)} [{ranges(indices)}]' for word, indices in lists.items() if indices]
    return f'  {model["name"]}: {"; ".join(words)}' if words else ''


def ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ', '.join(str(first) if first == last else f'{first}-{last}' for first, last in runs)
