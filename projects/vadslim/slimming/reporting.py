"""What a slimming is reported by: both networks counted and timed, written as JSON, a page and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vadslim.analysis import (
    Complexity,
    Example,
    Latency,
    Measured,
    Report,
    count_params,
    measure_in_turn,
    print_report,
)
from vadslim.analysis.layer_sizes import layers_and_parts
from vadslim.analysis.pages import SENSITIVITY, write_pages
from vadslim.analysis.sensitivity_page import picture_of_rules
from vadslim.checkpoint import atomic_write
from vadslim.pruning.edits import Edits
from vadslim.slimming.options import Options
from vadslim.slimming.outputs import REPORT

if TYPE_CHECKING:
    from vadslim.slimming.prune import Clock, Slimmed


def write_report(
    slimmed: Slimmed,
    options: Options,
    asked: Mapping[str, Any],
    files: Sequence[Path | None],
    clock: Clock,
    notes: Sequence[str] = (),
    levels: Sequence[Mapping[str, Any]] = (),
) -> tuple[Report, list[Path]]:
    """Counts, times, writes and prints.

    Args:
        slimmed: both networks.
        options: where to, and how often a forward is timed.
        asked: what was asked for.
        files: their checkpoints, whose sizes are told; None is random weights.
        clock: says what is going on.
        notes: remarks, a line each.
        levels: of an iterative pruning, as ``write_pages`` takes them.

    Returns:
        What is said, and the files.
    """
    _, example, why_not = slimmed.network.examples
    notes = [*notes, *([f'MACs and latency are not measured: {why_not}'] if why_not else [])]
    model, slim = slimmed.network.model, slimmed.slim
    before, edited, after = counts(slimmed, example, clock)
    times = _latencies(slimmed, example, options.latency, clock)
    sizes = [file.stat().st_size if file else None for file in files]
    report = slimmed.report(
        asked,
        example,
        Measured(count_params(model), before, times[0], sizes[0]),
        Measured(count_params(slim), after, times[1], sizes[1]),
        edited,
        clock.seconds,
        notes,
    )
    with atomic_write(options.output_dir / REPORT) as file:
        file.write(report.to_json())
    with clock('drawing'):
        run = example.run if example and times[0] else None
        rename = Edits(slimmed.step.edits).slim_name
        layers, parts = layers_and_parts(model, slim, before, after, run, options.latency, rename)
        more = picture_of_rules(options.rules, SENSITIVITY)
        pages = write_pages(options.output_dir, report, layers, parts, levels, more)
    print_report(report, clock.console)
    return report, [options.output_dir / REPORT, *pages]


def counts(
    slimmed: Slimmed, example: Example | None, clock: Clock
) -> tuple[Complexity | None, Complexity | None, Complexity | None]:
    """Operations of the network before, after edits, and after all."""
    if example is None:
        return None, None, None
    with clock('counting'):
        found = slimmed.search
        known = (found.counted_slim, found.counted, found.counted_whole) if found else (None, None, None)
        models = zip(known, [slimmed.slim, *slimmed.edited.models])
        slim, edited, *others = (counted or example.count(model) for counted, model in models)
        return others[0] if others else edited, edited, slim


def _latencies(
    slimmed: Slimmed, example: Example | None, repeats: int, clock: Clock
) -> tuple[Latency | None, Latency | None]:
    if example is None or not repeats:
        return None, None
    with clock('timing'):
        device = next((p.device for p in slimmed.slim.parameters()), torch.device('cpu'))
        runs = [lambda: example.run(slimmed.network.model), lambda: example.run(slimmed.slim)]
        before, after = measure_in_turn(runs, repeats, warmup=1, device=device)
        return before, after
