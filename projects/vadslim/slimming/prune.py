"""The pruning step: from a config and a checkpoint to a smaller one of each, a structure and a report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from torch import nn

from vadslim.analysis import (
    Complexity,
    Example,
    GroupRow,
    Measured,
    Report,
    count_params,
    print_report,
)
from vadslim.cli import UserError
from vadslim.pruning import (
    Cost,
    Group,
    Level,
    PatternError,
    Structure,
    compose,
    make_structure,
    resize,
    slice_state_dict,
    wrong_groups,
)
from vadslim.pruning.importance import Scores
from vadslim.slimming.edits import Edited, apply_edits, dense_names
from vadslim.slimming.elementwise import element_sets, prune_elements
from vadslim.slimming.network import Network, load_network, read_config
from vadslim.slimming.norms import recalibrate_norms, recalibration_batches
from vadslim.slimming.options import Options
from vadslim.slimming.outputs import SLIM, STRUCTURE, ZEROED, output_names, slim_checkpoint, write_config, write_slim
from vadslim.slimming.reporting import counts, write_report
from vadslim.slimming.savings import with_savings
from vadslim.slimming.scoring import Scored, build_pruner, find, needs_data, score
from vadslim.slimming.targets import Search, find_cost, goal_now
from vadslim.stages import Step, StepError, open_step

LATER = ('keep_layers', 'bev_size', 'recalibrate_bn')  # settings that stand in a recipe only where they are used


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
        edited: the network with what left of it before any units.
        slim: the smaller network.
        structure: what it has left of the dense architecture.
        step: what it has left of ``network.model``; the same unless that was slim already.
        groups: of the edited network, named as in the dense one.
        kept: units per Group.
        rows: what happens to every Group.
        ratio: the fraction that was removed, asked for or found.
        search: what a target led to.
        notes: lines for the report.
    """

    edited: Edited
    slim: nn.Module
    structure: Structure
    step: Structure
    groups: list[Group]
    kept: dict[str, list[int]]
    rows: list[GroupRow]
    ratio: float
    search: Search | None = None
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        """What was slimmed."""
        return self.edited.before

    def report(
        self,
        asked: Mapping[str, Any],
        example: Example | None,
        before: Measured,
        after: Measured,
        edited: Complexity | None,
        seconds: Mapping[str, float],
        notes: Sequence[str],
    ) -> Report:
        """Everything that is said of it; ``edited``: the operations of the edited network, if they were counted."""
        edits = self.edited.rows(before.complexity, edited)
        return Report(
            asked,
            example.label if example else '',
            before,
            replace(after, complexity=dense_names(after.complexity, self.step)),
            with_savings(self.rows, self.groups, self.kept, self.ratio, self.edited.network.model, edited),
            seconds,
            [*self.edited.lines(edits), *self.notes, *notes],
            self.search.outcome if self.search else None,
            edits,
            self.edited.changes,
        )


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
        _, example, why_not = slimmed.network.examples
        before, edited, after = counts(slimmed, example, clock)
        report = slimmed.report(
            settings(options),
            example,
            Measured(count_params(slimmed.network.model), before),
            Measured(count_params(slimmed.slim), after),
            edited,
            clock.seconds,
            [f'not counted: {why_not}'] if why_not else [],
        )
        print_report(report, console, every_group=True)
        which = f' of level {options.turn.number} of {options.levels}' if options.turn else ''
        console.print(f'dry run{which}: nothing was written')
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
    try:
        return _folder(options, cfg, 'pruning', overwrite)
    except StepError:
        if overwrite or not options.overwrite:
            raise
        return None


def open_levels(options: Options) -> Step:
    """The folder of several levels: the report of the whole goes there.

    Raises:
        StepError: it cannot be used.
    """
    cfg = read_config(options.config, options.cfg_options)
    return _folder(
        options,
        cfg,
        'pruning in levels',
        options.overwrite,
        mode=options.mode,
        epochs=options.epochs,
        limits=[str(limit) for limit in options.limits],
        distill=options.distill is not None,
    )


def _folder(options: Options, cfg: Config, what: str, overwrite: bool, **more: Any) -> Step:
    recipe = {**settings(options), **more, 'resolved': cfg.to_dict()}
    if options.checkpoint:
        del recipe['checkpoint']  # its content counts
    inputs = {'checkpoint': options.checkpoint} if options.checkpoint else {}
    return open_step(options.output_dir, what, recipe, inputs, overwrite, output_names(options.config))


