"""Stages one after the other: each is a step with a folder of its own, linked to the next by the file it leaves.

A whole stage is reused, an interrupted one goes on from its last checkpoint, one of other settings is left alone
unless the user says ``--resume`` or ``--overwrite``.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vadslim import experiment
from vadslim.checkpoint import load_checkpoint, register_loader
from vadslim.checkpoint_format import held_config
from vadslim.cli import UserError, is_user_error, say
from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.hooks.stage_checkpoint_hook import same_file
from vadslim.launch import on_rank_0
from vadslim.staged.kinds import COMMANDS, Command, check_options
from vadslim.staged.settings import BEST, RANDOM, Plan, Stage, initial_checkpoint
from vadslim.staged.stage_folder import CONFIG, open_folder, stage_config
from vadslim.staged.training import train
from vadslim.stages import Step


def run_stages(
    plan: Plan,
    stages: Sequence[Stage],
    launcher: str = 'none',
    overwrite: bool = False,
    resume: bool = False,
    resumed: Path | None = None,
) -> list[dict[str, Any]]:
    """Run stages, each from what the one before it left.

    Args:
        plan: all stages of the config.
        stages: those to run, in order.
        launcher: who started the processes, 'none' for one.
        overwrite: clear folders that hold results of other settings.
        resume: go on in folders that hold results of other settings.
        resumed: the checkpoint that the first of the stages goes on from; by default its latest.

    Returns:
        What ``done.json`` of each holds.

    Raises:
        UserError: a stage cannot be run; one line.
    """
    register_loader()
    for stage in stages:  # better now than after days of training the first
        check(stage)
    done: list[dict[str, Any]] = []
    left: Path | None = None
    for number, stage in enumerate(stages, 1):
        say(f'stage {number} of {len(stages)}: {stage.name} ({stage.kind}) in {stage.folder}')
        goes_on = resumed if number == 1 else None
        latest = (goes_on or on_rank_0(partial(find_latest, stage.folder))) if resume else None
        source = _source(plan, stage, left, latest)
        if stage.kind == 'train':
            for line in stage.notes:
                say(f'stage {stage.name}: {line}')
            done.append(train(stage, source, launcher, overwrite, resume, goes_on))
        else:
            done.append(command(stage, source, launcher, overwrite, COMMANDS[stage.kind]))
        file = done[-1]['result'].get('checkpoint')
        left = stage.folder / file if file else left  # a test leaves nothing, the next stage goes on from before it
    return done


def check(stage: Stage) -> None:
    """Check what can be known of a stage before any is run.

    Raises:
        UserError: its config or its options cannot be used, or its folder cannot be written.
    """
    cfg = stage_config(stage)
    if stage.kind == 'train':
        experiment.check_trainable(cfg, stage.name)
        experiment.check_backends(cfg)
    else:
        try:
            check_options(stage.kind, cfg, stage.options)
        except UserError as error:
            raise UserError(f'stage {stage.name} ({stage.kind}): {error}') from error
    place = next(path for path in (stage.folder.absolute(), *stage.folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise UserError(f'{stage.folder}: cannot be created: {place} is a file')
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f'{stage.folder}: cannot be written')


def command(stage: Stage, source: Path | None, launcher: str, overwrite: bool, kind: Command) -> dict[str, Any]:
    """Run a stage that is one of vadslim's commands.

    Args:
        stage: not of kind train.
        source: the checkpoint that the command works on.
        launcher, overwrite: as ``run_stages`` takes them.
        kind: the command.

    Returns:
        What ``done.json`` holds.

    Raises:
        UserError: there is no checkpoint, or the command failed.
        KeyboardInterrupt: the command was stopped.
    """
    if source is None and kind.needs_checkpoint:
        raise UserError(f'stage {stage.name} ({stage.kind}): needs a checkpoint: a stage before it, or init_from')
    cfg = stage_config(stage)

    def begin() -> Step:
        step = open_folder(stage, cfg, source, overwrite, {'options': stage.options})
        if step.done is None:
            experiment.write_text(stage.folder / CONFIG, cfg.pretty_text)
        return step

    step = on_rank_0(begin)
    if step.done:
        say(f'stage {stage.name}: done already, reused')
        return dict(step.done)
    begun = time.monotonic()
    argv = kind.arguments(stage.folder / CONFIG, source, stage.folder, stage.options)
    if overwrite and kind.can_overwrite:
        argv.append('--overwrite')
    try:
        if kind.on_all_ranks:
            code = kind.main([*argv, *([] if launcher == 'none' else ['--launcher', launcher])])
        else:
            code = on_rank_0(lambda: kind.main(argv))
    except Exception as error:
        if not is_user_error(error):
            raise
        raise UserError(f'stage {stage.name} ({stage.kind}): {error}') from error
    if code == 130:
        raise KeyboardInterrupt
    if code > 128:  # a signal
        raise SystemExit(code)
    if code:
        raise UserError(f'stage {stage.name} ({stage.kind}): failed with exit code {code}, see above')
    return on_rank_0(lambda: _finish(step, kind, stage.options, begun))


def _finish(step: Step, kind: Command, options: Mapping[str, Any], begun: float) -> dict[str, Any]:
    """Give the checkpoint that a command has left the name that the next stage asks for, and declare it done."""
    left = kind.leaves(step.folder, options)
    if left is not None:
        same_file(left.resolve(), step.folder / BEST)  # latest.pth is a symbolic link
    metrics = {
        name: float(value) for name, value in kind.metrics(step.folder).items() if isinstance(value, int | float)
    }
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    result = {'checkpoint': BEST if left else None, 'metrics': finite}
    return step.finish([CONFIG, *([BEST] if left else [])], result, time.monotonic() - begun)


def _source(plan: Plan, stage: Stage, left: Path | None, latest: Path | None) -> Path | None:
    """What a stage starts from, or what the one that is resumed did; that need not be there any more."""
    if latest is not None:
        entries = (held_config(load_checkpoint(latest)) or {}).get('stages')
        entry = entries[0] if isinstance(entries, list) and entries else None
        begun = entry.get('init_from') if isinstance(entry, dict) else None
        if begun == RANDOM:
            return None
        if isinstance(begun, str) and Path(begun).is_file():
            return Path(begun)
    try:
        source = initial_checkpoint(plan, stage, left)
    except UserError:
        if latest is None:
            raise
        return None
    theirs = stage.settings.get('load_from')
    if source is None and stage.init_from != RANDOM and stage.kind == 'train' and isinstance(theirs, str):
        return Path(theirs)  # an MMEngine config's own
    return source
