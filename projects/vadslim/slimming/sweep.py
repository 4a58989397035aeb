"""The work of ``sensitivity.py``: measure, keep, draw, and allocate."""

from __future__ import annotations

import csv
import difflib
import json
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from torch import nn

from vadslim.analysis.heat_map import percent
from vadslim.analysis.metrics import in_order, is_detail
from vadslim.analysis.sensitivity_page import read_sensitivity, render_sensitivity, sensitivity_picture
from vadslim.checkpoint import atomic_write
from vadslim.cli import UserError
from vadslim.pruning import Group, PatternError, StructuredPruner, make_structure, resize
from vadslim.pruning.importance import prunable
from vadslim.pruning.sensitivity import (
    Point,
    Sensitivity,
    Tolerance,
    count_unknown,
    directions,
    increase,
    measure,
    points,
    rules,
)
from vadslim.slimming.evaluation import Evaluation
from vadslim.slimming.network import Network, load_network, read_config
from vadslim.slimming.scoring import Scored, build_pruner, find, needs_data, score
from vadslim.slimming.sensitivity import Sweep
from vadslim.slimming.targets import Search, find_cost
from vadslim.stages import Step, StepError, open_step

RESULT, TABLE, PICTURE, PAGE = (f'sensitivity.{end}' for end in ('json', 'csv', 'png', 'html'))


@dataclass
class Progress:
    """Says what was measured and how long the rest will take, as long per point as those of this run."""

    console: Console
    baseline: Mapping[str, float]
    larger: Mapping[str, bool]
    start: float = field(default_factory=time.monotonic)

    def __call__(self, point: Point, metrics: Mapping[str, float], done: int, total: int) -> None:
        name = next(iter(self.larger))
        before, after = self.baseline[name], metrics.get(name, float('nan'))
        change = percent(increase(before, after, self.larger[name]))
        left = (time.monotonic() - self.start) / done * (total - done)
        say(
            self.console,
            f'[{done}/{total}] {point.group} at {point.ratio:g}: {name} {before:.4g} -> {after:.4g} ({change} %), '
            f'{duration(left)} left',
        )


def measure_all(sweep: Sweep, device: str, console: Console) -> None:
    """Measures every Group at every ratio, but for what is known from an earlier run, and writes all files.

    Args:
        sweep: the command's arguments.
        device: 'cuda' or 'cpu'.
        console: says what is going on.

    Raises:
        UserError: and its kin, for whatever the user can mend.
    """
    options = sweep.slimming
    cfg = read_config(options.config, options.cfg_options)
    step = _open(sweep, cfg, overwrite=False) if _in_use(options.output_dir) else None
    network = load_network(options.config, options.cfg_options, options.checkpoint, options.seed, device)
    with console.status('finding what can go'):
        groups = find(options, network)
    pruner = scored_pruner(sweep, network, groups, console)
    todo = points(groups, plans(pruner, sweep.ratios, network.model, groups))
    if not todo:
        raise UserError(
            f'--ratios {" ".join(f"{r:g}" for r in sweep.ratios)}: no Group loses a unit, nothing to measure'
        )
    evaluation = Evaluation(network.cfg, sweep.samples, options.seed, options.workers)
    if step is None:  # an earlier result goes only now that there is something to put into its place
        step = _open(sweep, cfg, overwrite=options.overwrite)
    begin = time.monotonic()
    found = _known(step)
    if found is None:
        with console.status(f'evaluating the network as it is on {evaluation.samples} samples'):
            baseline = evaluation(network.model)
        units = {group.name: (group.kind, group.num_units) for group in groups}
        found = Sensitivity(units, evaluation.samples, baseline)
        _keep(found, step.folder / RESULT)
    larger = chosen_metrics(sweep, found.baseline)
    names = list(dict.fromkeys(point.group for point in todo))
    unknown = count_unknown(found, todo)
    say(console, _directions_line(larger))
    say(
        console,
        f'{len(names)} of {len(groups)} Groups at {len(sweep.ratios)} ratios on {evaluation.samples} samples: '
        f'{unknown} to evaluate (no unit leaves or as many as at another ratio, or it was done before: '
        f'{len(todo) - unknown}) on {where(network.model)}; baseline in {duration(time.monotonic() - begin)}',
    )
    found = measure(
        found,
        todo,
        evaluator(network, groups, evaluation),
        lambda state: _keep(state, step.folder / RESULT),
        Progress(console, found.baseline, larger),
    )
    _write_table(found, larger, step.folder / TABLE)
    picture = sensitivity_picture(found, larger)
    with atomic_write(step.folder / PICTURE, 'wb') as file:
        file.write(picture.png)
    with atomic_write(step.folder / PAGE) as file:
        file.write(render_sensitivity(found, larger, settings(sweep, where(network.model)), picture))
    step.finish([RESULT, TABLE, PICTURE, PAGE], {'points': len(found.rows)}, time.monotonic() - begin)
    say(console, f'written to {step.folder}: {RESULT}, {TABLE}, {PICTURE}, {PAGE}')
    if sweep.rules is not None:
        curves = {name: found.curve(name, larger) for name in names}
        origin = {'file': os.path.relpath((step.folder / RESULT).resolve(), sweep.rules.resolve().parent)}
        _write_rules(sweep, network, groups, pruner, found, curves, {**origin, 'metrics': larger}, console)


