"""``analysis_struct.py``: prune, and train what is left."""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
    training = options.mode is not None and not options.dry_run
    _work(options, machine.device, launcher, training and not machine.processes)
    if training and machine.processes:  # the pruning took one process, and its folder is reused
        return torchrun('vadslim.slimming', argv, machine.processes)
    return 0


def _work(options: Options, device: str, launcher: str, training: bool) -> None:
    """Prunes (rank 0, while others wait; where data are needed, all of them look at some) and trains."""
    from mmengine.dist import is_distributed
    from rich.console import Console

    from vadslim.checkpoint import register_loader
    from vadslim.launch import init_distributed, on_rank_0
    from vadslim.slimming.prune import is_done, prune
    from vadslim.slimming.scoring import needs_data, shared_scores
    from vadslim.slimming.training import check_training, train

    register_loader()
    init_distributed(launcher)
    console = Console(width=None if sys.stdout.isatty() else 110)
    if options.mode:
        on_rank_0(lambda: check_training(options))
    scores = None
    if is_distributed() and on_rank_0(lambda: needs_data(options) and not is_done(options)):
        scores = shared_scores(options, device, console)
    config = on_rank_0(lambda: prune(options, device, console, scores))
    if config is not None and training:
        train(config, options, launcher)
