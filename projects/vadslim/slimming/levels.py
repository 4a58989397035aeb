"""The whole command: prune, train and judge, level by level; every level is a folder that is skipped when whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vadslim.analysis import GroupRow
from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError, say
from vadslim.hooks.slim_model import checkpoint_structure
from vadslim.launch import on_rank_0
from vadslim.pruning import Structure
from vadslim.slimming.edits import Edited
from vadslim.slimming.guards import breaches
from vadslim.slimming.network import load_network, read_config
from vadslim.slimming.options import Options, Turn
from vadslim.slimming.outputs import REPORT, SLIM
from vadslim.slimming.prune import Clock, Slimmed, open_levels, settings
from vadslim.slimming.reporting import write_report
from vadslim.slimming.training import evaluate, train
from vadslim.stages import Step

Row = dict[str, Any]


def work(options: Options, device: str, launcher: str, console: Console, prune: Callable[..., Path | None]) -> None:
    """Prunes, trains and judges; once, or level by level until one breaks a limit.

    Args:
        options: the command's arguments.
        device: 'cuda' or 'cpu'.
        launcher: who started the processes, 'none' for one.
        console: says what is going on.
        prune: does the pruning step of some options; returns the slim config.

    Raises:
        UserError: nothing smaller than the network as it is holds the limits; and all that pruning and training raise.
    """
    top = on_rank_0(lambda: open_levels(options)) if options.levels > 1 else None
    rows = [_row_before(options, launcher)]
    checkpoint = options.checkpoint
    for number in range(1, options.levels + 1):
        here = of_level(options, number, checkpoint)
        if options.levels > 1:
            say(f'level {number} of {options.levels}: {here.output_dir}')
        config = prune(here)
        assert config is not None
        checkpoint, metrics = here.output_dir / SLIM, {}
        if options.mode:
            checkpoint, metrics = train(config, here, launcher)
        elif options.limits:
            folder = here.output_dir / 'evaluated'
            metrics = evaluate(read_config(config), checkpoint, folder, options, launcher)
        why = breaches(options.limits, rows[0]['metrics'], metrics)
        rows.append(_row(number, here.output_dir, checkpoint, metrics, why, options))
        if why:
            break
    good = [row for row in rows if row['holds'] is not False]
    if top is not None and not top.done and len(good) > 1:
        on_rank_0(lambda: _summarise(top, options, device, rows, good[-1], console))
    _conclude(options, rows, good)


def of_level(options: Options, number: int, checkpoint: Path | None) -> Options:
    """The arguments of one level; the command's own if there is only one.

    Args:
        options: the command's arguments.
        number: of the level, from 1.
        checkpoint: what the level before left; of the first level, where it all begins.
    """
    if options.levels == 1:
        return options
    units, cost, edits = {}, None, {}
    if number > 1:
        edits = {'keep_layers': (), 'bev_size': None}  # they went at the first level
        first = _read(options.output_dir / 'level_1' / REPORT)
        cost = first['target']['before'] if first['target'] else None
        units = _units(options.checkpoint)
    turn = Turn(number, units, cost)
    folder = options.output_dir / f'level_{number}'
    return replace(options, checkpoint=checkpoint, output_dir=folder, turn=turn, **edits)


def _units(checkpoint: Path | None) -> dict[str, int]:
    """How many units the Groups of a checkpoint have, if it is slim."""
    data = checkpoint_structure(load_checkpoint(checkpoint)) if checkpoint else None
    groups = Structure.from_dict(data, where=str(checkpoint)).groups if data else {}
    return {name: len(group['kept']) for name, group in groups.items()}


def _row_before(options: Options, launcher: str) -> Row:
    """The network as it is: judged if there are limits."""
    metrics: dict[str, float] = {}
    if options.limits:
        if options.checkpoint is None:
            raise UserError(f'{options.limits[0].flag}: a random network has no plan that could get worse')
        cfg = read_config(options.config, options.cfg_options)
        metrics = evaluate(cfg, options.checkpoint, options.output_dir / 'before', options, launcher)
        for limit in options.limits:
            limit.value(metrics)
    return {'level': 0, 'ratio': 0.0, 'metrics': metrics, 'holds': None, 'why': '', 'folder': ''}


def _row(number: int, folder: Path, checkpoint: Path, metrics: dict[str, float], why: str, options: Options) -> Row:
    report = _read(folder / REPORT)
    return {
        'level': number,
        'metrics': metrics,
        'holds': not why if options.limits else None,
        'why': why,
        'folder': folder.name,
        'checkpoint': str(checkpoint.relative_to(options.output_dir)),
        'report': report,
    }


def _conclude(options: Options, rows: list[Row], good: list[Row]) -> None:
    """Says which level is the result, and why a later one is not."""
    last = rows[-1]
    if last['why'] and len(good) == 1:
        raise UserError(f'level {last["level"]}: {last["why"]}; nothing smaller than the network as it is holds')
    if last['why']:
        say(f'level {last["level"]}: {last["why"]}; rolled back to level {good[-1]["level"]}')
    if options.levels > 1:
        say(f'the result is {options.output_dir / good[-1]["checkpoint"]}')


def _summarise(step: Step, options: Options, device: str, rows: list[Row], result: Row, console: Console) -> None:
    """The report of the whole: the network as it was beside the result, and the curves over all levels."""
    clock = Clock(console)
    before = load_network(options.config, options.cfg_options, options.checkpoint, options.seed, device)
    file = options.output_dir / result['checkpoint']
    after = load_network(options.config, options.cfg_options, file, options.seed, device)
    assert after.structure
    units = _units(options.checkpoint)
    groups = [
        GroupRow(name, group['kind'], units.get(name, group['num_units']), len(group['kept']))
        for name, group in after.structure.groups.items()
    ]
    slimmed = Slimmed(Edited(before, before), after.model, after.structure, after.structure, [], {}, groups, 0.0)
    levels = _levels(rows)
    files = [options.checkpoint, file]
    try:
        _, written = write_report(slimmed, options, settings(options), files, clock, levels=levels)
    except OSError as error:
        raise UserError(f'{error.filename or options.output_dir}: cannot be written: {error.strerror}') from error
    step.finish([path.name for path in written], {'result': result['checkpoint']})


def _levels(rows: list[Row]) -> list[Row]:
    """Rows for the report: what each level costs, from its own report.

    Each level was timed in turn with what it was made of, at another time than other levels: their ratios count.
    """
    levels, latency = [], None
    for row in rows:
        report = row.get('report') or rows[1]['report']
        before, after = report['before'], report['after' if row['level'] else 'before']
        if after['latency']:
            own = after['latency']['median_ms']
            latency = latency * own / before['latency']['median_ms'] if latency else own
        levels.append(
            {key: row[key] for key in ('level', 'metrics', 'holds', 'why', 'folder')}
            | {key: after[key] for key in ('params', 'macs')}
            | {'ratio': report['settings'].get('ratio_so_far') if row['level'] else 0.0, 'latency_ms': latency}
        )
    return levels


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding='utf-8'))
