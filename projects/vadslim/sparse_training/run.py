"""All levels of a run, one after the other, and the file that tells of them."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from rich.console import Console
from rich.table import Table

from vadslim.cli import UserError, say
from vadslim.experiment import write_text
from vadslim.launch import on_rank_0
from vadslim.slimming.exact import slim_masked
from vadslim.slimming.masked import Masked
from vadslim.sparse_training.level import BEST, Run, open_level, run_level
from vadslim.stages import MARK

RESULTS, CONFIG = 'results.json', 'config.py'
FORMAT = 1
COLUMNS = ('level', 'remain_weight', 'remain_weight_element', 'struct_head', 'best_epoch', 'val', 'test', 'test_last')


def run_levels(run: Run, table: str = 'levels.csv', console: Console | None = None) -> list[dict[str, Any]]:
    """Train each level that is not done; write ``results.json`` and a table after each.

    Before the first level that is to be trained, or was trained with other settings, nothing in the folder changes.

    Args:
        run: what is trained, and where.
        table: name of the table's file.
        console: prints the table at the end.

    Returns:
        An entry per level.
    """
    on_rank_0(lambda: _check_folder(run, table))
    levels: list[dict[str, Any]] = []
    for number in range(run.settings.pruning_times):
        step = on_rank_0(partial(open_level, run, number))
        if step.done:
            say(f'level {number}: {step.folder}: done already, reused')
            levels.append(dict(step.done['result']))
        else:
            on_rank_0(lambda: _begin(run, levels, table))
            levels.append(run_level(run, number, step))
            on_rank_0(lambda: _write(run, levels, table))
        last = levels[-1]
        say(
            f'level {number}: {last["remain_weight"]:.2f} % of the weights, val {last["val"]:.2f} %, '
            f'test {last["test"]:.2f} % (epoch {last["best_epoch"]})'
        )
        if run.slim and number and run.settings.struct != 'imp':
            on_rank_0(partial(_slim, run, number, console or Console()))
    on_rank_0(lambda: _begin(run, levels, table))
    if console is not None and is_main_process():
        console.print(_table(levels))
    return levels


def _check_folder(run: Run, table: str) -> None:
    """Refuse a folder in which the files of a run would replace others."""
    if Path(table).name != table or table in (RESULTS, CONFIG) or table.startswith('level_'):
        raise UserError(f'--file_name {table!r}: the name of a table, such as levels.csv, is needed')
    theirs = [name for name in (CONFIG, RESULTS, table) if (run.folder / name).exists()]
    if theirs and not is_run(run.folder):
        raise UserError(f'{run.folder}: its {theirs[0]} is not of a run of this command; choose a new or empty folder')


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, begun or whole."""
    try:
        content = json.loads((folder / RESULTS).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        content = None
    known = isinstance(content, dict) and content.get('format') == FORMAT and 'levels' in content
    return known or any(folder.glob(f'level_*/{MARK}'))


def _slim(run: Run, number: int, console: Console) -> None:
    """From mask to metal: the level's best network without what is dead in it, as a checkpoint of its own."""
    folder = run.level_folder(number)
    options = Masked(
        config=run.folder / CONFIG,
        checkpoint=folder / BEST,
        output_dir=folder / 'slim',
        latency=5,
        overwrite=True,
    )
    try:
        slim_masked(options, 'cuda' if torch.cuda.is_available() else 'cpu', console)
    except UserError as error:  # rows of a ViT's stream may be zero without a unit that could go
        say(f'level {number}: --slim: {error}')


def _begin(run: Run, levels: list[dict[str, Any]], table: str) -> None:
    _write(run, levels, table)  # first: results.json says whose folder this is
    write_text(run.folder / CONFIG, run.cfg.pretty_text)


def _write(run: Run, levels: list[dict[str, Any]], table: str) -> None:
    content = {'format': FORMAT, 'name': run.name, 'settings': run.settings.to_dict(), 'levels': levels}
    write_text(run.folder / RESULTS, json.dumps(content, indent=1) + '\n')
    text = io.StringIO()
    rows = csv.writer(text, lineterminator='\n')
    rows.writerow(COLUMNS)
    rows.writerows([[level.get(name) for name in COLUMNS] for level in levels])
    write_text(run.folder / table, text.getvalue())


def _table(levels: list[dict[str, Any]]) -> Table:
    table = Table(title='accuracy of the masked network, top-1 in %')
    for name in ('level', 'weights left %', 'val', 'test', 'parameters', 'MACs'):
        table.add_column(name, justify='right')
    for level in levels:
        size = level['size'] or {}
        slim = [f'{size[f"{key}_slim"]:,} of {size[key]:,}' if size else '' for key in ('params', 'macs')]
        numbers = [f'{level[name]:.2f}' for name in ('remain_weight', 'val', 'test')]
        table.add_row(str(level['level']), *numbers, *slim)
    return table
