"""``sensitivity.py``: what each Group alone costs in the metrics, before anything is pruned.

Importing it is light, as with the pruning command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vadslim.cli import Parser, UserError, add_config_options, at_least, fraction, run
from vadslim.slimming.options import RANDOM, Options, check_file, check_writable

RATIOS = (0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Sweep:
    """The command's arguments.

    Attributes:
        slimming: what the pruning command takes, but for the ratio.
        ratios: fractions of the units, rising.
        samples: evaluate on the first scenes, until they hold as many; None is all.
        metrics, larger, smaller: fnmatch patterns over the names of metrics.
        rules: file for the allocation; None: none is made.
        limit: relative increase that each Group alone may cause; None where ``slimming.target`` decides.
    """

    slimming: Options
    ratios: tuple[float, ...] = RATIOS
    samples: int | None = None
    metrics: tuple[str, ...] = ()
    larger: tuple[str, ...] = ()
    smaller: tuple[str, ...] = ()
    rules: Path | None = None
    limit: float | None = None


def build_parser() -> argparse.ArgumentParser:
    """The parser; its help is the reference of the command."""
    parser = Parser(
        prog='sensitivity.py',
        description='Slims one Group of units after the other, each alone and without training, at several ratios, and '
        "evaluates the network each time by the config's own validation. Stopped at any time, the same command goes on "
        'where it was. One process on one device.',
        epilog='exit codes: 0 done, 2 a mistake in what was asked (one line says which), 130 interrupted',
    )
    add = parser.add_argument
    add('config', type=Path, help='MMEngine config of the network')
    add('checkpoint', help=f'its checkpoint; the word {RANDOM} takes random weights')
    add('--output-dir', type=Path, required=True, metavar='DIR', help='sensitivity.json, .csv and .png go there')
    add('--overwrite', action='store_true', help='replace an earlier result of another recipe')
    add = parser.add_argument_group('what is slimmed').add_argument
    ratios = ' '.join(map(str, RATIOS))
    add('--ratios', type=fraction, nargs='+', default=RATIOS, metavar='R', help=f'fractions of the units ({ratios})')
    add('--targets', nargs='+', default=[], metavar='PATTERN', help='only these Groups (names, or kind:NAME)')
    add('--protect', nargs='+', default=[], metavar='PATTERN', help='not these Groups')
    add('--importance', default='L2', metavar='NAME', help='which units go first (L2)')
    add('--batches', type=at_least(1), default=16, metavar='N', help='of training data, for importances that need it')
    add('--round-to', type=at_least(1), default=1, metavar='N', help='kept counts become multiples of N')
    add = parser.add_argument_group('how it is evaluated').add_argument
    add('--samples', type=at_least(1), metavar='N', help='on the first scenes only, until they hold N frames')
    add(
        '--metrics',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help='what counts in the picture and the rules (all but those of single classes at single thresholds)',
    )
    add('--larger-is-better', nargs='+', default=[], metavar='PATTERN', help='metrics of which larger is better, and')
    add(
        '--smaller-is-better',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help='smaller; by default the name tells: L2, col, ADE, FDE, MR, loss, error and their like are costs',
    )
    add('--workers', type=at_least(0), metavar='N', help="data loading processes (the config's own number)")
    add('--device', choices=('cpu', 'cuda'), help='(cuda where there is one)')
    add('--seed', type=at_least(0), default=0, metavar='N', help='(0)')
    add = parser.add_argument_group('an allocation from what was measured').add_argument
    add('--to-rules', type=Path, metavar='FILE', help='write a file for analysis_struct.py --rules; it needs one of:')
    add(
        '--max-increase',
        metavar='X',
        help='each Group loses as much as makes no metric worse by more than X (0.05, 5%%), alone; linear in between',
    )
    add('--target-params', metavar='N', help='the smallest such X for which this many parameters are left: 12M, 50%%')
    add('--target-macs', metavar='N', help='the same for multiply-accumulates: 80G, 50%%')
    add_config_options(parser)
    return parser


def parse(argv: Sequence[str]) -> Sweep:
    """Reads and checks the arguments.

    Raises:
        UserError: for a wrong argument, or a file that is missing.
    """
    given = build_parser().parse_args(argv)
    check_file(given.config, 'config')
    checkpoint = None if given.checkpoint == RANDOM else Path(given.checkpoint)
    if checkpoint is not None:
        check_file(checkpoint, 'checkpoint')
    if not all(given.ratios):
        raise UserError('--ratios 0: nothing would leave; the network as it is is measured anyway')
    check_writable(given.output_dir)
    goals = {'params': given.target_params, 'macs': given.target_macs}
    goals = {kind: goal for kind, goal in goals.items() if goal is not None}
    ways = [f'--target-{kind}' for kind in goals] + ['--max-increase'] * (given.max_increase is not None)
    if given.to_rules is None and ways:
        raise UserError(f'{ways[0]}: rules are only made for a file, --to-rules FILE')
    if given.to_rules is not None and len(ways) != 1:
        what = ' and '.join(ways) or 'none is given'
        raise UserError(f'--to-rules: one of --max-increase, --target-params, --target-macs is needed ({what})')
    if given.to_rules is not None and not given.to_rules.absolute().parent.is_dir():
        raise UserError(f'--to-rules {given.to_rules}: there is no such folder')
    slimming = Options(
        config=given.config,
        checkpoint=checkpoint,
        structured_ratio=None,
        output_dir=given.output_dir,
        seed=given.seed,
        device=given.device,
        importance=given.importance,
        batches=given.batches,
        target=next(iter(goals.items()), None),
        targets=tuple(given.targets),
        protect=tuple(given.protect),
        round_to=given.round_to,
        workers=given.workers,
        overwrite=given.overwrite,
        cfg_options=tuple(given.cfg_options),
    )
    return Sweep(
        slimming=slimming,
        ratios=tuple(sorted(set(given.ratios))),
        samples=given.samples,
        metrics=tuple(given.metrics),
        larger=tuple(given.larger_is_better),
        smaller=tuple(given.smaller_is_better),
        rules=given.to_rules,
        limit=None if given.max_increase is None else _increase(given.max_increase),
    )


def _increase(text: str) -> float:
    try:
        value = float(text.removesuffix('%')) / (100 if text.endswith('%') else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float('inf'):
        raise UserError(f'--max-increase {text}: a relative increase is needed, such as 0.05 or 5%')
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 2 a user's mistake (one line), 130 interrupted."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> None:
    sweep = parse(argv)
    from vadslim.launch import choose_machine

    machine = choose_machine(None, None, 'none', sweep.slimming.device)
    from rich.console import Console

    from vadslim.checkpoint import register_loader
    from vadslim.slimming.sweep import measure_all

    register_loader()
    measure_all(sweep, machine.device, Console(width=None if sys.stdout.isatty() else 110))
