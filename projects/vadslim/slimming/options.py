"""The arguments of the pruning command: what they are, and which of them make no sense together."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vadslim.cli import Parser, UserError, add_config_options, add_machine_options, at_least, fraction

RANDOM = 'random'


@dataclass(frozen=True)
class Options:
    """The command's arguments, checked as far as they can be without loading anything.

    Attributes:
        checkpoint: a path, or None for random weights.
        structured_ratio: fraction of the units that is removed, in [0, 1).
        unstructured_ratio: fraction of the convolution weights zeroed for ``vad_pruned.pth``; None: no file.
        mode: None (prune only), 'fine-tune' or 'retrain'.
        gpus, gpu_ids, launcher, device: as :func:`vadslim.launch.choose_machine` takes them.
        cfg_options: ``key=value`` texts, not yet parsed.
    """

    config: Path
    checkpoint: Path | None
    structured_ratio: float
    output_dir: Path
    unstructured_ratio: float | None = None
    mode: str | None = None
    epochs: int = 6
    gpus: int | None = None
    gpu_ids: tuple[int, ...] | None = None
    launcher: str | None = None
    seed: int = 0
    device: str | None = None
    importance: str = 'L2'
    allocation: str = 'uniform'
    targets: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    round_to: int = 1
    workers: int | None = None
    latency: int = 3
    dry_run: bool = False
    overwrite: bool = False
    cfg_options: tuple[str, ...] = ()


def build_parser() -> argparse.ArgumentParser:
    """The parser; its help is the reference of the command."""
    parser = Parser(
        prog='analysis_struct.py',
        description='Removes whole units (channels, neurons, heads) of a trained network, writes the smaller '
        'network as a checkpoint with a config that runs it, and trains it again if asked to.',
        epilog='exit codes: 0 done, 2 a mistake in what was asked (one line says which), 130 interrupted',
    )
    add = parser.add_argument
    add('config', type=Path, help='MMEngine config of the dense network')
    add('checkpoint', help=f'its checkpoint; the word {RANDOM} takes random weights')
    add = parser.add_argument_group('what goes').add_argument
    add('--pruning-ratio', type=fraction, default=0.3, metavar='R', help='fraction of units removed (0.3)')
    add('--structured-ratio', type=fraction, metavar='R', help='the same; it counts if both are given')
    add(
        '--unstructured-ratio',
        type=fraction,
        metavar='R',
        help='also write vad_pruned.pth: same shapes, smallest weights zero; R of the convolutions of the '
        'backbone and neck, R / 2 of the linear layers of transformers (training does not hold the zeros)',
    )
    add('--importance', default='L2', metavar='NAME', help='how units are scored (L2)')
    add('--allocation', default='uniform', metavar='NAME', help='how many go where: uniform, global (uniform)')
    add('--targets', nargs='+', default=[], metavar='PATTERN', help='only these Groups (names, or kind:NAME)')
    add('--protect', nargs='+', default=[], metavar='PATTERN', help='never these Groups')
    add('--round-to', type=at_least(1), default=1, metavar='N', help='kept counts become multiples of N')
    add = parser.add_argument_group('where to').add_argument
    add('--output-dir', type=Path, default=Path('pruned_models'), metavar='DIR', help='(./pruned_models)')
    add('--dry-run', action='store_true', help='print what would go, write nothing')
    add('--overwrite', action='store_true', help='replace an earlier result of another recipe')
    add = parser.add_argument_group('training the smaller network').add_argument
    add('--fine-tune', action='store_true', help='train it, at a tenth of the learning rate')
    add('--retrain', action='store_true', help='with --fine-tune: from epoch 0, at half the learning rate')
    add('--fine-tune-epochs', type=at_least(1), default=6, metavar='N', help='epoch to reach (6)')
    add('--workers', type=at_least(0), metavar='N', help="data loading processes (the config's own number)")
    add = add_machine_options(parser).add_argument
    add('--device', choices=('cpu', 'cuda'), help='(cuda where there is one)')
    add('--seed', type=at_least(0), default=0, metavar='N', help='(0)')
    add = parser.add_argument_group('other').add_argument
    add(
        '--latency',
        type=at_least(0),
        default=3,
        metavar='N',
        help='timed forwards for the report, 0: none (3)',
    )
    add_config_options(parser)
    return parser


def parse(argv: Sequence[str]) -> Options:
    """Reads and checks the arguments.

    Raises:
        UserError: for a wrong argument, files that are missing, a folder that cannot be written.
        SystemExit: with 0 for ``--help``.
    """
    given = build_parser().parse_args(argv)
    if given.retrain and not given.fine_tune:
        raise UserError('--retrain needs --fine-tune: type --fine-tune --retrain')
    check_file(given.config, 'config')
    checkpoint = None if given.checkpoint == RANDOM else Path(given.checkpoint)
    if checkpoint is not None:
        check_file(checkpoint, 'checkpoint')
    if not given.dry_run:
        check_writable(given.output_dir)
    return Options(
        config=given.config,
        checkpoint=checkpoint,
        structured_ratio=given.pruning_ratio if given.structured_ratio is None else given.structured_ratio,
        unstructured_ratio=given.unstructured_ratio,
        output_dir=given.output_dir,
        mode=('retrain' if given.retrain else 'fine-tune') if given.fine_tune else None,
        epochs=given.fine_tune_epochs,
        gpus=given.gpus,
        gpu_ids=tuple(given.gpu_ids) if given.gpu_ids else None,
        launcher=given.launcher,
        seed=given.seed,
        device=given.device,
        importance=given.importance,
        allocation=given.allocation,
        targets=tuple(given.targets),
        protect=tuple(given.protect),
        round_to=given.round_to,
        workers=given.workers,
        latency=given.latency,
        dry_run=given.dry_run,
        overwrite=given.overwrite,
        cfg_options=tuple(given.cfg_options),
    )


def check_file(path: Path, what: str) -> None:
    """Raises a ``UserError`` unless ``path`` is a file that can be read."""
    if path.is_dir():
        raise UserError(f'{what} {path} is a folder, a file is needed')
    if not path.is_file():
        word = f', or the word {RANDOM}' if what == 'checkpoint' else ''
        raise UserError(f'{what} {path} does not exist{word and "; name a file" + word}')
    if not os.access(path, os.R_OK):
        raise UserError(f'{what} {path} cannot be read: permission denied')


def check_writable(folder: Path) -> None:
    """Raises a ``UserError`` unless files can be made in ``folder``, which need not exist yet."""
    nearest = folder.absolute()
    while not nearest.exists() and not nearest.is_symlink():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f'--output-dir {folder}: {nearest} is not a folder')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f'--output-dir {folder}: {nearest} cannot be written to')
