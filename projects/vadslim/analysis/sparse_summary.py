"""Runs of sparse training side by side: means over seeds, and tables as text, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vadslim.analysis.sparse_results import ZEROS, SparseLevel, SparseRun

#: Settings that say where, by what and how far a run was made, not what its levels are.
ASIDE = {
    *('seed', 'name', 'exp_name', 'file_name', 'save_dir', 'output_dir', 'work_dir', 'out', 'init', 'checkpoint'),
    *('pruning_times', 'resume', 'overwrite', 'data', 'data_root', 'dense', 'workers', 'num_workers', 'print_freq'),
    *('gpu', 'gpus', 'gpu_ids', 'launcher', 'local_rank', 'device'),
}


#: Settings that a dense level does not depend on.
LATER = {
    *('struct', 'criteria', 'criteria_batches', 'rate', 'scope', 'progressive_rate', 'layer_rates', 'conv1', 'fc'),
    *('fillback_rate', 'prune_type', 'rewind_epoch', 'RST_schedule', 'reg_granularity_prune', 'reg_ceiling'),
    *('exponents', 'reg_mode', 'block_loss_grad', 'target_accuracy', 'vit_structured', 'vit_prune_target'),
    *('mlp_prune_ratio', 'sorting_mode', 'distill', 'alpha', 'temperature'),
}


@dataclass(frozen=True)
class Spread:
    """Numbers of several runs: their mean, and their sample standard deviation (n - 1); None of one run."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Of the values that are known; None if none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))

    def __str__(self) -> str:
        return f'{self.mean:.2f}' + (f' ± {self.std:.2f} ({self.n})' if self.std is not None else '')


@dataclass(frozen=True)
class Method:
    """Runs of the same settings, which differ in their seeds.

    Attributes:
        panel: network and data set; methods of one panel can be compared.
        label: what tells it from the other methods of its panel.
        runs: at least one.
    """

    panel: str
    label: str
    runs: Sequence[SparseRun]

    @property
    def levels(self) -> list[int]:
        """The numbers of the levels that any of the runs has done."""
        return sorted({level.level for run in self.runs for level in run.levels})

    @property
    def last(self) -> int | None:
        """The last level that all runs with any have done."""
        done = [{level.level for level in run.levels} for run in self.runs if run.levels]
        return max(set.intersection(*done), default=None) if done else None

    def at(self, number: int, what: str) -> Spread | None:
        """An attribute of a level over the runs that have done it."""
        levels = (level_of(run, number) for run in self.runs)
        return Spread.of(getattr(level, what) for level in levels if level is not None)


def level_of(run: SparseRun, number: int) -> SparseLevel | None:
    """A level of a run by its number."""
    return next((level for level in run.levels if level.level == number), None)


def panel_of(run: SparseRun) -> str:
    """Network and data set of a run."""
    return ', '.join(str(run.settings.get(key) or f'unknown {key}') for key in ('arch', 'dataset'))


def methods(runs: Iterable[SparseRun]) -> list[Method]:
    """Groups runs by their settings but the seed; panels and methods keep the order of the runs."""
    return _grouped(runs, ASIDE)


def dense_methods(of_all: Iterable[Method]) -> list[Method]:
    """Groups runs by the settings of their dense levels; a level that runs share (seed, accuracy) counts once."""
    once: dict[Any, SparseRun] = {}
    for run in (run for method in of_all for run in method.runs):
        if run.dense is not None:
            seed = run.settings.get('seed')
            key = _key(run, ASIDE | LATER), str(run.path) if seed is None else str(seed), run.dense.test
            once.setdefault(key, run)
    return _grouped(once.values(), ASIDE | LATER, 'dense')


def _key(run: SparseRun, aside: set[str]) -> str:
    settings = {key: value for key, value in run.settings.items() if key not in aside}
    return json.dumps(settings, sort_keys=True, default=str)


def _grouped(runs: Iterable[SparseRun], aside: set[str], kind: str = '') -> list[Method]:
    groups: dict[str, dict[str, list[SparseRun]]] = {}
    for run in runs:
        groups.setdefault(panel_of(run), {}).setdefault(_key(run, aside), []).append(run)
    return [
        Method(panel, label, members)
        for panel, of_panel in groups.items()
        for label, members in zip(_labels(of_panel, kind), of_panel.values())
    ]


