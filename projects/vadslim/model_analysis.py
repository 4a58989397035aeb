"""``model_analysis.py``: what a checkpoint holds, from its headers; what a network costs, by running it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .analysis.structure_command import analyse_files, make_parser
from .cli import UserError, run
from .structure_run import add_run_options, analyse_run

#: options of one of the two only
_OF_FILES = ('compare_with', 'count_zeros', 'check', 'part', 'plots', 'model_name', 'compare_name', 'quiet')
_OF_RUNS = ('latency', 'threads', 'shape', 'cfg_options')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return run(_run, argv)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; raise a ``UserError`` for what does not go together."""
    parser = make_parser()
    add_run_options(parser)
    options = parser.parse_args(argv)
    wrong = [name for name in (_OF_FILES if options.config else _OF_RUNS) if getattr(options, name)]
    if wrong:
        flag = '--' + wrong[0].replace('_', '-' if wrong[0] in ('count_zeros', 'cfg_options') else '_')
        raise UserError(f'{flag} goes {"without" if options.config else "with"} --config (see --help)')
    return options


def _run(argv: Sequence[str]) -> int:
    options = parse(argv)
    return analyse_run(options) if options.config else analyse_files(options, argv)
