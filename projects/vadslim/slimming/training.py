"""The training step: fine-tune or retrain the slim network under MMEngine's Runner."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from vadslim.checkpoint import load_checkpoint
from vadslim.cli import say
from vadslim.experiment import add_hooks, check_trainable
from vadslim.hooks import Start, choose_start, fine_tune_config
from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.launch import adapt_to_device, on_rank_0
from vadslim.slimming.network import read_config
from vadslim.slimming.options import Options
from vadslim.slimming.outputs import SLIM
from vadslim.stages import Step, open_step

FOLDERS = {'fine-tune': 'fine_tuned', 'retrain': 'retrained'}
# what the Runner writes into its work_dir: checkpoints, and a folder of logs per start, named after the time
LEAVES = ('epoch_*.pth', 'iter_*.pth', 'best_*.pth', 'latest.pth', 'last_checkpoint', '[0-9]' * 8 + '_' + '[0-9]' * 6)


def check_training(options: Options) -> None:
    """Raises a ``UserError`` if the config cannot be trained: better now than after the pruning."""
    assert options.mode is not None
    cfg = read_config(options.config, options.cfg_options)
    check_trainable(cfg, options.config)
    fine_tune_config(cfg, options.mode, options.epochs)


def train(config: Path, options: Options, launcher: str) -> None:
    """Trains the slim network in ``fine_tuned/`` or ``retrained/``; reuses or resumes what is there.

    Args:
        config: the slim config that the pruning step wrote.
        options: the command's arguments; ``mode`` is set.
        launcher: who started the processes, 'none' for one.

    Raises:
        UserError: the folder holds another recipe's results.
    """
    folder = options.output_dir / FOLDERS[str(options.mode)]
    cfg = training_config(config, options)

    def begin() -> tuple[Step | None, Path, Start]:
        return _begin(cfg, config, folder, options)

    step, source, start = on_rank_0(begin)
    if step is None:
        return
    cfg.work_dir = str(folder)
    cfg.experiment_name = f'{config.stem}_{folder.name}_{time.time_ns()}'  # a name belongs to one Runner only
    cfg.load_from, cfg.resume = str(source), start.resume
    adapt_to_device(cfg, launcher)
    say(f'{options.mode} in {folder}: {start.reason}')
    begun = time.monotonic()
    Runner.from_cfg(cfg).train()
    if is_main_process():
        last = f'epoch_{options.epochs}.pth'
        step.finish([last, 'latest.pth'], {'epochs': options.epochs}, time.monotonic() - begun)
        say(f'{options.mode} done: {folder / last} (also {folder / "latest.pth"})')


def training_config(config: Path, options: Options) -> Config:
    """The slim config with the learning-rate law, hooks, seed and workers of the mode."""
    cfg = read_config(config)
    for key, value in fine_tune_config(cfg, str(options.mode), options.epochs).items():
        cfg._cfg_dict.pop(key, None)  # assigning a dict would merge
        cfg[key] = value
    add_hooks(cfg)
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


def _begin(cfg: Config, config: Path, folder: Path, options: Options) -> tuple[Step | None, Path, Start]:
    """The step (None if it is whole), the checkpoint to start from, and how."""
    slim = options.output_dir / SLIM
    recipe = {'config': cfg.to_dict(), 'mode': options.mode, 'epochs': options.epochs}
    for name in ('load_from', 'work_dir'):
        recipe['config'].pop(name, None)
    recipe['config']['model'].pop('structure', None)  # a path; the checkpoint holds the structure itself
    leaves = [*LEAVES, config.name]
    step = open_step(folder, str(options.mode), recipe, {'checkpoint': slim}, options.overwrite, leaves)
    mode = str(options.mode)
    if step.done:
        say(f'{folder}: {mode} is done already, reused')
        return None, slim, Start(False, '')
    latest = find_latest(folder) if step.resumed else None
    if latest is not None:
        start = choose_start(load_checkpoint(latest), mode, options.epochs)
        if start.resume:
            return step, latest, start
    return step, slim, choose_start(load_checkpoint(slim), mode, options.epochs)
