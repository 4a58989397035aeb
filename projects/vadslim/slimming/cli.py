"""``analysis_struct.py``: prune, and train what is left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vadslim.cli import run
from vadslim.slimming.options import Options, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 2 a user's mistake (one line), 130 interrupted."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> int:
    options = parse(argv)
    from vadslim.launch import choose_machine, torchrun

    machine = choose_machine(options.gpus, options.gpu_ids, options.launcher, options.device)
    launcher = 'none' if machine.processes else machine.launcher
    _work(options, machine.device, launcher, first_only=bool(machine.processes))
    if machine.processes and _goes_on(options):  # the first pruning took one process, and its folder is reused
        return torchrun('vadslim.slimming', argv, machine.processes)
    return 0


def _goes_on(options: Options) -> bool:
    """Whether there is more to do than to prune once."""
    return not options.dry_run and bool(options.mode or options.limits or options.levels > 1)


def _work(options: Options, device: str, launcher: str, first_only: bool) -> None:
    """Prunes (rank 0, while others wait; where data are needed, all of them look at some) and goes on."""
    from mmengine.dist import is_distributed
    from rich.console import Console

    from vadslim.checkpoint import register_loader
    from vadslim.launch import init_distributed, on_rank_0
    from vadslim.slimming.levels import of_level, work
    from vadslim.slimming.prune import is_done, open_levels, prune
    from vadslim.slimming.scoring import needs_data, shared_scores
    from vadslim.slimming.training import check_training

    register_loader()
    init_distributed(launcher)
    console = Console(width=None if sys.stdout.isatty() else 110)
    on_rank_0(lambda: check_training(options))

    def prune_once(here: Options) -> Path | None:
        scores = None
        if is_distributed() and on_rank_0(lambda: needs_data(here) and not is_done(here)):
            scores = shared_scores(here, device, console)
        return on_rank_0(lambda: prune(here, device, console, scores))

    if _goes_on(options) and not first_only:
        work(options, device, launcher, console, prune_once)
    else:
        if options.levels > 1 and not options.dry_run:
            on_rank_0(lambda: open_levels(options))
        prune_once(of_level(options, 1, options.checkpoint))
