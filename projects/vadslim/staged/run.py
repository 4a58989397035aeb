"""Stages one after the other: each is a step with a folder of its own, linked to the next by the file it leaves.

A whole stage is reused, an interrupted one goes on from its last checkpoint, one of other settings is left alone
unless the user says ``--resume`` or ``--overwrite``.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from vadslim import experiment
from vadslim.checkpoint import load_checkpoint, register_loader
from vadslim.checkpoint_format import held_config, plain_config
from vadslim.cli import UserError, is_user_error, say, was_interrupted
from vadslim.hooks import FiniteHook, StructureHook
from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.hooks.stage_checkpoint_hook import same_file
from vadslim.hooks.transfer import compare_architecture
from vadslim.launch import adapt_to_device, on_rank_0
from vadslim.old_layouts import is_old_layout, outside_of_halves
from vadslim.slimming.training import LEAVES
from vadslim.staged.kinds import COMMANDS, Command, check_options
from vadslim.staged.resume import (
    KeptMetrics,
    NewSettings,
    SameBuffers,
    check_resumable,
    differences,
    set_aside,
    shorten,
    workers_note,
)
from vadslim.staged.settings import BEST, RANDOM, Plan, Stage, initial_checkpoint
from vadslim.stages import DONE, MARK, OtherRecipeError, Step, lock, open_step

CONFIG = 'config.py'  # of a stage, resolved: what other commands take
#: keys of a config on which no result depends
_NOT_RESULTS = ('work_dir', 'experiment_name', 'load_from', 'resume', 'visualizer', 'log_level', 'default_hooks',
                'env_cfg', 'stages')  # fmt: skip
#: task -> the module whose ``to_config(settings, stage)`` makes MMEngine configs of its settings
RECIPES = {'ink': 'vadslim.examples.ink.recipe'}
_BYTES = 4 * 3  # of a parameter in a checkpoint: itself and Adam's two moments


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


def stage_config(stage: Stage, source: Path | None = None) -> Config:
    """The MMEngine config of a stage that starts from a checkpoint."""
    task = stage.settings.get('task')
    if task is None:
        cfg = Config(stage.settings)
    else:
        recipe = import_module(RECIPES.get(task, task))
        entry = {'name': stage.name, 'init_from': str(source) if source else None, 'device': stage.device}
        cfg = Config(recipe.to_config(stage.settings, entry))
    cfg.work_dir = str(stage.folder)
    randomness = cfg.get('randomness') or {}
    cfg.randomness = {**randomness, 'seed': randomness.get('seed') or 0}  # a run without one could not be repeated
    return cfg


def train(
    stage: Stage,
    source: Path | None,
    launcher: str = 'none',
    overwrite: bool = False,
    resume: bool = False,
    resumed: Path | None = None,
) -> dict[str, Any]:
    """Train a stage, or go on with it, or find it done.

    Args:
        stage: of kind train.
        source: the checkpoint that it starts from; None: random weights.
        launcher, overwrite, resume, resumed: as ``run_stages`` takes them.

    Returns:
        What ``done.json`` holds.
    """
    cfg = stage_config(stage, source)
    step, latest = on_rank_0(lambda: _begin(stage, cfg, source, overwrite, resume, resumed))
    if step.done:
        say(f'stage {stage.name}: done already, reused')
        return dict(step.done)
    begun = time.monotonic()
    if latest is not None:  # before the Runner writes its log
        on_rank_0(lambda: check_space(stage.folder, latest.stat().st_size))
    runner = _runner(stage, cfg, source, latest, launcher)
    size = _BYTES * sum(parameter.numel() for parameter in runner.model.parameters())
    on_rank_0(lambda: check_space(stage.folder, size))
    last = KeptMetrics()
    runner.register_hook(last, 'LOW')  # before the checkpoint is written
    runner.register_hook(SameBuffers())
    runner.register_hook(FiniteHook())
    try:
        runner.train()
    except BaseException as error:
        if was_interrupted(error):
            kept = find_latest(stage.folder)
            say(f'stage {stage.name}: stopped; {f"{kept} is kept" if kept else "no epoch was finished"}')
        raise

    def finish() -> dict[str, Any]:
        result = {'checkpoint': _left_by(stage.folder).name, 'epochs': runner.epoch, 'metrics': last.metrics}
        return step.finish([result['checkpoint']], result, time.monotonic() - begun)

    return on_rank_0(finish)


def _begin(
    stage: Stage, cfg: Config, source: Path | None, overwrite: bool, resume: bool, resumed: Path | None
) -> tuple[Step, Path | None]:
    """The step, and the checkpoint that it goes on from; on rank 0."""
    adopt = resume and not overwrite
    latest = (resumed or find_latest(stage.folder)) if adopt else None
    if latest is not None:
        checkpoint = load_checkpoint(latest)
        if is_old_layout(checkpoint) and latest.parent.absolute() == stage.folder.absolute():
            raise UserError(f'{latest}: is of another program, in its folder; choose another by --save_dir')
        changes = _changes(stage, checkpoint)
        check_resumable(checkpoint, latest, stage.name, cfg.train_cfg.get('max_epochs'), bool(changes))
        if changes and (stage.folder / MARK).is_file():
            lock(stage.folder)
            set_aside(stage.folder, latest, checkpoint)
    elif adopt:
        say(f'{stage.folder}: nothing to resume from, training starts at epoch 0')
    if overwrite and source is not None:
        experiment.weights_of(load_checkpoint(source), source)  # before anything is cleared
    try:
        step = _open(stage, cfg, source, overwrite, adopt=adopt)
    except OtherRecipeError:
        kept = find_latest(stage.folder)
        changes = _changes(stage, load_checkpoint(kept)) if kept else []
        if not changes:
            raise
        raise UserError(
            f'{stage.folder}: holds a run with other settings ({shorten(changes)}); --resume goes on with it, '
            '--overwrite clears it, --save_dir names another folder'
        ) from None
    return step, None if step.done else latest or find_latest(stage.folder)


def _changes(stage: Stage, checkpoint: Mapping[str, Any]) -> list[str]:
    """The settings in which a stage differs from the checkpoint that it goes on from."""
    now = plain_config(stage.settings) or {}
    return differences(held_config(checkpoint), now, whole=not is_old_layout(checkpoint))


def _runner(stage: Stage, cfg: Config, source: Path | None, latest: Path | None, launcher: str) -> Runner:
    """The Runner of a stage that starts from a checkpoint, or goes on from its own latest one."""
    start = latest or source
    cfg.resume, cfg.load_from = latest is not None, str(start) if start else None
    cfg.experiment_name = f'{stage.name}_{time.time_ns()}'  # a name belongs to one Runner only
    _name_checkpoints(cfg, stage, source)
    experiment.add_hooks(cfg)
    hooks: list[NewSettings] = []
    if start is not None:
        checkpoint = load_checkpoint(start)
        weights = experiment.weights_of(checkpoint, start)
        if experiment.use_structure(cfg, checkpoint, start):
            experiment.keep_structure(cfg, checkpoint, cfg.work_dir)
        experiment.never_download(cfg)
    if latest is not None:
        changes = _changes(stage, checkpoint)
        say(f'stage {stage.name}: goes on from {latest}' + (f'; other settings: {shorten(changes)}' if changes else ''))
        if note := workers_note(held_config(checkpoint), plain_config(stage.settings) or {}):
            say(f'stage {stage.name}: {note}')
        hooks = [NewSettings()] if changes and not is_old_layout(checkpoint) else []  # those follow them anyway
    adapt_to_device(cfg, launcher)
    object.__setattr__(cfg, '_filename', CONFIG)  # the name under which the Runner writes it into the folder
    runner = experiment.build_runner(cfg, stage.name)
    for hook in hooks:
        runner.register_hook(hook)
    if start is not None and latest is None:
        declared = next((hook for hook in runner.hooks if isinstance(hook, StructureHook)), StructureHook())
        transfer = compare_architecture(weights, _unwrapped(runner.model))
        declared.allow_missing += tuple(outside_of_halves(checkpoint, transfer.new))
        transfer.check(f'stage {stage.name}: {start}', declared.allow_missing, declared.allow_unexpected)
        say(f'stage {stage.name}: of {start} {transfer}')
    return runner


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
        step = _open(stage, cfg, source, overwrite, {'options': stage.options})
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


def check_space(folder: Path, size: int) -> None:
    """Check that there is space for two checkpoints of so many bytes: one is written while the one before is there.

    Raises:
        UserError: there is not.
    """
    needed = 2 * size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f'{folder}: {free / 1e6:.1f} MB are free on its disk, two checkpoints of this network take about '
            f'{needed / 1e6:.1f} MB; free some, or choose another folder by --save_dir'
        )


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


def _name_checkpoints(cfg: Config, stage: Stage, source: Path | None) -> None:
    """Let a stage's checkpoints have the names that the next one asks for, in place."""
    hooks = cfg.get('default_hooks') or {}
    theirs = hooks.get('checkpoint') or {}
    if experiment.bare(theirs.get('type')) == 'StageCheckpointHook':
        return
    kept = {key: theirs[key] for key in ('interval', 'save_best', 'rule') if key in theirs}
    if cfg.get('val_cfg') is None:
        kept.pop('save_best', None)
    # from which the stage can be resumed alone
    entry = {'name': stage.name, 'kind': stage.kind, 'init_from': str(source.absolute()) if source else RANDOM}
    config = {**stage.settings, 'stages': [entry]}
    hook = {'type': 'vadslim.StageCheckpointHook', 'stage': stage.name, 'interval': 1, **kept, 'config': config}
    if theirs.get('max_keep_ckpts', -1) > 0:
        hook['keep_last_n'] = theirs['max_keep_ckpts']
    cfg.default_hooks = {**hooks, 'checkpoint': hook}


def _open(
    stage: Stage, cfg: Config, source: Path | None, overwrite: bool, more: dict | None = None, adopt: bool = False
) -> Step:
    """The stage's step; a folder in which nothing was finished is no loss, whatever its settings."""
    recipe = {key: value for key, value in cfg.to_dict().items() if key not in _NOT_RESULTS}
    saver = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    recipe['best'] = [saver.get(key) for key in ('save_best', 'rule')]
    inputs = {'init_from': source} if source else {}
    leaves = [*LEAVES, 'checkpoint_*.pth', 'structure.json', CONFIG, 'pictures', 'tensorboard', 'replaced_*']
    empty = stage.kind == 'train' and find_latest(stage.folder) is None and not (stage.folder / DONE).exists()
    name = f'stage {stage.name}'
    return open_step(stage.folder, name, {'config': recipe, **(more or {})}, inputs, overwrite or empty, leaves, adopt)


def _left_by(folder: Path) -> Path:
    """The checkpoint for the next stage: the best one if one was chosen."""
    best = folder / BEST
    found = best if best.is_file() else find_latest(folder)
    if found is None:
        raise UserError(f'{folder}: the training has left no checkpoint')
    return found


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
