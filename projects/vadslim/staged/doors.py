"""``train_structural.py`` and ``train_dense.py``: the predecessor's flags, as a stage of configs/staged/default.yaml.

A flag that is not given has the value that it had, not the config's. What goes on from a checkpoint of this project
has that run's settings; only the flags that are given count more.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vadslim.cli import Parser, UserError, run, say

CONFIG = Path(__file__).resolve().parents[3] / 'configs' / 'staged' / 'default.yaml'


@dataclass(frozen=True)
class Door:
    """One of the old commands.

    Args:
        stage: what it trains.
        about: for ``--help``.
        keys: flag -> the key that it sets, and its old default; None: it sets nothing if it is not given.
        fixed: what the command always did.
        switches: flags without a value -> key.
    """

    stage: str
    about: str
    keys: Mapping[str, tuple[str, str | None]]
    fixed: Mapping[str, str]
    switches: Mapping[str, str]


_BOTH = {
    'epoch_length': ('training.epoch_length', '10000'),
    'embed_dim': ('model.embed_dim', '128'),
    'num_layers': ('model.num_layers', '4'),
    'num_workers': ('data.num_workers', '4'),
    'lr': ('training.lr', '1e-3'),
    'device': ('device.type', None),
    'log_dir': ('logging.tensorboard_dir', 'runs'),
}
DOORS = {
    'structural': Door(
        'structural',
        'masked pre-training: skeleton and tangents of images most of which is hidden',
        {
            **_BOTH,
            'epochs': ('training.epochs', '50'),
            'batch_size': ('training.batch_size', '64'),
            'mask_ratio': ('training.mask_ratio', '0.6'),
            'mask_strategy': ('training.mask_strategy', 'block'),
            'save_dir': ('training.save_dir', 'checkpoints'),
        },
        {'training.scheduler': 'cosine'},
        {},
    ),
    'dense': Door(
        'dense',
        'all heads',
        {
            **_BOTH,
            'epochs': ('training.epochs', '10'),
            'batch_size': ('training.batch_size', '32'),
            'stage': ('data.curriculum_stage', '2'),
            'save_dir': ('training.save_dir', 'checkpoints_dense'),
            'vis_interval': ('logging.vis_interval', '2'),
        },
        {'training.scheduler': 'constant', 'training.curriculum.enabled': 'false'},
        {'freeze_encoder': 'model.freeze_encoder'},
    ),
}


def structural(argv: Sequence[str] | None = None) -> int:
    """``train_structural.py``; returns the exit code."""
    return run(lambda texts: _run(DOORS['structural'], texts), argv)


def dense(argv: Sequence[str] | None = None) -> int:
    """``train_dense.py``; returns the exit code."""
    return run(lambda texts: _run(DOORS['dense'], texts), argv)


def build_parser(door: Door) -> argparse.ArgumentParser:
    """The old flags, in both spellings; what is not given is None."""
    parser = Parser(
        prog=f'train_{door.stage}.py',
        description=f'Train stage {door.stage} of a staged config by the flags of old: {door.about}. '
        'tools/train_stages.py has all settings.',
        epilog='exit codes: 0 done, 2 a mistake in what was asked (one line says which), 130 interrupted',
    )
    add = parser.add_argument
    add('--config', default=str(CONFIG), metavar='CONFIG', help='(configs/staged/default.yaml)')
    start = parser.add_mutually_exclusive_group(required=door.stage == 'structural')
    resume = 'go on from a checkpoint, or from the latest in SAVE_DIR'
    start.add_argument('--resume', nargs='?', const='latest', metavar='PATH', help=resume)
    if door.stage == 'structural':
        start.add_argument('--from-scratch', '--from_scratch', action='store_true', help='begin with random weights')
    else:
        text = 'begin with the encoder of a checkpoint, and with whatever else of it fits'
        start.add_argument('--encoder_ckpt', '--encoder-ckpt', metavar='PATH', help=text)
        text = "begin with a checkpoint's weights, at epoch 0"
        start.add_argument('--init_from', '--init-from', metavar='PATH', help=text)
        text = 'without effect: of a generator that is not used any more'
        add('--rust_threads', '--rust-threads', metavar='N', help=text)
    for name, key in door.switches.items():
        add(*_spellings(name), action='store_true', help=f'{key}: true')
    for name, (key, default) in door.keys.items():
        add(*_spellings(name), metavar=name.upper(), help=key + (f' ({default})' if default else ''))
    return parser


def to_argv(door: Door, given: argparse.Namespace, ours: bool = False) -> tuple[list[str], list[str]]:
    """Write an old command line as one of train_stages.py.

    Args:
        door: the old command.
        given: its parsed arguments; ``resume`` is a path, not ``latest``.
        ours: the checkpoint of ``resume`` is this project's: its settings count, not the old defaults.

    Returns:
        The arguments, and lines that the user should read.
    """
    argv, notes = ['--stage', door.stage], []
    if given.resume:
        argv += ['--resume', given.resume]
    if not ours:
        argv += ['--config', given.config]
    if not given.resume:
        start = getattr(given, 'encoder_ckpt', None) or getattr(given, 'init_from', None)
        argv += ['--init_from', find_structural(start) if start else 'random']
    settings = {} if ours else dict(door.fixed)
    for name, (key, default) in door.keys.items():
        value = getattr(given, name)
        value = default if value is None and not ours else value
        if value is not None:
            settings[key] = value
    settings |= {key: 'true' for name, key in door.switches.items() if getattr(given, name)}
    if getattr(given, 'rust_threads', None):
        notes.append('--rust_threads has no effect: strokes are drawn by --num_workers processes')
    if getattr(given, 'freeze_encoder', False) and not (given.encoder_ckpt or given.init_from or given.resume):
        notes.append('--freeze_encoder without --encoder_ckpt: the encoder keeps its random weights')
    return [*argv, '--set', *(f'{key}={value}' for key, value in settings.items())] if settings else argv, notes


def find_structural(name: str) -> str:
    """Where ``checkpoints/best_structural.pth``, as train_structural.py called it, is now; other names as they are."""
    path = Path(name)
    now = path.parent / 'structural' / 'checkpoint_best.pth'
    return str(now) if path.name == 'best_structural.pth' and not path.is_file() and now.is_file() else name


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f'--{name}', f'--{name.replace("_", "-")}')))


def _run(door: Door, texts: Sequence[str]) -> Any:
    given = build_parser(door).parse_args(texts)
    folder = Path(given.save_dir or door.keys['save_dir'][1] or '').expanduser() / door.stage
    ours = False
    if given.resume == 'latest':
        given.resume = str(folder / 'checkpoint_latest.pth')
        if not Path(given.resume).is_file():
            raise UserError(f'--resume: there is no {given.resume} to go on from')
    if given.resume:
        from vadslim.checkpoint_format import VERSION, load_any

        ours = load_any(given.resume)['version'] >= VERSION
    elif (folder / 'step.json').is_file():
        how = '--resume goes on with it' if door.stage == 'structural' else '--resume PATH goes on with it'
        raise UserError(f'{folder}: holds a run already; {how}, another --save-dir begins a new one')
    argv, notes = to_argv(door, given, ours)
    for note in notes:
        say(note)
    from vadslim.staged.cli import main

    say(f'python tools/train_stages.py {shlex.join(argv)}')
    return main(argv)