# --- what is measured ---------------------------------------------------------------------------------------


def scored_pruner(sweep: Sweep, network: Network, groups: Sequence[Group], console: Console) -> StructuredPruner:
    """The pruner of the arguments, without a ratio, whose criterion has been asked."""
    options = sweep.slimming
    pruner = build_pruner(options)
    if needs_data(options):
        scores = score(options, network, groups, console, shared=False)
    else:
        scores = pruner.importance(network.model, prunable(groups))
    pruner.importance = Scored(scores)
    return pruner


def plans(
    pruner: StructuredPruner, ratios: Sequence[float], model: nn.Module, groups: Sequence[Group]
) -> dict[float, dict[str, list[int]]]:
    """Kept units per ratio."""
    found = {}
    try:
        for ratio in ratios:
            pruner.ratio = ratio
            found[ratio] = pruner.plan(model, groups)
    except PatternError as error:
        raise UserError(f'--{error}') from None
    pruner.ratio = None
    return found


def evaluator(
    network: Network, groups: Sequence[Group], evaluation: Evaluation
) -> Callable[[Point], Mapping[str, float]]:
    """A function that slims one Group alone, in memory, and gives the metrics."""
    whole = {group.name: list(range(group.num_units)) for group in groups}

    def evaluate(point: Point) -> Mapping[str, float]:
        slim = resize(
            network.model, make_structure(network.model, groups, {**whole, point.group: list(point.kept)})
        ).eval()
        try:
            return evaluation(slim)
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(f'the network without {point.removed} units of {point.group} does not run') from error

    return evaluate


def chosen_metrics(sweep: Sweep, baseline: Mapping[str, float]) -> dict[str, bool]:
    """The metrics that count, and of which larger is better; those that the network as it is has no value of do not.

    Unless asked for, neither do those of single classes and thresholds.

    Raises:
        UserError: a pattern matches none, or none has a value.
    """
    for flag, patterns in (
        ('metrics', sweep.metrics),
        ('larger-is-better', sweep.larger),
        ('smaller-is-better', sweep.smaller),
    ):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in baseline):
                near = difflib.get_close_matches(pattern, list(baseline), 1, 0.0)
                hint = f'; the nearest is {near[0]}' if near else '; the evaluators gave none'
                raise UserError(f'--{flag}: {pattern!r} matches no metric{hint}')
    names = [name for pattern in sweep.metrics for name in baseline if fnmatchcase(name, pattern)]  # in their order
    if not sweep.metrics:
        names = in_order([name for name in baseline if not is_detail(name)] or baseline)
    names = [name for name in dict.fromkeys(names) if np.isfinite(baseline[name])]
    if not names:
        raise UserError(f'{sweep.slimming.config}: its evaluators gave no number for the network as it is')
    return directions(names, sweep.larger, sweep.smaller)


# --- files --------------------------------------------------------------------------------------------------