def settings(options: Options) -> dict[str, Any]:
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
        **({'levels': options.levels, 'schedule': options.schedule} if options.levels > 1 else {}),
        **({'level': options.turn.number} if options.turn else {}),
        **{name: value for name in LATER if (value := getattr(options, name))},
    }


def slim_network(options: Options, device: str, clock: Clock, scores: Scores | None = None) -> Slimmed:
    """Builds, plans, slims and checks; writes nothing."""
    with clock('building the network'):
        network = load_network(options.config, options.cfg_options, options.checkpoint, options.seed, device)
    batches = recalibration_batches(options, network, clock.console)  # first: what is missing is told at once
    small, example, _ = network.examples
    with clock('layers and grid') if options.keep_layers or options.bev_size else nullcontext():
        edited = apply_edits(options, network, small)
    network = edited.network
    with clock('finding what can go'):
        groups = find(options, network)
    pruner = build_pruner(options, edited.before.structure)
    if needs_data(options):
        if scores is None:
            with clock('scoring'):
                scores = score(options, network, groups, clock.console, shared=False)
        pruner.importance = Scored(scores)
    if options.target:
        with clock('what it costs'):
            costs = [_cost(options, model, example, clock.console) for model in edited.models]
    with clock('choosing'):
        try:
            found = None
            if options.target:
                kind, goal = options.target[0], goal_now(options, *costs)
                found = Search.of(pruner, network.model, groups, costs[0], kind, goal, *costs[1:])
            kept = found.solution.kept if found else pruner.plan(network.model, groups)
        except PatternError as error:
            raise UserError(f'--{error}') from None
        rows = [
            GroupRow(r.name, r.kind, r.num_units, r.kept, r.reason) for r in pruner.report(network.model, groups, kept)
        ]
    with clock('slimming'):
        step = network.own_names(make_structure(network.model, groups, kept))
        slim, whole_step = resize(network.model, step), edited.then(step)
        structure = compose(network.structure, step) if network.structure else step
    with clock('checking'):
        check(edited.before, slim, whole_step)
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
    ratio, notes = found.solution.ratio if found else pruner.ratio, []
    if isinstance(pruner.allocation, Level):
        ratio = pruner.allocation.so_far(ratio)
    if batches is not None:
        with clock('recalibrating batch norms'):
            notes = recalibrate_norms(slim, batches, edited.before, whole_step)
    elif options.recalibrate_bn:
        notes = ['--recalibrate-bn: not in a dry run']
    return Slimmed(edited, slim, structure, whole_step, groups, kept, rows, ratio, found, tuple(notes))


def _cost(options: Options, model: nn.Module, example: Example | None, console: Console) -> Cost:
    assert options.target is not None
    table, backend, repeats = options.latency_table, options.latency_backend, options.latency or 3
    return find_cost(options.target[0], model, example, console, table, backend, repeats=repeats)


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
    outputs = [out / SLIM, out / STRUCTURE, config_path]
    with clock('writing'):
        checkpoint, remarks = slim_checkpoint(network, slimmed.slim, slimmed.step, slimmed.structure)
        notes += remarks
        write_slim(checkpoint, out / SLIM, network)
        slimmed.structure.save(out / STRUCTURE)
        outputs += write_config(
            config_path,
            options.config,
            network.cfg,
            bool(options.cfg_options),
            [f'{slimmed.ratio:.0%} of its units', *slimmed.edited.names],
        )
        if options.unstructured_ratio is not None:
            notes += _write_zeroed(network, options.unstructured_ratio, out / ZEROED)
            outputs += [out / ZEROED] if (out / ZEROED).exists() else []
    files = [options.checkpoint, out / SLIM]
    asked = settings(options) | ({'ratio_so_far': round(slimmed.ratio, 6)} if options.turn else {})
    report, others = write_report(slimmed, options, asked, files, clock, notes)
    result = {'params': [report.before.params, report.after.params]}
    if report.before.complexity and report.after.complexity:
        result['macs'] = [report.before.complexity.macs, report.after.complexity.macs]
    return outputs + others, result


def _write_zeroed(network: Network, ratio: float, path: Path) -> list[str]:
    """Writes the element-wise pruned checkpoint, unless there is nothing to zero; returns what was done."""
    if not any(element_sets(network.model)):
        return [f'{path.name} is not written: the model has no backbone, neck or transformer']
    state, lines = prune_elements(network.model, ratio)
    write_slim({'meta': dict(network.checkpoint.get('meta') or {}), 'state_dict': state}, path, network)
    return [f'{path.name}: {line}' for line in lines]
