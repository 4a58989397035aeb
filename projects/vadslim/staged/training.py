"""A stage of kind train: begun, gone on with, or found done."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from vadslim import experiment
from vadslim.checkpoint import load_checkpoint
from vadslim.checkpoint_format import held_config, plain_config
from vadslim.cli import UserError, say, was_interrupted
from vadslim.hooks import FiniteHook, StructureHook
from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.hooks.transfer import compare_architecture
from vadslim.launch import adapt_to_device, on_rank_0
from vadslim.old_layouts import is_old_layout, outside_of_halves
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
from vadslim.staged.settings import BEST, RANDOM, Stage
from vadslim.staged.stage_folder import CONFIG, open_folder, stage_config
from vadslim.stages import MARK, OtherRecipeError, Step, lock

_BYTES = 4 * 3  # of a parameter in a checkpoint: itself and Adam's two moments


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
        _check_source(stage, cfg, source)  # before anything is cleared
    try:
        step = open_folder(stage, cfg, source, overwrite, adopt=adopt)
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


def _check_source(stage: Stage, cfg: Config, source: Path) -> None:
    """Check what :func:`_runner` does of a stage's first weights, without a Runner, which writes into the folder."""
    cfg = copy.deepcopy(cfg)
    checkpoint = load_checkpoint(source)
    weights = experiment.weights_of(checkpoint, source)
    experiment.use_structure(cfg, checkpoint, source)
    experiment.never_download(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if experiment.bare(hook.get('type')) == 'StructureHook']
    declared = HOOKS.build(hooks[0]) if hooks else StructureHook()
    transfer = compare_architecture(weights, MODELS.build(cfg.model))
    allowed = (*declared.allow_missing, *outside_of_halves(checkpoint, transfer.new))
    transfer.check(f'stage {stage.name}: {source}', allowed, declared.allow_unexpected)


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


def _left_by(folder: Path) -> Path:
    """The checkpoint for the next stage: the best one if one was chosen."""
    best = folder / BEST
    found = best if best.is_file() else find_latest(folder)
    if found is None:
        raise UserError(f'{folder}: the training has left no checkpoint')
    return found


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
