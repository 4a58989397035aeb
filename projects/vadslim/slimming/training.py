"""The training step: fine-tune or retrain the slim network under MMEngine's Runner."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError, say
from vadslim.experiment import add_hooks, build_runner, check_data, check_trainable, never_download, use_structure
from vadslim.hooks import Start, choose_start, fine_tune_config
from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.hooks.distill_hook import distill_config
from vadslim.launch import adapt_to_device, on_rank_0
from vadslim.slimming.network import read_config
from vadslim.slimming.options import Options
from vadslim.slimming.outputs import SLIM
from vadslim.stages import Step, open_step

FOLDERS = {'fine-tune': 'fine_tuned', 'retrain': 'retrained'}
# what the Runner writes into its work_dir: checkpoints, and a folder of logs per start, named after the time
LEAVES = ('epoch_*.pth', 'iter_*.pth', 'best_*.pth', 'latest.pth', 'last_checkpoint', '[0-9]' * 8 + '_' + '[0-9]' * 6)


class LastMetrics(Hook):
    """Remembers what the last validation said; metrics that are no finite numbers are left out."""

    metrics: dict[str, float] = {}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Take them."""
        numbers = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float)}
        self.metrics = {name: value for name, value in numbers.items() if math.isfinite(value)}


def check_training(options: Options) -> None:
    """Raises a ``UserError`` if the config cannot be trained or judged: better now than after the pruning."""
    cfg = read_config(options.config, options.cfg_options)
    if options.mode is not None:
        check_trainable(cfg, options.config)
        fine_tune_config(cfg, options.mode, options.epochs)
    if options.distill:
        distill_config(cfg, str(options.distill))
    if options.limits:
        missing = [key for key in ('val_dataloader', 'val_cfg', 'val_evaluator') if cfg.get(key) is None]
        if missing:
            raise UserError(f'{options.limits[0].flag}: config {options.config} has no {missing[0]} to judge by')
        check_data(cfg, 'val_dataloader', options.config)


def evaluate(cfg: Config, checkpoint: Path, folder: Path, options: Options, launcher: str) -> dict[str, float]:
    """The metrics of a network on the validation data, by the Runner; reused if they are known.

    Args:
        cfg: dense or slim; a dense one is slimmed if the checkpoint is.
        checkpoint: of the weights.
        folder: where the metrics and the log go.
        options: the command's arguments.
        launcher: who started the processes, 'none' for one.
    """
    if options.workers is not None:
        _set_workers(cfg.val_dataloader, options.workers)

    def begin() -> Step:
        recipe = {key: cfg.get(key) for key in ('model', 'val_dataloader', 'val_cfg', 'val_evaluator')}
        recipe = Config(recipe).to_dict() | {'seed': options.seed}
        recipe['model'].pop('structure', None)  # a path; the checkpoint holds the structure itself
        leaves = [*LEAVES, Path(cfg.filename or '').name]
        return open_step(folder, 'evaluation', recipe, {'checkpoint': checkpoint}, options.overwrite, leaves)

    step = on_rank_0(begin)
    if step.done:
        return dict(step.done['result'])
    use_structure(cfg, load_checkpoint(checkpoint), checkpoint.absolute())
    add_hooks(cfg)
    never_download(cfg)
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': options.seed}
    cfg.load_from, cfg.resume = str(checkpoint), False
    say(f'evaluation of {checkpoint}')
    last = _run(cfg, folder, launcher, lambda runner: runner.val())
    if is_main_process():
        step.finish([], last)
    return last


def _run(cfg: Config, folder: Path, launcher: str, work: Callable[[Runner], Any]) -> dict[str, float]:
    """Lets a Runner work in a folder; returns the metrics of its last validation."""
    cfg.work_dir = str(folder)
    cfg.experiment_name = f'{folder.parent.name}_{folder.name}_{time.time_ns()}'  # a name belongs to one Runner only
    adapt_to_device(cfg, launcher)
    runner = build_runner(cfg, folder.name)
    hook = LastMetrics()
    runner.register_hook(hook, 'VERY_LOW')
    work(runner)
    return hook.metrics


def train(config: Path, options: Options, launcher: str) -> tuple[Path, dict[str, float]]:
    """Trains the slim network in ``fine_tuned/`` or ``retrained/``; reuses or resumes what is there.

    Args:
        config: the slim config that the pruning step wrote.
        options: the command's arguments; ``mode`` is set.
        launcher: who started the processes, 'none' for one.

    Returns:
        The last checkpoint, and the metrics of the last validation.

    Raises:
        UserError: the folder holds another recipe's results.
    """
    folder = options.output_dir / FOLDERS[str(options.mode)]
    cfg = training_config(config, options)

    def begin() -> tuple[Step, Path, Start]:
        return _begin(cfg, config, folder, options)

    step, source, start = on_rank_0(begin)
    last = folder / f'epoch_{options.epochs}.pth'
    if step.done:
        return last, step.done['result'].get('metrics', {})
    cfg.load_from, cfg.resume = str(source), start.resume
    say(f'{options.mode} in {folder}: {start.reason}')
    begun = time.monotonic()
    metrics = _run(cfg, folder, launcher, lambda runner: runner.train())
    if is_main_process():
        result = {'epochs': options.epochs, 'metrics': metrics}
        step.finish([last.name, 'latest.pth'], result, time.monotonic() - begun)
        say(f'{options.mode} done: {last} (also {folder / "latest.pth"})')
    return last, metrics


def training_config(config: Path, options: Options) -> Config:
    """The slim config with the learning-rate law, hooks, seed and workers of the mode."""
    cfg = read_config(config)
    for key, value in fine_tune_config(cfg, str(options.mode), options.epochs).items():
        cfg._cfg_dict.pop(key, None)  # assigning a dict would merge
        cfg[key] = value
    add_hooks(cfg)
    if options.distill:
        cfg.custom_hooks = [*cfg.custom_hooks, distill_config(cfg, str(options.distill.absolute()))]
    cfg.default_hooks['checkpoint'].update(by_epoch=True, save_last=True)
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': options.seed}
    if options.workers is not None:
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(name):
                _set_workers(cfg[name], options.workers)
    return cfg


def _set_workers(loader: Any, workers: int) -> None:
    loader.num_workers = workers
    if workers == 0:  # torch refuses these without workers
        loader.persistent_workers = False
        for name in ('prefetch_factor', 'multiprocessing_context'):
            loader.pop(name, None)


def _begin(cfg: Config, config: Path, folder: Path, options: Options) -> tuple[Step, Path, Start]:
    """The step, the checkpoint to start from, and how."""
    slim = options.output_dir / SLIM
    recipe = {'config': cfg.to_dict(), 'mode': options.mode, 'epochs': options.epochs}
    for name in ('load_from', 'work_dir'):
        recipe['config'].pop(name, None)
    recipe['config']['model'].pop('structure', None)  # a path; the checkpoint holds the structure itself
    inputs = {'checkpoint': slim}
    if options.distill:
        inputs['teacher'] = options.distill
        for hook in recipe['config']['custom_hooks']:
            hook.pop('teacher', None)  # a path too
    leaves = [*LEAVES, config.name]
    step = open_step(folder, str(options.mode), recipe, inputs, options.overwrite, leaves)
    mode = str(options.mode)
    if step.done:
        say(f'{folder}: {mode} is done already, reused')
        return step, slim, Start(False, '')
    latest = find_latest(folder) if step.resumed else None
    if latest is not None:
        start = choose_start(load_checkpoint(latest), mode, options.epochs)
        if start.resume:
            return step, latest, start
    return step, slim, choose_start(load_checkpoint(slim), mode, options.epochs)
