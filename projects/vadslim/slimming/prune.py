"""The pruning step: from a config and a checkpoint to a smaller one of each, a structure and a report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from rich.console import Console
from torch import nn

from vadslim.analysis import (
    Complexity,
    Example,
    GroupRow,
    Latency,
    Measured,
    Report,
    count,
    count_params,
    measure_in_turn,
    print_report,
)
from vadslim.analysis.layer_sizes import layers_and_parts
from vadslim.analysis.pages import SENSITIVITY, write_pages
from vadslim.analysis.sensitivity_page import picture_of_rules
from vadslim.checkpoint import atomic_write, save_checkpoint
from vadslim.cli import UserError
from vadslim.pruning import (
    Group,
    PatternError,
    Structure,
    compose,
    make_structure,
    resize,
    slice_state_dict,
    wrong_groups,
)
from vadslim.pruning.edits import Edits
from vadslim.pruning.importance import Scores
from vadslim.slimming.elementwise import element_sets, prune_elements
from vadslim.slimming.network import Network, examples, load_network, read_config
from vadslim.slimming.options import Options
from vadslim.slimming.outputs import REPORT, SLIM, STRUCTURE, ZEROED, output_names, slim_checkpoint, write_config
from vadslim.slimming.savings import with_savings
from vadslim.slimming.scoring import Scored, build_pruner, find, needs_data, score
from vadslim.slimming.targets import Search, find_cost
from vadslim.stages import Step, StepError, open_step


@dataclass
class Clock:
    """Says what is going on, and how long it took.

    Attributes:
        seconds: what -> wall-clock seconds.
    """

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.console.status(what):
            yield
        self.seconds[what] = round(time.perf_counter() - start, 3)
        self.console.print(f'{what}: {self.seconds[what]:.1f} s', highlight=False, markup=False)


@dataclass(frozen=True)
class Slimmed:
    """A network and what slimming made of it, in memory.

    Attributes:
        slim: the smaller network.
        structure: what it has left of the dense architecture.
        step: what it has left of ``network.model``; the same unless that was slim already.
        groups: of ``network.model``.
        kept: units per Group.
        rows: what happens to every Group.
        ratio: the fraction that was removed, asked for or found.
        search: what a target led to.
    """

    network: Network
    slim: nn.Module
    structure: Structure
    step: Structure
    groups: list[Group]
    kept: dict[str, list[int]]
    rows: list[GroupRow]
    ratio: float
    search: Search | None = None

    def rows_with_savings(self, counted: Complexity | None) -> list[GroupRow]:
        """The rows with what each Group saves, of parameters and of the counted operations."""
        return with_savings(self.rows, self.groups, self.kept, self.ratio, self.network.model, counted)


def is_done(options: Options) -> bool:
    """Whether the pruning step has nothing to do."""
    if options.dry_run or not _in_use(options.output_dir):
        return False
    step = _open(options, read_config(options.config, options.cfg_options), overwrite=False)
    return step is not None and bool(step.done)


def prune(options: Options, device: str, console: Console, scores: Scores | None = None) -> Path | None:
    """Does the pruning step, or finds it done.

    Args:
        options: the command's arguments.
        device: 'cuda' or 'cpu'.
        console: says what is going on.
        scores: of a criterion that looks at data, if all processes have taken them; otherwise this one does.

    Returns:
        The config that runs the slim network; None after a dry run.

    Raises:
        UserError: and its kin, for whatever the user can mend. Nothing is half-written then.
    """
    cfg = read_config(options.config, options.cfg_options)
    if options.dry_run:
        clock = Clock(console)
        slimmed = slim_network(options, device, clock, scores)
        _, example, why_not = examples(slimmed.network)
        before, after = _counts(slimmed, example, clock)
        report = Report(
            _settings(options),
            example.label if example else '',
            Measured(count_params(slimmed.network.model), before),
            Measured(count_params(slimmed.slim), after),
            slimmed.rows_with_savings(before),
            clock.seconds,
            [f'not counted: {why_not}'] if why_not else [],
            slimmed.search.outcome if slimmed.search else None,
        )
        print_report(report, console, every_group=True)
        console.print('dry run: nothing was written')
        return None
    step = _open(options, cfg, overwrite=False) if _in_use(options.output_dir) else None
    config_path = options.output_dir / f'{options.config.stem}_slim.py'
    if step is not None and step.done:
        before, after = step.done['result']['params']
        line = f'{options.output_dir}: pruned already ({before:,} -> {after:,} parameters), reused'
        console.print(line, highlight=False, markup=False)
        return config_path
    clock = Clock(console)
    start = time.monotonic()
    slimmed = slim_network(options, device, clock, scores)
    if step is None:  # the folder is touched only now that there is something to put into it
        step = _open(options, cfg, overwrite=options.overwrite)
    try:
        outputs, result = write_all(slimmed, options, config_path, clock)
    except OSError as error:
        where = error.filename or options.output_dir
        raise UserError(f'{where}: cannot be written: {error.strerror}') from error
    step.finish([path.name for path in outputs], result, time.monotonic() - start)
    console.print(f'written to {options.output_dir}: {", ".join(path.name for path in outputs)}')
    return config_path


def _in_use(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _open(options: Options, cfg: Config, overwrite: bool) -> Step | None:
    """The step's folder. None where it holds another recipe's results that may be overwritten: not yet."""
    recipe = {**_settings(options), 'resolved': cfg.to_dict()}
    if options.checkpoint:
        del recipe['checkpoint']  # its content counts
    inputs = {'checkpoint': options.checkpoint} if options.checkpoint else {}
    try:
        return open_step(options.output_dir, 'pruning', recipe, inputs, overwrite, output_names(options.config))
    except StepError:
        if overwrite or not options.overwrite:
            raise
        return None


def _settings(options: Options) -> dict[str, Any]:
    """What was asked for, for the report; and, but for the checkpoint's name, what the result depends on."""
    return {
        'config': options.config.name,
        'checkpoint': options.checkpoint.name if options.checkpoint else 'random',
        'ratio': options.structured_ratio,
        'target': list(options.target) if options.target else None,
        'unstructured_ratio': options.unstructured_ratio,
        'importance': options.importance,
        'batches': options.batches if needs_data(options) else None,
        'allocation': options.allocation,
        'targets': list(options.targets),
        'protect': list(options.protect),
        'round_to': options.round_to,
        'seed': options.seed,
    }


