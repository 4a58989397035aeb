"""What ``--target-params``, ``--target-macs`` and ``--target-latency`` ask for, and what came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from vadslim.analysis import Complexity, Example, LatencyTable, LatencyTableError, LayerTimes, Macs, Params
from vadslim.cli import UserError
from vadslim.pruning import Cost, Solution

KINDS = ('params', 'macs', 'latency')


def default_table() -> Path:
    """Where measured times of layers are kept from one run to the next."""
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'vadslim' / 'latency.json'


def find_cost(
    kind: str,
    model: nn.Module,
    example: Example | None,
    console: Console,
    table: Path | None = None,
    backend: str = 'pytorch',
    counted: Complexity | None = None,
) -> Cost:
    """The cost that a target limits.

    Args:
        kind: 'params', 'macs' or 'latency'.
        model: the network before this step, in eval mode.
        example: the forward that is counted or timed; parameters need none.
        console: shows which layer is being timed.
        table: file of measured times, ``default_table()`` if None.
        backend: 'pytorch' or 'onnxruntime'; what times are for.
        counted: what ``count`` said of the model, if it was asked already.

    Raises:
        UserError: there is nothing to count or time, or no usable table of times.
    """
    if kind == 'params':
        return Params(model)
    if example is None:
        raise UserError(f'--target-{kind}: the config has neither data nor a declared example to run the network on')
    if kind == 'macs':
        return Macs(model, example.run, counted)
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    try:
        times = LatencyTable(default_table() if table is None else table, device, backend)
        with console.status('timing the network') as status:

            def progress(done: int, total: int) -> None:
                status.update(f'timing layers: {done} of {total} (kept in {times.path})')

            return LayerTimes(model, example.run, times, progress=progress)
    except LatencyTableError as error:
        raise UserError(f'--target-latency: {error}') from None
    except OSError as error:
        raise UserError(f'{error.filename}: cannot be written: {error.strerror}') from error


def outcome(found: Solution, cost: Cost) -> dict[str, Any]:
    """What a search found, as plain data for the report."""
    return {
        'cost': found.name,
        'goal': found.goal,
        'before': found.dense,
        'predicted': found.predicted,
        'counted': found.counted,
        'ratio': found.ratio,
        'line': outcome_line(found, cost),
    }


def outcome_line(found: Solution, cost: Cost) -> str:
    """What a search found, for people."""
    counted = '' if found.counted is None else f', counted {cost.show(found.counted)}'
    return (
        f'target {found.name}: {cost.show(found.goal)} of {cost.show(found.dense)}; a ratio of {found.ratio:g} '
        f'is predicted to leave {cost.show(found.predicted)}{counted}'
    )
