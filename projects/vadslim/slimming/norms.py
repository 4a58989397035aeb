"""Batch norms of the slim network measured anew (``--recalibrate-bn``)."""

from __future__ import annotations

from rich.console import Console
from torch import nn

from vadslim.cli import UserError
from vadslim.pruning import Structure, recalibrate
from vadslim.slimming.batches import LossBatches, loss_batches
from vadslim.slimming.network import Network
from vadslim.slimming.options import Options


def recalibration_batches(options: Options, network: Network, console: Console) -> LossBatches | None:
    """The data of ``--recalibrate-bn``; None where nothing is to be measured.

    Raises:
        UserError: there are none.
    """
    if not options.recalibrate_bn or options.dry_run:
        return None
    try:
        return loss_batches(
            network.cfg,
            options.recalibrate_bn,
            options.seed,
            shared=False,
            workers=options.workers,
            console=console,
            title='recalibrating batch norms',
        )
    except UserError as error:
        raise UserError(f'--recalibrate-bn: {error}') from None


def recalibrate_norms(slim: nn.Module, batches: LossBatches, network: Network, step: Structure) -> list[str]:
    """Gives a slim network the statistics of the values that pass through it; returns lines that say so.

    Statistics that training leaves alone (``norm_eval``, frozen stages) are shifted by what slimming changed: all
    weights were trained to those constants, and they would stay stale for ever.

    Args:
        slim: changed in place, but for its parameters.
        batches: of the training data.
        network: what was slimmed, with its checkpoint.
        step: what ``slim`` has left of it.

    Raises:
        UserError: the statistics are not finite.
    """
    found = recalibrate(slim, batches, before=(network.model, step))
    wrong = [name for name, value in found.state.items() if not value.isfinite().all()]
    if wrong:
        raise UserError(f'--recalibrate-bn: {wrong[0]} would not be finite: the data or the weights are not')
    slim.load_state_dict(found.state, strict=False)
    lines = [f'{line} (--recalibrate-bn, {len(batches)} batches)' for line in found.lines]
    if 'ema_state_dict' in network.checkpoint and found.measured:
        lines.append('ema_state_dict: its batch norms keep their statistics; a training that goes on starts from those')
    return lines
