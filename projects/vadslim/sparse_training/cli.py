"""``main_imp_fillback.py``: sparse training level by level."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vadslim.cli import FULL, UserError, run
from vadslim.sparse_training.settings import Settings, build_parser

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    from vadslim.sparse_training.level import Run

_MAMBA = ('mamba_pretrained', 'mamba_structured', 'mamba_prune_target', 'mamba_mlp_prune_ratio')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 2 a user's mistake (one line), 130 interrupted."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> int:
    given = parse(argv)
    from vadslim.launch import choose_machine, init_distributed, on_rank_0, torchrun

    ids = given.gpu_ids if given.gpu is None else [given.gpu]
    machine = choose_machine(given.gpus, ids, given.launcher)
    if machine.processes > 1:
        return torchrun('vadslim.sparse_training', argv, machine.processes)
    from rich.console import Console

    from vadslim.checkpoint import register_loader
    from vadslim.sparse_training.recipe import use_imports
    from vadslim.sparse_training.run import run_levels

    register_loader()
    init_distributed(machine.launcher if not machine.processes else 'none')
    plan = on_rank_0(lambda: _plan(given, machine.launcher if not machine.processes else 'none'))
    use_imports(plan.cfg)
    _deterministic(plan.settings)
    width = None if sys.stdout.isatty() else 110
    try:
        run_levels(plan, getattr(given, 'file_name', 'levels.csv'), Console(width=width))
    except OSError as error:  # of whoever was writing: a checkpoint, a log
        if error.errno not in FULL:
            raise
        raise UserError(f'{error.filename or plan.folder}: cannot be written: {error.strerror}') from error
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the flags; raises a ``UserError`` for what is wrong with them alone."""
    given = build_parser().parse_args(argv)
    if used := [name for name in _MAMBA if hasattr(given, name)]:
        raise UserError(f'--{used[0]}: there is no Mamba network here')
    if given.gpu is not None and (given.gpus or given.gpu_ids):
        raise UserError('--gpu: one GPU; --gpus and --gpu-ids are for several, name one of them')
    if str(getattr(given, 'dataset', '')).endswith('_trigger'):
        raise UserError(f'--dataset {given.dataset}: data with a trigger (backdoor) are not supported')
    vit = any(hasattr(given, name) for name in ('vit_pretrained', 'vit_pretrained_21k'))
    if vit and not hasattr(given, 'pretrained'):
        raise UserError('--vit_pretrained: nothing is downloaded; name the file, --pretrained FILE')
    if hasattr(given, 'checkpoint') and not hasattr(given, 'resume'):
        raise UserError('--checkpoint: is for --resume; weights to start from are --init or --pretrained')
    if hasattr(given, 'pretrained') and hasattr(given, 'init'):
        raise UserError('--init and --pretrained: both are what level 0 starts from, one of them is needed')
    return given


def _plan(given: argparse.Namespace, launcher: str) -> Run:
    """What is to be done; folders are made, files are read."""
    from vadslim.experiment import check_backends
    from vadslim.sparse_training.level import Run
    from vadslim.sparse_training.pruning import check
    from vadslim.sparse_training.recipe import load_recipe
    from vadslim.sparse_training.run import is_run

    flags = vars(given)
    cfg, settings = load_recipe(given.config, flags, given.cfg_options)
    _check_machine(settings)
    check_backends(cfg)
    check(_buildable(cfg, settings), settings, cfg.optim_wrapper.optimizer)
    folder = _folder(flags, settings)
    if hasattr(given, 'resume') and not is_run(folder):
        raise UserError(f'--resume: {folder} holds no run to go on with')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--save_dir {folder}: cannot be created: {error.strerror}') from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f'--save_dir {folder}: cannot be written')
    dense = Path(flags['dense_level']) if 'dense_level' in flags else folder / 'level_0'
    return Run(
        cfg=cfg,
        settings=settings,
        folder=folder,
        dense=dense,
        launcher=launcher,
        inputs=_inputs(cfg, flags, settings),
        overwrite=given.__dict__.get('overwrite', False),
        slim=flags.get('slim', False),
        title=flags.get('exp_name', ''),
    )


def _folder(flags: dict[str, Any], settings: Settings) -> Path:
    """The run's folder: named, that of the checkpoint to resume from, or made of the settings."""
    if 'checkpoint' in flags:
        path = Path(flags['checkpoint']).absolute()
        from vadslim.sparse_training.run import is_run

        found = next((parent for parent in path.parents if is_run(parent)), None)
        if not path.is_file() or found is None:
            raise UserError(f'--checkpoint {path}: is no file of a run (a folder with results.json)')
        return found
    name = flags.get('exp_name') or run_name(settings)
    if 'save_dir' in flags:
        return Path(flags['save_dir'])
    return Path('work_dirs') / name


def run_name(settings: Settings) -> str:
    """The name of a run, as RSST's public code made it for WandB, without the date."""
    s = settings
    parts = [s.struct, s.arch, s.dataset]
    if s.struct == 'rsst':
        parts += [f'sched_{s.RST_schedule}', f'reg_{s.reg_granularity_prune:g}']
        if s.RST_schedule == 'exp_custom_exponents':
            parts.append(f'exp{s.exponents:g}')
    if s.struct == 'refill':
        parts.append(f'fill_{s.fillback_rate:g}')
    if s.struct != 'imp':
        parts.append(f'crit_{s.criteria}')
    parts.append(f'rate_{s.rate:g}')
    if s.vit_structured:
        parts.append(f'struct_{s.vit_prune_target}')
    return '_'.join([*parts, f'seed_{s.seed}'])


def _buildable(cfg: Config, settings: Settings) -> nn.Module:
    from vadslim.sparse_training.level import build

    try:
        return build(cfg)
    except (TypeError, ValueError) as error:  # arguments that its class does not take
        raise UserError(f'--arch {settings.arch}: {cfg.model.type} cannot be built: {error}') from error


def _check_machine(settings: Settings) -> None:
    import torch

    if settings.amp and not torch.cuda.is_available():
        raise UserError('--amp: mixed precision needs a GPU, and there is none; leave it out')


def _deterministic(settings: Settings) -> None:
    import torch

    if settings.deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True, warn_only=True)


def _inputs(cfg: Config, flags: dict[str, Any], settings: Settings) -> dict[str, Path]:
    """The files that level 0 starts from; ``--init`` writes one that is not there."""
    from vadslim.checkpoint_format import write_checkpoint
    from vadslim.cli import say
    from vadslim.hooks.level_hook import STAGE
    from vadslim.sparse_training.level import build
    from vadslim.sparse_training.start import initial_weights

    if 'pretrained' in flags:
        path = Path(flags['pretrained'])
        if not path.is_file():
            raise UserError(f'--pretrained {path}: no such file; nothing is downloaded')
        return {'pretrained': path}
    if 'init' not in flags:
        return {}
    path = Path(flags['init'])
    if path.is_file():
        initial_weights(build(cfg), {'init': path})  # raises what is wrong with it before a folder is touched
        say(f'--init {path}: initial weights are read from it')
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--init {path}: its folder cannot be created: {error.strerror}') from None
        meta = {'epoch': 0, 'arch': settings.arch, 'seed': settings.seed}
        content = {'state_dict': build(cfg).state_dict(), 'meta': meta}
        write_checkpoint(content, path, config=cfg.to_dict(), stage=STAGE)
        say(f'--init {path}: initial weights of seed {settings.seed} are written to it')
    return {'init': path}
