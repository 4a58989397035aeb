"""All levels of a run, one after the other, and the file that tells of them."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from rich.console import Console
from rich.table import Table

from vadslim.checkpoint import atomic_write
from vadslim.cli import UserError, say
from vadslim.launch import on_rank_0
from vadslim.slimming.exact import slim_masked
from vadslim.slimming.masked import Masked
from vadslim.sparse_training.level import BEST, Run, run_level

RESULTS, CONFIG = 'results.json', 'config.py'
FORMAT = 1
COLUMNS = ('level', 'remain_weight', 'remain_weight_element', 'struct_head', 'best_epoch', 'val', 'test', 'test_last')


def run_levels(run: Run, table: str = 'levels.csv', console: Console | None = None) -> list[dict[str, Any]]:
    """Train each level that is not done; write ``results.json`` and a table after each.

    Args:
        run: what is trained, and where.
        table: name of the table's file.
        console: prints the table at the end.

    Returns:
        An entry per level.
    """
    if is_main_process():
        with atomic_write(run.folder / CONFIG) as file:
            file.write(run.cfg.pretty_text)
    levels: list[dict[str, Any]] = []
    for number in range(run.settings.pruning_times):
        levels.append(run_level(run, number))
        on_rank_0(lambda: _write(run, levels, table))
        last = levels[-1]
        say(
            f'level {number}: {last["remain_weight"]:.2f} % of the weights, val {last["val"]:.2f} %, '
            f'test {last["test"]:.2f} % (epoch {last["best_epoch"]})'
        )
        if run.slim and number and run.settings.struct != 'imp':
            on_rank_0(partial(_slim, run, number, console or Console()))
    if console is not None and is_main_process():
        console.print(_table(levels))
    return levels


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


def _write(run: Run, levels: list[dict[str, Any]], table: str) -> None:
    with atomic_write(run.folder / RESULTS) as file:
        content = {'format': FORMAT, 'name': run.folder.name, 'settings': run.settings.to_dict(), 'levels': levels}
        json.dump(content, file, indent=1)
        file.write('\n')
    with atomic_write(run.folder / Path(table).name) as file:
        rows = csv.writer(file, lineterminator='\n')
        rows.writerow(COLUMNS)
        rows.writerows([[level.get(name) for name in COLUMNS] for level in levels])


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
