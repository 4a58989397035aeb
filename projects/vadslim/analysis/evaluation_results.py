"""Reads what the evaluation and the analysis of language models have left in their folders: a row of 24 columns each.

A model's folder holds ``evaluation/evaluation_results.json``, or that file itself, and, if its structure was compared
with that of the original, ``analysis/pruning_comparison.json`` (or ``model_comparison.json``, or the same as ``.txt``).
"""

from __future__ import annotations

import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vadslim.analysis.structure_files import one_line, read_json
from vadslim.cli import UserError
from vadslim.files import StrPath

Value = str | float | None

EVALUATIONS = ('evaluation/evaluation_results.json', 'evaluation_results.json')
MOST_GROWN = 1000  # times as large, a layer at most is after pruning: the roles may be swapped
COMPARISONS = ('pruning_comparison.json', 'model_comparison.json', 'pruning_comparison.txt')


class Column(NamedTuple):
    """A column: its name, and the decimal places of its numbers (None: texts)."""

    name: str
    places: int | None


#: column -> task names in it; arc_easy is not arc_challenge
TASKS = {
    'ZS-BoolQ (%)': r'boolq',
    'ZS-PIQA (%)': r'piqa',
    'ZS-HellaSwag (%)': r'hellaswag',
    'ZS-WinoGrande (%)': r'winogrande',
    'ZS-ARC-e (%)': r'arc[-_ ]?e(asy)?(?![a-z])',
    'ZS-ARC-c (%)': r'arc[-_ ]?c(hallenge)?(?![a-z])',
    'ZS-OBQA (%)': r'openbookqa|obqa',
}
PPL = {'PPL (WikiText-2)': r'wikitext[-_]?2(?!\d)', 'PPL (PTB)': r'ptb|penn'}
AVERAGE = 'ZS-平均 (%)'
SIZE = '模型大小 (GB)'
STD, VAR = '剪枝标准差', '剪枝方差'
KEPT_BELOW = {f'保留<{percent}%的层': percent / 100 for percent in (5, 10, 15, 20)}
COLUMNS = (
    Column('模型名称', None),
    Column(SIZE, 3),
    Column('参数量 (B)', 3),
    *(Column(name, 2) for name in [*PPL, *TASKS, AVERAGE]),
    Column('吞吐量-BS1 (tokens/s)', 1),
    Column('延迟-BS1 (ms/token)', 3),
    Column('吞吐量-BS4 (tokens/s)', 1),
    Column('延迟-BS4 (ms/token)', 3),
    Column('显存占用 (MB)', 1),
    Column(STD, 4),
    Column(VAR, 4),
    *(Column(name, None) for name in KEPT_BELOW),
)


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        name: of its folder.
        values: by column, without the name; None is 'not known'.
        files: that they were read from.
    """

    name: str
    values: Mapping[str, Value]
    files: tuple[Path, ...] = ()

    @property
    def cells(self) -> list[Value]:
        """In the order of ``COLUMNS``."""
        return [self.name, *(self.values.get(column.name) for column in COLUMNS[1:])]


@dataclass
class Results:
    """What a folder of models holds.

    Attributes:
        rows: the largest model first, those of unknown size last.
        notes: lines on what the table does not tell.
        problems: lines on files that could not be read.
    """

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_results(folder: StrPath) -> Results:
    """Reads all models of a folder: its sub-folders, not deeper; hidden ones are skipped. Or it is a model's itself.

    Raises:
        UserError: there is no such folder.
    """
    folder, results = Path(folder), Results()
    try:
        places = [folder] if _evaluation(folder) else sorted(place for place in folder.iterdir() if place.is_dir())
    except OSError as error:
        raise UserError(f'--result_dir {folder}: cannot be read: {error.strerror}') from error
    for place in places:
        name = os.fsencode(place.name or place.resolve().name).decode('utf-8', 'replace')
        if place != folder and name.startswith('.'):
            continue
        try:
            path = _evaluation(place)
            if path is None:
                results.notes.append(f'{place}: left out, it has no {EVALUATIONS[0]}')
            else:
                results.rows.append(_row(name, place, path, results))
        except (OSError, UserError) as error:
            results.problems.append(_problem(error, place))
    results.rows.sort(key=lambda row: (-_size(row), row.name))
    results.notes = list(dict.fromkeys(results.notes))
    return results


def _problem(error: OSError | UserError, path: Path) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f'{error.filename or path}: cannot be read: {error.strerror}'


def _evaluation(folder: Path) -> Path | None:
    return next((folder / name for name in EVALUATIONS if (folder / name).is_file()), None)


def _size(row: Row) -> float:
    size = row.values[SIZE]
    return size if isinstance(size, float) else -math.inf


def _row(name: str, folder: Path, path: Path, results: Results) -> Row:
    metrics = _read_json(path, results.notes).at('metrics')
    if not isinstance(metrics.value, dict):
        raise UserError(f'{path}: has no metrics')
    values = {SIZE: None, **_model(metrics), **_ppl(metrics), **_zeroshot(metrics), **_efficiency(metrics)}
    for file in (folder / 'analysis' / name for name in COMPARISONS):
        try:
            if not file.is_file():
                continue
            kept = _kept_of_text(file) if file.suffix == '.txt' else _kept_of_json(file, results.notes)
        except (OSError, UserError) as error:
            results.problems.append(_problem(error, file))
            continue
        if max(kept.values()) > 1:
            results.notes.append(f'{file}: layers have grown; were original and pruned model swapped?')
        return Row(name, {**values, **_pruning(kept)}, (path, file))
    return Row(name, values, (path,))


# --- JSON of unknown quality --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Json:
    """A value of a JSON file and where it stands; what is of the wrong type is noted and taken as missing."""

    value: Any
    where: str
    notes: list[str]

    def at(self, *keys: str) -> _Json:
        """What stands under keys; None where nothing does."""
        here = self
        for key in keys:
            where = f'{here.where}{" " if here.where.endswith(":") else "."}{key}'
            here = _Json(here.object().get(key), where, here.notes)
        return here

    def object(self) -> dict[str, Any]:
        """Keys and values; {} if it is none."""
        if isinstance(self.value, dict):
            return self.value
        if self.value is not None:
            self._left_out('an object')
        return {}

    def number(self) -> float | None:
        """A number, infinity included; a text that is one, too. NaN is none."""
        try:
            if isinstance(self.value, bool):
                raise TypeError
            number = math.nan if self.value is None else float(self.value)
        except (TypeError, ValueError, OverflowError):
            self._left_out('a number')
            return None
        return None if math.isnan(number) else number

    def accuracy(self) -> float | None:
        """A number from 0 to 1, or to 100."""
        number = self.number()
        if number is None or 0 <= number <= 100:
            return number
        self._left_out('an accuracy')
        return None

    def find(self, pattern: str) -> _Json:
        """What stands under the key that holds the pattern; of several the shortest, then the first by the alphabet."""
        names = sorted((name for name in self.object() if re.search(pattern, name, re.I)), key=lambda n: (len(n), n))
        if len(names) > 1:
            self.notes.append(f'{self.where}: of {", ".join(names)} the first is taken')
        return self.at(names[0]) if names else _Json(None, self.where, self.notes)

    def _left_out(self, wanted: str) -> None:
        text = repr(self.value) if isinstance(self.value, str | float | int) else f'a {type(self.value).__name__}'
        self.notes.append(f'{self.where} is {text[:40]}, not {wanted}; taken as missing')


def _read_json(path: Path, notes: list[str]) -> _Json:
    try:
        value = read_json(path)
    except ValueError as error:
        raise UserError(f'{path}: is no valid JSON: {one_line(error)}') from error
    if not isinstance(value, dict):
        raise UserError(f'{path}: is no JSON object')
    return _Json(value, f'{path}:', notes)


# --- evaluation ---------------------------------------------------------------------------------------------


def _model(metrics: _Json) -> dict[str, Value]:
    info = metrics.at('model_info')
    if not info.object():
        info = metrics.at('efficiency', 'model_info')
    size, params = info.at('model_size_gb').number(), info.at('total_params_B').number()
    if size is None:
        size = _times(info.at('model_size_mb').number(), 1 / 1024)
    if params is None:
        params = _times(info.at('total_params').number(), 1e-9)
    return {SIZE: size, '参数量 (B)': params}


def _ppl(metrics: _Json) -> dict[str, Value]:
    found = {column: metrics.at('ppl').find(pattern).number() for column, pattern in PPL.items()}
    others = [key for key in metrics.object() if key.startswith('ppl_')]
    if others and not any(found.values()):  # other sequence lengths: not to be mixed in one column
        metrics.notes.append(f'{metrics.where}: has {", ".join(others)} but no ppl: other settings are not shown')
    return {**found}


def _zeroshot(metrics: _Json) -> dict[str, Value]:
    tasks = metrics.at('zeroshot')
    found = {}
    for column, pattern in TASKS.items():
        task = tasks.find(pattern)
        found[column] = (task.at('accuracy') if isinstance(task.value, dict) else task).accuracy()
    known = [value for value in found.values() if value is not None]
    percent = max(known, default=0) > 1
    if percent:
        metrics.notes.append(f'{tasks.where}: accuracies above 1 are taken as percent')
    values: dict[str, Value] = {column: _percent(value, percent) for column, value in found.items()}
    average = metrics.at('avg_zeroshot_acc').accuracy()
    if average is not None:
        values[AVERAGE] = _percent(average, average > 1)
    elif known:
        values[AVERAGE] = _percent(statistics.fmean(known), percent)
        if len(known) < len(TASKS):
            metrics.notes.append(f'{tasks.where}: the average is that of {len(known)} of {len(TASKS)} tasks')
    return values


def _percent(value: float | None, is_percent: bool) -> float | None:
    return value if value is None or is_percent else round(100 * value, 10)  # 66.7, not 66.69999999999999


def _efficiency(metrics: _Json) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for size in (1, 4):
        speed = metrics.at('efficiency', 'speed', f'batch_size_{size}')
        values[f'吞吐量-BS{size} (tokens/s)'] = speed.at('throughput_tokens_per_sec').number()
        values[f'延迟-BS{size} (ms/token)'] = speed.at('latency_ms_per_token').number()
    values['显存占用 (MB)'] = metrics.at('efficiency', 'memory', 'model_memory_mb').number()
    return values


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


# --- what each layer has kept -------------------------------------------------------------------------------


def _pruning(kept: Mapping[int, float]) -> dict[str, Value]:
    values: dict[str, Value] = {
        column: str(sorted(index for index, part in kept.items() if part < limit))
        for column, limit in KEPT_BELOW.items()
    }
    if len(kept) > 1:  # n - 1: one layer has no spread
        variance = statistics.variance(kept.values())
        values[STD], values[VAR] = math.sqrt(variance), variance
    return values


def _kept_of_json(path: Path, notes: list[str]) -> dict[int, float]:
    """Layer -> part of its parameters that is left."""
    comparison = _read_json(path, notes)
    layers = comparison.value.get('layers')
    if not isinstance(layers, list) or not layers:
        raise UserError(f'{path}: has no layers')
    kept: dict[int, float] = {}
    listed = 0.0
    for place, value in enumerate(layers):
        layer = _Json(value, f'{path}: layers[{place}]', notes)
        total, index = layer.at('total'), layer.at('layer_idx').value
        original, pruned, ratio = (total.at(key).number() for key in ('original', 'pruned', 'reduction_ratio'))
        part = _part(original, pruned, ratio)
        if part is None:
            raise UserError(f'{path}: total.original and total.pruned of layers[{place}] are missing or cannot be')
        index = index if isinstance(index, int) else place
        if index in kept:
            raise UserError(f'{path}: layers[{place}] has the layer_idx of another one, {index}')
        kept[index] = part
        listed += original or 0
    everything = comparison.at('layer_params', 'original').number()
    if everything is not None and listed < everything:  # ShortGPT's: nothing tells which of them are gone
        what = f'{everything - listed:,.0f} of {everything:,.0f} parameters'
        notes.append(f'{path}: layers with {what} left without a trace: the columns on layers do not count them')
    return kept


def _part(original: float | None, pruned: float | None, ratio: float | None) -> float | None:
    """From the counts, which are exact where the ratio is rounded: limits are strict."""
    part = None
    if original is not None and pruned is not None:
        part = pruned / original if original else 1.0
    elif ratio is not None:
        part = 1 - ratio
    return part if part is not None and 0 <= part < MOST_GROWN else None


#: layer, original, pruned, kept %, ... : percent signs and the rest of the row are not in all versions
_ROW = re.compile(
    r'^\s*(?:Layer\s+)?(\d{1,6})[:：]?\s+(\d[\d,]*)\s+(\d[\d,]*)\s+(\d{1,5}(?:\.\d+)?)\s*%?(?:\s|$)', re.I | re.ASCII
)


def _kept_of_text(path: Path) -> dict[int, float]:
    """The same from a report for people, of the rows of its first table of layers."""
    kept: dict[int, float] = {}
    for index, original, pruned, percent in _rows(path.read_text(encoding='utf-8', errors='replace')):
        part = _part(original, pruned, None)
        if part is None or abs(100 * part - percent) > 0.0051:  # other columns than those known
            part = percent / 100
        kept.setdefault(index, part)
    if not kept:
        raise UserError(f'{path}: has no rows of layers')
    return kept


def _rows(text: str) -> Iterator[tuple[int, float, float, float]]:
    for line in text.splitlines():
        if found := _ROW.match(line):
            index, original, pruned, percent = (cell.replace(',', '') for cell in found.groups())
            yield int(index), float(original), float(pruned), float(percent)