def _labels(of_panel: Mapping[str, Sequence[SparseRun]], kind: str) -> list[str]:
    """The kind, or the struct, of each and what tells it from others: settings of its method that differ from those
    of the same struct, settings of the training that differ from any. A run's name if these are many, or unknown.
    """
    labels = []
    of_all = [json.loads(key) for key in of_panel]
    for own, runs in zip(of_all, of_panel.values()):
        head, names = kind or own.get('struct'), set()
        for other in (other for other in of_all if ('folder' in other) == ('folder' in own)):
            differing = {name for name in {*own, *other} if own.get(name) != other.get(name)}
            names |= differing - (set() if own.get('struct') == other.get('struct') else LATER)
        if head and len(names) < 4 and 'folder' not in names:
            told = [f'{name} {own[name]}' for name in sorted(names) if own.get(name) is not None]
            labels.append(', '.join([str(head), *told]))
        else:
            name = runs[0].name + (f' and {len(runs) - 1} more' if len(runs) > 1 else '')
            labels.append(f'{kind} of {name}' if kind else name)
    return labels


def remarks(runs: Sequence[SparseRun], of_all: Iterable[Method]) -> list[str]:
    """Lines on what the tables do not tell: runs without a level or masks, and seeds that count twice."""
    lines = [f'{run.path}: no level is done yet' for run in runs if not run.levels and not run.problems]
    for run in runs:
        plain = [str(level.level) for level in run.levels if level.level and level.counted == ZEROS]
        if plain:
            lines.append(f'{run.path}: no masks in level {", ".join(plain)}; zeros of plain weights are counted')
    return lines + doubles(of_all)


def doubles(of_all: Iterable[Method]) -> list[str]:
    """A line for each two runs that would count as two seeds and have one."""
    lines = []
    for method in of_all:
        seeds: dict[Any, SparseRun] = {}
        for run in method.runs:
            seed = run.settings.get('seed')
            if seed is not None and seeds.setdefault(seed, run) is not run:
                same = f'the settings and the seed ({seed}) of {seeds[seed].path}'
                lines.append(f'{run.path}: has {same}; both count in the mean')
    return lines


# --- tables -------------------------------------------------------------------------------------------------

Cell = str | int | float | Spread | None