def _in_use(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _open(sweep: Sweep, cfg: Config, overwrite: bool) -> Step | None:
    """The folder. None where it holds another recipe's results that may be overwritten: not yet.

    The recipe is what a point's metrics depend on. Ratios and Groups are not part of it: with others the same folder
    gets further points.
    """
    options = sweep.slimming
    recipe = {
        'resolved': cfg.to_dict(),
        'random': options.checkpoint is None,
        'importance': options.importance,
        'batches': options.batches if needs_data(options) else None,
        'round_to': options.round_to,
        'samples': sweep.samples,
        'seed': options.seed,
    }
    inputs = {'checkpoint': options.checkpoint} if options.checkpoint else {}
    try:
        return open_step(options.output_dir, 'sensitivity', recipe, inputs, overwrite, [RESULT, TABLE, PICTURE, PAGE])
    except StepError:
        if overwrite or not options.overwrite:
            raise
        return None


def _known(step: Step) -> Sensitivity | None:
    """What an earlier run has measured."""
    path = step.folder / RESULT
    if not path.exists():
        return None
    try:
        return read_sensitivity(path)
    except ValueError as error:
        raise UserError(f'{error}; remove it to measure anew') from None


def _keep(found: Sensitivity, path: Path) -> None:
    try:
        with atomic_write(path) as file:
            json.dump(found.to_dict(), file, indent=1)
            file.write('\n')
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from error


def _write_table(found: Sensitivity, larger: Mapping[str, bool], path: Path) -> None:
    """One line per point, the network as it is first; ``worse`` columns are relative changes."""
    names = list(found.baseline)
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['group', 'kind', 'units', 'ratio', 'removed', *names, *(f'{name} worse' for name in larger)])
        writer.writerow(['', '', '', 0, 0, *found.baseline.values(), *(0 for _ in larger)])
        for row in found.rows:
            changes = (increase(found.baseline[name], row.metrics[name], larger[name]) for name in larger)
            values = (row.metrics[name] for name in names)
            writer.writerow([row.group, *found.groups[row.group], row.ratio, row.removed, *values, *changes])


def settings(sweep: Sweep, device: str) -> dict[str, Any]:
    """What was asked for, for the page."""
    options = sweep.slimming
    return {
        'config': options.config.name,
        'checkpoint': options.checkpoint.name if options.checkpoint else 'random',
        'ratios of the last run': list(sweep.ratios),
        'importance': options.importance,
        'batches': options.batches if needs_data(options) else None,
        'targets': list(options.targets),
        'protect': list(options.protect),
        'round_to': options.round_to,
        'metrics': list(sweep.metrics),
        'seed': options.seed,
        'device': device,
    }


def _write_rules(
    sweep: Sweep,
    network: Network,
    groups: Sequence[Group],
    pruner: StructuredPruner,
    found: Sensitivity,
    curves: Mapping[str, list[tuple[float, float]]],
    origin: Mapping[str, Any],
    console: Console,
) -> None:
    """Writes the allocation, and says how it is used."""
    options, limit = sweep.slimming, sweep.limit
    if limit is None:
        assert options.target is not None
        _, example, _ = network.examples
        pruner.allocation = Tolerance(curves)
        cost = find_cost(options.target[0], network.model, example, console)
        search = Search.of(pruner, network.model, groups, cost, *options.target)
        limit = Tolerance.limit(search.solution.ratio)
        counted, show = search.solution.counted, cost.show
        left = search.solution.predicted if counted is None else counted
        say(console, f'{cost.name}: {show(left)} of {show(cost.dense)} are left')
    allocation = rules(curves, {name: found.groups[name][1] for name in curves}, limit)
    allocation['sensitivity'] = dict(origin)
    assert sweep.rules is not None
    with atomic_write(sweep.rules) as file:
        json.dump(allocation, file, indent=1)
        file.write('\n')
    lose = len(allocation['rules'])
    say(
        console,
        f'{sweep.rules}: {lose} of {len(curves)} Groups lose units, none alone makes a metric worse by more '
        f'than {100 * limit:.3g} % (lines between the measured ratios, nothing beyond them); together they do. Use it:',
    )
    checkpoint = 'random' if options.checkpoint is None else str(options.checkpoint)
    command = ['analysis_struct.py', str(options.config), checkpoint, '--rules', str(sweep.rules)]
    for flag, values in (
        ('--targets', options.targets),
        ('--protect', options.protect),
        ('--importance', (options.importance,) if options.importance != 'L2' else ()),
        ('--batches', (str(options.batches),) if needs_data(options) else ()),
        ('--round-to', (str(options.round_to),) if options.round_to > 1 else ()),
        ('--cfg-options', options.cfg_options),
    ):
        command += [flag, *values] if values else []
    say(console, shlex.join([*command, '--output-dir', 'DIR']))


# --- words --------------------------------------------------------------------------------------------------


def say(console: Console, line: str) -> None:
    """Prints a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """For people: '12 s', '3 min', '5.2 h'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'


def where(model: nn.Module) -> str:
    """The device of a network."""
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else str(device)


def _directions_line(larger: Mapping[str, bool]) -> str:
    smaller = ', '.join(name for name, better in larger.items() if not better)
    other = ', '.join(name for name, better in larger.items() if better)
    parts = [f'smaller is better: {smaller}' if smaller else '', f'larger is better: {other}' if other else '']
    return '; '.join(part for part in parts if part)
