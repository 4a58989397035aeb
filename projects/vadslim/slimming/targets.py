"""What ``--target-params``, ``--target-macs`` and ``--target-latency`` ask for, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from vadslim.analysis import Complexity, Example, LatencyTable, LatencyTableError, LayerTimes, Macs, Params
from vadslim.cli import UserError
from vadslim.pruning import SCHEDULES, Cost, Group, Solution, StructuredPruner, TargetError
from vadslim.pruning.target import parse_goal
from vadslim.slimming.options import Options


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
    repeats: int = 3,
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
        repeats: timed forwards of the network.
        counted: what ``count`` said of the model, if it was asked already.

    Raises:
        UserError: there is nothing to count or time, or no usable table of times.
    """
    if kind == 'params':
        return Params(model)
    if example is None:
        raise UserError(f'--target-{kind}: the config has neither data nor a declared example to run the network on')
    if kind == 'macs':
        return Macs(model, example, counted)
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    try:
        times = LatencyTable(default_table() if table is None else table, device, backend)
        with console.status('timing the network') as status:

            def progress(done: int, total: int) -> None:
                status.update(f'timing layers: {done} of {total} (kept in {times.path})')

            return LayerTimes(model, example.run, times, repeats, progress)
    except LatencyTableError as error:
        raise UserError(f'--target-latency: {error}') from None
    except OSError as error:
        raise UserError(f'{error.filename}: cannot be written: {error.strerror}') from error


@dataclass(frozen=True)
class Search:
    """What a search for a target found.

    Attributes:
        solution: the plan and its ratio.
        cost: what it limits.
        whole: the same of the network before layers and grid were edited, of which fractions are; None without edits.
    """

    solution: Solution
    cost: Cost
    whole: Cost | None = None

    @classmethod
    def of(
        cls,
        pruner: StructuredPruner,
        model: nn.Module,
        groups: Sequence[Group],
        cost: Cost,
        kind: str,
        goal: str | float,
        whole: Cost | None = None,
    ) -> Search:
        """Searches for the smallest ratio that reaches a goal; arguments as for ``StructuredPruner.search``."""
        try:
            found = pruner.search(model, groups, cost, goal, whole=whole.dense if whole else None)
            return cls(found, cost, whole)
        except TargetError as error:
            raise UserError(f'--target-{kind}: {str(error).partition(": ")[2]}') from None

    @property
    def counted(self) -> Complexity | None:
        """What ``count`` said of the network that units leave from, if the search asked it."""
        return self.cost.counted if isinstance(self.cost, Macs) else None

    @property
    def counted_slim(self) -> Complexity | None:
        """What it said of the slim network."""
        return self.cost.checked if isinstance(self.cost, Macs) else None

    @property
    def counted_whole(self) -> Complexity | None:
        """What it said of the network before edits."""
        return self.whole.counted if isinstance(self.whole, Macs) else None

    @property
    def outcome(self) -> dict[str, Any]:
        """Plain data for the report."""
        found = self.solution
        return {
            'cost': found.name,
            'goal': found.goal,
            'before': found.dense,
            'predicted': found.predicted,
            'counted': found.counted,
            'ratio': found.ratio,
            'scale': found.scale,
        }

    @property
    def line(self) -> str:
        """The same for people."""
        found, show = self.solution, self.cost.show
        counted = '' if found.counted is None else f', {show(found.counted)} by a trial'
        over = max(found.predicted, found.counted or 0.0) / found.goal - 1
        missed = f': {over:.1%} over the target' if over > 1e-3 else ''
        scaled = '' if found.scale == 1 else f' (savings corrected by a factor {found.scale:.2f})'
        return (
            f'target {found.name}: {show(found.goal)} of {show(found.dense)}; a ratio of {found.ratio:g} is predicted '
            f'to leave {show(found.predicted)}{scaled}{counted}{missed}'
        )


def goal_now(options: Options, cost: Cost, whole: Cost | None = None) -> str | float:
    """What the network may cost: the target, or after one of several levels a fraction of what it costs now.

    A schedule is one of the cost that leaves, not of the units.

    Args:
        options: the command's arguments.
        cost: of the network that units leave from.
        whole: of the network before edits.

    Raises:
        UserError: the target cannot be read.
    """
    assert options.target
    kind, goal = options.target
    if options.turn is None:
        return goal
    now = (whole or cost).dense
    first = options.turn.cost or now
    try:
        saved = 1 - parse_goal(goal, first, cost.units) / first
    except TargetError as error:
        raise UserError(f'--target-{kind}: {error}') from None
    if options.turn.number < options.levels:
        saved = SCHEDULES[options.schedule](max(saved, 0.0), options.turn.number / options.levels)
    return min(1.0, (1 - saved) * first / now)