@dataclass(frozen=True)
class Rows:
    """A table of plain data; None is 'not known'."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def is_text(self) -> list[bool]:
        """Of each column."""
        return [any(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns))]


def experiments(runs: Iterable[SparseRun]) -> Rows:
    """A row per run: its last level, and its dense one."""
    rows: list[list[Cell]] = []
    for run in runs:
        last = run.levels[-1] if run.levels else None
        words = [run.name, *(_word(run, key) for key in ('struct', 'arch', 'dataset', 'seed'))]
        test = last.test if last else None
        numbers: list[Cell] = [last.level, last.remain, last.val, test] if last else [None] * 4
        dense = run.dense.test if run.dense else None
        known = [level.seconds for level in run.levels if level.seconds is not None]
        seconds = round(sum(known)) if known else None
        rows.append([*words, *numbers, dense, _minus(test, dense), seconds])
    columns = ('name', 'struct', 'arch', 'dataset', 'seed', 'level', 'weights left %', 'val %', 'test %')
    return Rows('Runs at their last level', (*columns, 'dense test %', 'difference', 'seconds'), rows)


def means(of_all: Iterable[Method]) -> Rows:
    """A row per method: mean ± standard deviation (n) over its runs at the last level that all of them have done."""
    rows: list[list[Cell]] = []
    for method in of_all:
        number = method.last
        if number is None:
            continue
        spreads = [method.at(number, what) for what in ('remain', 'val', 'test')]
        pairs = [(level_of(run, number), run.dense) for run in method.runs]
        difference = Spread.of(_minus(level.test, dense.test) for level, dense in pairs if level and dense)
        rows.append([method.panel, method.label, number, *spreads, method.at(0, 'test'), difference])
    columns = ('network, data', 'method', 'level', 'weights left %', 'val %', 'test %', 'dense test %', 'difference')
    return Rows('Mean ± standard deviation (number of runs) over seeds', columns, rows)


def by_level(of_all: Sequence[Method]) -> Rows:
    """A row per method and level, the dense networks of a panel in one."""
    rows: list[list[Cell]] = []
    for panel in dict.fromkeys(method.panel for method in of_all):
        of_panel = [method for method in of_all if method.panel == panel]
        for dense in dense_methods(of_panel):
            rows.append([panel, dense.label, 0, dense.at(0, 'remain'), None, dense.at(0, 'test')])
        for method in of_panel:
            for number in method.levels:
                if number:
                    spreads = [method.at(number, what) for what in ('remain', 'remain_element', 'test')]
                    rows.append([panel, method.label, number, *spreads])
    columns = ('network, data', 'method', 'level', 'weights left %', 'of the element-wise mask %', 'test %')
    return Rows('Test accuracy over weights left: mean ± standard deviation (number of runs)', columns, rows)


def levels_of(run: SparseRun) -> Rows:
    """A row per level of one run; columns of which nothing is known are left out."""
    columns = {
        'level': 'level',
        'weights left %': 'remain',
        'of the element-wise mask %': 'remain_element',
        'heads left %': 'struct_head',
        'val %': 'val',
        'test %': 'test',
        'test, last epoch %': 'test_last',
        'best epoch': 'best_epoch',
        'counted from': 'counted',
        'seconds': 'seconds',
    }
    found: dict[str, list[Cell]] = {
        title: [getattr(level, name) for level in run.levels] for title, name in columns.items()
    }
    for cost in ('params', 'params_slim', 'macs', 'macs_slim'):
        found[cost.replace('_', ' ')] = [_whole(level.size.get(cost)) for level in run.levels]
    found['seconds'] = [_whole(level.seconds) for level in run.levels]
    shown = {title: cells for title, cells in found.items() if any(cell is not None for cell in cells)}
    return Rows(f'{run.name}: levels', list(shown), list(zip(*shown.values())))


def layers_of(run: SparseRun) -> Rows:
    """A row per layer of one run: percent of its weights that are left at each level."""
    layers = list(dict.fromkeys(layer for level in run.levels for layer in level.density))
    rows = [[layer_name(name), *(_percent(level.density.get(name)) for level in run.levels)] for name in layers]
    return Rows('Weights left %, by layer', ('layer', *(str(level.level) for level in run.levels)), rows)


def layer_name(weight: str) -> str:
    """The layer of a weight."""
    return weight.removesuffix('.weight').removeprefix('module.')


def _word(run: SparseRun, key: str) -> str | None:
    value = run.settings.get(key)
    return None if value is None else str(value)


def _minus(value: float | None, dense: float | None) -> float | None:
    return None if value is None or dense is None else value - dense


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def cell_text(cell: Cell, column: str = '') -> str:
    """A cell for people; differences have a sign."""
    if cell is None:
        return '-'
    if column == 'difference' and not isinstance(cell, str):
        text = str(cell) if isinstance(cell, Spread) else f'{cell:.2f}'
        return text if text.startswith('-') else f'+{text}'
    if isinstance(cell, int):
        return f'{cell:,}'
    return f'{cell:.2f}' if isinstance(cell, float) else str(cell)


def to_markdown(table: Rows) -> str:
    """A table of Markdown under its title."""
    lines = [table.columns, ['---' if text else '---:' for text in table.is_text]]
    for row in table.rows:
        cells = (cell_text(cell, column) for cell, column in zip(row, table.columns))
        lines.append([cell.replace('|', '\\|').replace('\n', ' ') for cell in cells])
    return '\n'.join([f'**{table.title}**', '', *(f'| {" | ".join(line)} |' for line in lines)]) + '\n'


def to_csv(table: Rows) -> str:
    """Numbers unrounded, an empty cell is 'not known'; a column of means is three: mean, std, n."""
    spread = [any(isinstance(row[place], Spread) for row in table.rows) for place in range(len(table.columns))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    named = [[name, f'{name} std', f'{name} n'] if wide else [name] for name, wide in zip(table.columns, spread)]
    writer.writerow(sum(named, []))
    for row in table.rows:
        cells: list[Cell] = []
        for cell, wide in zip(row, spread):
            if isinstance(cell, Spread):
                cells += [cell.mean, cell.std, cell.n]
            else:
                cells += [cell, None, None] if wide else [cell]
        writer.writerow(['' if cell is None else cell for cell in cells])
    return text.getvalue()