def slim_network(options: Options, device: str, clock: Clock, scores: Scores | None = None) -> Slimmed:
    """Builds, plans, slims and checks; writes nothing."""
    with clock('building the network'):
        network = load_network(options.config, options.cfg_options, options.checkpoint, options.seed, device)
    small, example, _ = examples(network)
    with clock('finding what can go'):
        groups = find(options, network)
    pruner = build_pruner(options)
    if needs_data(options):
        if scores is None:
            with clock('scoring'):
                scores = score(options, network, groups, clock.console, shared=False)
        pruner.importance = Scored(scores)
    if options.target:
        with clock('what it costs'):
            table, backend, repeats = options.latency_table, options.latency_backend, options.latency or 3
            cost = find_cost(options.target[0], network.model, example, clock.console, table, backend, repeats=repeats)
    with clock('choosing'):
        try:
            found = Search.of(pruner, network.model, groups, cost, *options.target) if options.target else None
            kept = found.solution.kept if found else pruner.plan(network.model, groups)
        except PatternError as error:
            raise UserError(f'--{error}') from None
        rows = [
            GroupRow(r.name, r.kind, r.num_units, r.kept, r.reason) for r in pruner.report(network.model, groups, kept)
        ]
    with clock('slimming'):
        step = make_structure(network.model, groups, kept)
        structure = compose(network.structure, step) if network.structure else step
        slim = resize(network.model, step)
    with clock('checking'):
        check(network, slim, step)
        # without queries there are fewer outputs: nothing to compare
        compared = [group for group in groups if group.kind != 'query']
        units = {group.name: kept[group.name] for group in compared if group.name in kept}
        wrong = wrong_groups(network.model, compared, units, small.run) if small else {}
        if wrong:
            why = next(iter(wrong.values()))
            raise UserError(
                f'slimming {", ".join(wrong)} would change more than its units ({why}); '
                f'--protect {" ".join(wrong)} leaves it alone'
            )
    if found:
        clock.console.print(found.line, highlight=False, markup=False)
    ratio = found.solution.ratio if found else pruner.ratio
    return Slimmed(network, slim, structure, step, groups, kept, rows, ratio, found)


