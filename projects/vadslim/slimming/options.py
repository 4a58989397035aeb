"""The arguments of the pruning command: what they are, and which of them make no sense together."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vadslim.cli import Parser, UserError, add_config_options, add_machine_options, at_least, fraction
from vadslim.slimming.guards import Limit

RANDOM = 'random'
RATIO = 0.3  # where neither a ratio nor a target is named


@dataclass(frozen=True)
class Turn:
    """One of several levels.

    Attributes:
        number: of the level, from 1.
        units: Group -> how many units the network had before the first level, if that was slim already.
        cost: what a target limits, of the network before the first level; None while that is not known.
    """

    number: int
    units: Mapping[str, int] = field(default_factory=dict)
    cost: float | None = None


@dataclass(frozen=True)
class Options:
    """The command's arguments, checked as far as they can be without loading anything.

    Attributes:
        checkpoint: a path, or None for random weights.
        structured_ratio: fraction of the units that is removed, in [0, 1); None where a target decides.
        unstructured_ratio: fraction of the convolution weights zeroed for ``vad_pruned.pth``; None: no file.
        mode: None (prune only), 'fine-tune' or 'retrain'.
        gpus, gpu_ids, launcher, device: as :func:`vadslim.launch.choose_machine` takes them.
        allocation: a name of ALLOCATIONS, or the config that a file of rules holds.
        rules: that file; only the report asks what else it says.
        target: ('params', 'macs' or 'latency', what it may be), or None.
        latency_table: file of measured times of layers; None is the user's cache.
        latency_backend: what a latency target is for.
        levels: how often it is slimmed (and trained, if it is), each time what the last level left.
        schedule: a name of ``vadslim.pruning.SCHEDULES``.
        turn: which of several levels these options are for.
        limits: by how much metrics may grow.
        distill: the checkpoint of the teacher, or None.
        keep_layers: ``NAME=0,2`` texts: the layers of a stack that stay.
        bev_size: ``50x50``: the new size of the model's grid, or of the one named by ``NAME=50x50``.
        recalibrate_bn: batches of training data by which batch norms are measured anew; 0: they are not.
        cfg_options: ``key=value`` texts, not yet parsed.
    """

    config: Path
    checkpoint: Path | None
    structured_ratio: float | None
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
    batches: int = 16
    allocation: str | dict[str, Any] = 'uniform'
    rules: Path | None = None
    target: tuple[str, str] | None = None
    latency_table: Path | None = None
    latency_backend: str = 'pytorch'
    levels: int = 1
    schedule: str = 'linear'
    turn: Turn | None = None
    limits: tuple[Limit, ...] = ()
    distill: Path | None = None
    keep_layers: tuple[str, ...] = ()
    bev_size: str | None = None
    recalibrate_bn: int = 0
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
    add('--pruning-ratio', type=fraction, metavar='R', help=f'fraction of units removed ({RATIO})')
    add('--structured-ratio', type=fraction, metavar='R', help='the same; it counts if both are given')
    add(
        '--unstructured-ratio',
        type=fraction,
        metavar='R',
        help='also write vad_pruned.pth: same shapes, smallest weights zero; R of the convolutions of the '
        'backbone and neck, R / 2 of the linear layers of transformers (training does not hold the zeros)',
    )
    add('--importance', default='L2', metavar='NAME', help='how units are scored (L2)')
    add(
        '--batches',
        type=at_least(1),
        default=16,
        metavar='N',
        help='batches of the training data for criteria that look at data: Taylor, PlanningTaylor, Fisher, Hessian, '
        'Activation (16)',
    )
    add('--allocation', metavar='NAME', help='how many go where: uniform, global, isomorphic (uniform)')
    add(
        '--rules',
        type=Path,
        metavar='FILE',
        help='ratios by name pattern and kind, JSON or YAML; the ratio is for the rest',
    )
    add('--targets', nargs='+', default=[], metavar='PATTERN', help='only these Groups (names, kind:NAME, default)')
    add('--protect', nargs='+', default=[], metavar='PATTERN', help='never these Groups')
    add('--round-to', type=at_least(1), default=1, metavar='N', help='widths stay multiples of N')
    add = parser.add_argument_group(
        'a target in place of a ratio',
        'a fraction of what it is now (0.5, 50%), or a number with a unit',
    ).add_argument
    add('--target-params', metavar='N', help='parameters: 12M')
    add('--target-macs', metavar='N', help='multiply-accumulates of one forward: 80G')
    add('--target-latency', metavar='T', help='time of one forward on this machine: 33ms')
    add('--latency-table', type=Path, metavar='FILE', help="keeps the layers' times (in the user's cache)")
    add(
        '--latency-backend',
        choices=('pytorch', 'onnxruntime'),
        default='pytorch',
        help='what runs the layers (pytorch)',
    )
    add = parser.add_argument_group('layers and grid, before any units').add_argument
    add(
        '--keep-layers',
        type=_layers,
        nargs='+',
        default=[],
        metavar='NAME=0,2',
        help='only these layers of a stack stay, counted from 0 (decoder=0,2)',
    )
    add(
        '--bev-size',
        '--grid-size',
        type=_size,
        dest='bev_size',
        metavar='50x50',
        help="a coarser bird's-eye view (rows x columns) over the same range; any model's grid: NAME=50x50",
    )
    add = parser.add_argument_group('after slimming').add_argument
    add(
        '--recalibrate-bn',
        type=at_least(1),
        default=0,
        metavar='N',
        help='measure the statistics of batch norms anew on N batches of the training data',
    )
    add = parser.add_argument_group('level by level').add_argument
    add('--levels', type=at_least(1), default=1, metavar='N', help='slim (and train) N times, a folder for each (1)')
    add(
        '--schedule',
        choices=('linear', 'geometric', 'cubic'),
        default='linear',
        help='how much goes at which level: as many units each time, the same fraction of the rest, most at first',
    )
    add(
        '--max-l2-increase',
        metavar='X',
        help="stop before the plan's L2 is this much worse: 0.1 or 10%% of what it was, or 0.05m",
    )
    add('--max-collision-increase', metavar='X', help='the same of the collision rate: 0.05, 5%%, or 0.1pp')
    add = parser.add_argument_group('where to').add_argument
    add('--output-dir', type=Path, default=Path('pruned_models'), metavar='DIR', help='(./pruned_models)')
    add('--dry-run', action='store_true', help='print what would go, write nothing')
    add('--overwrite', action='store_true', help='replace an earlier result of another recipe')
    add = parser.add_argument_group('training the smaller network').add_argument
    add('--fine-tune', action='store_true', help='train it, at a tenth of the learning rate')
    add('--retrain', action='store_true', help='with --fine-tune: from epoch 0, at half the learning rate')
    add('--fine-tune-epochs', type=at_least(1), default=6, metavar='N', help='epoch to reach (6)')
    add('--distill', action='store_true', help='let it learn from CHECKPOINT what the config says (distillation)')
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
    if given.distill and not given.fine_tune:
        raise UserError('--distill needs --fine-tune: it is a way of training')
    if given.distill and checkpoint is None:
        raise UserError(f'--distill: a {RANDOM} network has nothing to teach, name a checkpoint')
    target = _target(given)
    limits = {'L2': given.max_l2_increase, 'collision': given.max_collision_increase}
    allocation = _allocation(given)
    if given.levels > 1 and target and isinstance(allocation, dict) and _fixed(allocation):
        raise UserError(
            f'--levels {given.levels} and --target-{target[0]}: rules {given.rules} have fixed ratios, which would go '
            'again at each level; give them a scale'
        )
    if not given.dry_run:
        check_writable(given.output_dir)
    return Options(
        config=given.config,
        checkpoint=checkpoint,
        structured_ratio=None if target else _ratio(given),
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
        batches=given.batches,
        allocation=allocation,
        rules=given.rules,
        target=target,
        latency_table=given.latency_table,
        latency_backend=given.latency_backend,
        levels=given.levels,
        schedule=given.schedule,
        limits=tuple(Limit(name, text) for name, text in limits.items() if text is not None),
        distill=checkpoint if given.distill else None,
        keep_layers=tuple(given.keep_layers),
        bev_size=given.bev_size,
        recalibrate_bn=given.recalibrate_bn,
        targets=tuple(given.targets),
        protect=tuple(given.protect),
        round_to=given.round_to,
        workers=given.workers,
        latency=given.latency,
        dry_run=given.dry_run,
        overwrite=given.overwrite,
        cfg_options=tuple(given.cfg_options),
    )


def _ratio(given: argparse.Namespace) -> float:
    return next(ratio for ratio in (given.structured_ratio, given.pruning_ratio, RATIO) if ratio is not None)


def _target(given: argparse.Namespace) -> tuple[str, str] | None:
    """The one target that was asked for; it excludes a ratio."""
    asked = {kind: getattr(given, f'target_{kind}') for kind in ('params', 'macs', 'latency')}
    asked = {kind: goal for kind, goal in asked.items() if goal is not None}
    ratios = {'--pruning-ratio': given.pruning_ratio, '--structured-ratio': given.structured_ratio}
    flags = [f'--target-{kind}' for kind in asked]
    flags += [flag for flag, ratio in ratios.items() if asked and ratio is not None]
    if len(flags) > 1:
        raise UserError(f'{" and ".join(flags)}: a target decides the ratio, one of them is needed')
    return next(iter(asked.items()), None)


def _allocation(given: argparse.Namespace) -> str | dict[str, Any]:
    if given.rules is None:
        return given.allocation or 'uniform'
    if given.allocation is not None:
        raise UserError('--rules and --allocation: rules are an allocation, one of them is needed')
    check_file(given.rules, 'rules')
    from vadslim.pruning import load_rules

    return load_rules(given.rules)


def _layers(text: str) -> str:
    if not re.fullmatch(r'[^=]+=\d+(,\d+)*', text, re.ASCII):
        raise argparse.ArgumentTypeError(f'{text} is not NAME=0,2: a stack of layers, and those of them that stay')
    return text


def _size(text: str) -> str:
    if not re.fullmatch(r'([^=]+=)?\d+(x\d+){0,2}', text, re.ASCII):
        raise argparse.ArgumentTypeError(f'{text} is not a size: 50x50, rows and columns, or NAME=50x50')
    return text


def _fixed(allocation: Mapping[str, Any]) -> bool:
    """Whether rules take something at a ratio of their own."""
    return allocation.get('default') is not None or any('ratio' in rule for rule in allocation['rules'])


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
