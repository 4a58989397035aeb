"""``train_stages.py``: one config, all stages."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vadslim.cli import UserError, run, say, was_interrupted
from vadslim.staged.extends import YAML, read_config
from vadslim.staged.flags import overrides_of, parse_args
from vadslim.staged.tasks import import_tasks

LATEST = 'checkpoint_latest.pth'
MOST = 8  # metrics in the table; done.json has them all
COLUMNS = ('stage', 'kind', 'epochs', 'seconds', 'checkpoint', 'last metrics')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 2 a user's mistake (one line), 130 interrupted."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> int | None:
    options = parse_args(argv)
    logging.raiseExceptions = False  # a full disk is said in one line, not by a traceback for each line of the log
    import_tasks(options.imports)
    overrides = overrides_of(options)
    from vadslim.launch import choose_machine, torchrun

    device, said = _device(options, overrides)
    try:
        # before anything imports MMEngine
        machine = choose_machine(options.gpus, options.gpu_ids, options.launcher, device)
    except UserError as error:
        raise UserError(str(error).replace('--device', said)) from None
    try:
        if machine.processes:
            return torchrun('vadslim.staged.cli', argv, machine.processes)
        return _stages(options, overrides, machine.launcher)
    except BaseException as error:
        if (was_interrupted(error) or _was_ended(error)) and 'TORCHELASTIC_RUN_ID' not in os.environ:
            say(f'to go on: {_again(argv, options)}')
        raise


def _device(options: argparse.Namespace, overrides: Mapping[str, Any]) -> tuple[str | None, str]:
    """The device that the stages shall run on, and where that was said. A Python config does not say it."""
    given, is_yaml = overrides.get('device.type'), str(options.config).lower().endswith(YAML)
    path = None if options.resume in (None, 'latest') else Path(options.resume)
    if given is not None or not (is_yaml or (path and not options.config)):
        return given, '--device'
    from vadslim.staged.settings import resolve

    saved, name = None, options.stage
    if path is not None:
        from vadslim.checkpoint import load_checkpoint
        from vadslim.checkpoint_format import held_config

        checkpoint = load_checkpoint(path)
        saved, name = held_config(checkpoint), (checkpoint.get('metadata') or {}).get('stage')
        if not options.config and (saved is None or saved.get('task') is None):
            return None, ''
    stages = resolve(options.config, overrides, saved, name if path else None).select(name, options.run_all_stages)
    devices = {stage.device: stage.name for stage in stages}
    if len(devices) > 1:
        wanted = ', '.join(f'{stage}: {device or "null"}' for device, stage in devices.items())
        raise UserError(f'{options.config}: device.type differs between stages ({wanted}): run them one by one')
    (device,) = devices
    if not is_yaml or device is None:
        return device, f'{path}: device.type'
    source = read_config(Path(options.config))
    keys = (*(f'stages.{stage.name}.device.type' for stage in stages), 'device.type')
    return device, f'{source.where(next((key for key in keys if key in source.lines), ""))}: device.type'


def _stages(options: argparse.Namespace, overrides: dict[str, Any], launcher: str) -> None:
    from vadslim.launch import init_distributed
    from vadslim.staged.run import run_stages
    from vadslim.staged.settings import resolve
    from vadslim.stages import MARK

    init_distributed(launcher)
    saved, name, source = None, options.stage, None
    if options.resume not in (None, 'latest'):
        source = Path(options.resume)
        saved, name = _resumed(source, options.stage, options.config)
    plan = resolve(options.config, overrides, saved, name if source else None)
    if source and 'training.save_dir' not in overrides:
        folder, here = plan.select(name)[0].folder, source.parent
        if folder.absolute() != here.absolute() and here.name == name and (here / MARK).is_file():  # ours: it stays
            overrides = {**overrides, 'training.save_dir': str(here.parent)}
            plan = resolve(options.config, overrides, saved, name)
    for note in plan.notes:
        say(note)
    stages = plan.select(name, options.run_all_stages)
    done = run_stages(plan, stages, launcher, options.overwrite, options.resume is not None, source)
    if not int(os.environ.get('RANK', 0)):
        _print([stage.kind for stage in stages], [stage.name for stage in stages], done)


def _resumed(path: Path, asked: str | None, config: str | None) -> tuple[Mapping[str, Any] | None, str]:
    """The config and the stage of a checkpoint."""
    from vadslim.checkpoint import load_checkpoint
    from vadslim.checkpoint_format import held_config
    from vadslim.experiment import config_of
    from vadslim.staged.resume import check_state

    checkpoint = load_checkpoint(path)
    check_state(checkpoint, path)
    name = (checkpoint.get('metadata') or {}).get('stage')
    if not isinstance(name, str):
        raise UserError(f'{path}: does not say which stage it is of; it is none of train_stages.py')
    if asked not in (None, name):
        raise UserError(f'--stage {asked}: {path} is of stage {name}')
    try:
        held = held_config(checkpoint)
    except ValueError as error:
        raise UserError(f'{path}: its config cannot be read ({error})') from None
    model = (held or {}).get('model')
    if isinstance(model, Mapping) and 'type' in model:  # an MMEngine config, which names what is to be built
        try:
            config_of(checkpoint, path)
        except UserError:
            if config is None:
                raise
            held = None
    return held, name


def _again(argv: Sequence[str], options: argparse.Namespace) -> str:
    """The command that goes on after this one was stopped."""
    words = list(argv)
    if options.resume not in (None, 'latest') and (latest := Path(options.resume).with_name(LATEST)).is_file():
        words = [word.replace(options.resume, str(latest)) for word in words]
    program = re.sub(r'train_(structural|dense)\.py$', 'train_stages.py', sys.argv[0])  # whose arguments these are
    return shlex.join([*(['python'] if program.endswith('.py') else []), program, *words])


def _was_ended(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128


def _print(kinds: Sequence[str], names: Sequence[str], done: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from vadslim.analysis.metrics import in_order, is_detail

    table = Table(title='Stages', title_justify='left')
    for column in COLUMNS:
        table.add_column(column, overflow='fold')
    for kind, name, entry in zip(kinds, names, done):
        result = entry['result']
        found = result.get('metrics') or {}
        names = in_order(name for name in found if not is_detail(name))[:MOST]
        metrics = ', '.join(f'{key} {found[key]:.4g}' for key in names)
        seconds = f'{entry.get("seconds", 0):.0f}'
        table.add_row(name, kind, str(result.get('epochs', '')), seconds, result.get('checkpoint') or '', metrics)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == '__main__':
    sys.exit(main())
