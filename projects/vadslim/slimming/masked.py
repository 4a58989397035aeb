"""``slim_masked.py``: the smaller network that is in a checkpoint whose weights are masked.

Importing it is light, as with the pruning command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vadslim.cli import Parser, add_config_options, at_least, run
from vadslim.slimming.options import check_file, check_writable


@dataclass(frozen=True)
class Masked:
    """The command's arguments.

    Attributes:
        config: MMEngine config of the network.
        checkpoint: with zeros in its weights, or masks beside them.
        output_dir: for the results.
        latency: how many forwards are timed; 0: none.
        device: 'cpu', 'cuda' or None.
        overwrite: replace an earlier result of another recipe.
        cfg_options: ``key=value`` texts over the config.
    """

    config: Path
    checkpoint: Path
    output_dir: Path
    latency: int = 0
    device: str | None = None
    overwrite: bool = False
    cfg_options: tuple[str, ...] = ()


def build_parser() -> argparse.ArgumentParser:
    """The parser; its help is the reference of the command."""
    parser = Parser(
        prog='slim_masked.py',
        description='From mask to metal: writes the smaller network that computes exactly what a network with '
        'masked weights computes. A unit (channel, head, neuron) goes when nobody hears it: all that makes it is zero '
        '(filter, bias, gamma and beta of its batch norm), or all that reads it. Nothing is trained; the outputs are '
        'compared.',
        epilog='exit codes: 0 done, 2 a mistake in what was asked, or nothing can be removed exactly (one line says '
        'why), 130 interrupted',
    )
    add = parser.add_argument
    add('config', type=Path, help='MMEngine config of the network')
    add('checkpoint', type=Path, help='its checkpoint; masks in it ("masks") are applied to the weights')
    add('--output-dir', type=Path, required=True, metavar='DIR', help='slim.pth and what runs it go there')
    add('--latency', type=at_least(1), nargs='?', const=20, default=0, metavar='N', help='time N forwards as well (20)')
    add('--device', choices=('cpu', 'cuda'), help='(cuda where there is one)')
    add('--overwrite', action='store_true', help='replace an earlier result of another recipe')
    add_config_options(parser)
    return parser


def parse(argv: Sequence[str]) -> Masked:
    """Reads and checks the arguments.

    Raises:
        UserError: for a wrong argument, or a file that is missing.
    """
    given = build_parser().parse_args(argv)
    check_file(given.config, 'config')
    check_file(given.checkpoint, 'checkpoint file')
    check_writable(given.output_dir)
    return Masked(**{**vars(given), 'cfg_options': tuple(given.cfg_options)})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 2 a user's mistake (one line), 130 interrupted."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> None:
    options = parse(argv)
    from vadslim.launch import choose_machine

    machine = choose_machine(None, None, 'none', options.device)
    from rich.console import Console

    from vadslim.checkpoint import register_loader
    from vadslim.slimming.exact import slim_masked

    register_loader()
    slim_masked(options, machine.device, Console(width=None if sys.stdout.isatty() else 110))