def check(network: Network, slim: nn.Module, step: Structure) -> None:
    """Refuses a slim network that does not have the structure's shapes.

    Raises:
        RuntimeError: our own fault, with what is wrong.
    """
    expected = slice_state_dict(network.model.state_dict(), step)
    found = slim.state_dict()
    wrong = [n for n in expected if n not in found or found[n].shape != expected[n].shape]
    if wrong or len(found) != len(expected):
        raise RuntimeError(f'slimming went wrong: {wrong[:3] or "other tensors than before"}')


def write_all(slimmed: Slimmed, options: Options, config_path: Path, clock: Clock) -> tuple[list[Path], dict[str, Any]]:
    """Writes all files of the step, each whole or not at all.

    Returns:
        Their paths, and the numbers in short.
    """
    out, network = options.output_dir, slimmed.network
    notes: list[str] = []
    outputs = [out / SLIM, out / STRUCTURE, config_path, out / REPORT]
    with clock('writing'):
        checkpoint, remarks = slim_checkpoint(network, slimmed.slim, slimmed.step, slimmed.structure)
        notes += remarks
        save_checkpoint(checkpoint, out / SLIM)
        slimmed.structure.save(out / STRUCTURE)
        outputs += write_config(
            config_path,
            options.config,
            network.cfg,
            bool(options.cfg_options),
            slimmed.ratio,
        )
        if options.unstructured_ratio is not None:
            notes += _write_zeroed(network, options.unstructured_ratio, out / ZEROED)
            outputs += [out / ZEROED] if (out / ZEROED).exists() else []
    _, example, why_not = examples(network)
    if why_not:
        notes.append(f'MACs and latency are not measured: {why_not}')
    before, after = _counts(slimmed, example, clock)
    times = _latencies(slimmed, example, options.latency, clock)
    size = options.checkpoint.stat().st_size if options.checkpoint else None
    report = Report(
        _settings(options),
        example.label if example else '',
        Measured(count_params(network.model), before, times[0], size),
        Measured(count_params(slimmed.slim), after, times[1], (out / SLIM).stat().st_size),
        slimmed.rows_with_savings(before),
        clock.seconds,
        notes,
        slimmed.search.outcome if slimmed.search else None,
    )
    with atomic_write(out / REPORT) as file:
        file.write(report.to_json())
    with clock('drawing'):
        run = example.run if example and times[0] else None
        rename = Edits(slimmed.step.edits).slim_name
        layers, sizes = layers_and_parts(network.model, slimmed.slim, before, after, run, options.latency, rename)
        outputs += write_pages(out, report, layers, sizes, more=picture_of_rules(options.rules, SENSITIVITY))
    print_report(report, clock.console)
    result = {'params': [report.before.params, report.after.params]}
    if before and after:
        result['macs'] = [before.macs, after.macs]
    return outputs, result


def _write_zeroed(network: Network, ratio: float, path: Path) -> list[str]:
    """Writes the element-wise pruned checkpoint, unless there is nothing to zero; returns what was done."""
    if not any(element_sets(network.model)):
        return [f'{path.name} is not written: the model has no backbone, neck or transformer']
    state, lines = prune_elements(network.model, ratio)
    save_checkpoint({'meta': dict(network.checkpoint.get('meta') or {}), 'state_dict': state}, path)
    return [f'{path.name}: {line}' for line in lines]


def _counts(slimmed: Slimmed, example: Example | None, clock: Clock) -> tuple[Complexity | None, Complexity | None]:
    if example is None:
        return None, None
    with clock('counting'):
        before = slimmed.search.counted if slimmed.search else None
        return before or count(slimmed.network.model, example.run), count(slimmed.slim, example.run)


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
