"""The work of ``slim_masked.py``: masks become zeros, zeros a smaller network, and that a folder of files."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from rich.console import Console
from torch import Tensor, nn

from vadslim.analysis import GroupRow, Latency, Measured, Report, count_params, measure_in_turn, print_report
from vadslim.checkpoint import atomic_write
from vadslim.cli import UserError
from vadslim.pruning import Structure, compose, find_groups, slice_state_dict
from vadslim.slimming.masked import Masked
from vadslim.slimming.network import Network, load_network, read_config
from vadslim.slimming.outputs import REPORT, STRUCTURE, slim_checkpoint, write_config, write_slim
from vadslim.slimming.prune import Clock
from vadslim.sparse import Removal, held_by_companions, parameters_of, remove_dead
from vadslim.sparse.masks import check_masks
from vadslim.stages import Step, StepError, open_step

SLIM = 'slim.pth'


def slim_masked(options: Masked, device: str, console: Console) -> None:
    """Writes the smaller network, or finds it written.

    Raises:
        UserError: and its kin, for whatever the user can mend; no file is touched then.
    """
    out = options.output_dir
    step = _known(options) if out.is_dir() and any(out.iterdir()) else None
    if step is not None and step.done:
        before, after = step.done['result']['params']
        line = f'{out}: slimmed already ({before:,} -> {after:,} parameters), reused'
        console.print(line, highlight=False, markup=False)
        return
    start, clock = time.monotonic(), Clock(console)
    with clock('building the network'):
        network = load_network(options.config, options.cfg_options, options.checkpoint, 0, device)
        masks = apply_masks(network, str(options.checkpoint))
    removal = remove(network, clock, options)
    report = measure(network, removal, masks, options, clock)
    step = step or _open(options, options.overwrite)
    try:
        outputs, report = _write(network, removal, masks, options, report)
    except OSError as error:
        raise UserError(f'{error.filename or out}: cannot be written: {error.strerror}') from error
    result = {'params': [report.before.params, report.after.params]}
    if report.before.complexity and report.after.complexity:
        result['macs'] = [report.before.complexity.macs, report.after.complexity.macs]
    step.finish(outputs, result, time.monotonic() - start)
    print_report(report, console)
    console.print(f'written to {out}: {", ".join(outputs)}', highlight=False, markup=False)


def _known(options: Masked) -> Step | None:
    """The step in a folder that holds something; None where that is to be replaced, but not yet."""
    try:
        return _open(options, overwrite=False)
    except StepError:
        if not options.overwrite:
            raise
        return None


def _open(options: Masked, overwrite: bool) -> Step:
    recipe = {'resolved': read_config(options.config, options.cfg_options).to_dict(), 'latency': options.latency}
    leaves = [SLIM, STRUCTURE, REPORT, *(f'{options.config.stem}_{end}.py' for end in ('slim', 'dense'))]
    return open_step(
        options.output_dir, 'removal of zeros', recipe, {'checkpoint': options.checkpoint}, overwrite, leaves
    )


def apply_masks(network: Network, source: str) -> dict[str, Tensor]:
    """Puts zeros where the masks of a network's checkpoint are False; returns these masks, {} if there are none.

    Raises:
        UserError: and its kin: they do not fit the network.
    """
    masks = network.checkpoint.get('masks') or {}
    if not isinstance(masks, Mapping) or not all(isinstance(mask, Tensor) for mask in masks.values()):
        raise UserError(f'{source}: its masks are not {{parameter: tensor}}')
    masks = {name.removeprefix('module.'): mask for name, mask in masks.items()}
    weights = parameters_of(network.model, masks)
    check_masks(weights, masks)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.masked_fill_(~masks[name].to(weight.device), 0)
    return masks


def remove(network: Network, clock: Clock, options: Masked) -> Removal:
    """Removes what nobody hears.

    Raises:
        UserError: there is nothing of the kind; it says what is in the way.
    """
    small, _, why_not = network.examples
    if small is None:
        raise UserError(f'config {options.config}: {why_not}: what is dead cannot be found out')
    with clock('finding what is dead'):
        groups = network.named(find_groups(network.model, small.run))
        removal = remove_dead(network.model, small.run, groups)
        if not removal.units:
            none, total = zeros(network.model)
            held = held_by_companions(network.model, groups, small.run)
            why = f'; {held:,} units only have biases or batch norms left (gamma, beta), which must be zero, too'
            raise UserError(
                f'checkpoint {options.checkpoint}: nothing can be removed exactly: {none:,} of {total:,} parameters '
                f'are zero, and no unit is dead{why if held else ""}'
            )
    return removal


def zeros(model: nn.Module) -> tuple[int, int]:
    """(how many numbers of the parameters are zero, how many there are)."""
    return sum(int((p == 0).sum()) for p in model.parameters()), count_params(model)


def measure(network: Network, removal: Removal, masks: Mapping[str, Tensor], options: Masked, clock: Clock) -> Report:
    """Counts and, if asked to, times both networks; their files come later."""
    _, example, _ = network.examples
    assert example is not None
    models = [network.model, removal.model]
    with clock('counting'):
        counts = [example.count(model) for model in models]
    times: list[Latency | None] = [None, None]
    if options.latency:
        with clock('timing'):
            device = next(network.model.parameters()).device
            runs = [lambda model=model: example.run(model) for model in models]
            times = list(measure_in_turn(runs, options.latency, warmup=2, device=device))
    rows = []
    for group in removal.groups:
        left = len(removal.kept.get(group.name, range(group.num_units)))
        rows.append(GroupRow(group.name, group.kind, group.num_units, left, removal.reasons.get(group.name, '')))
    (before, all_before), (after, all_after) = map(zeros, models)
    notes = [
        f'zeros: {before:,} of {all_before:,} parameters ({before / all_before:.1%}) before, '
        f'{after:,} of {all_after:,} ({after / all_after:.1%}) after',
        f'the outputs differ by {removal.error:.2g} of the largest',
    ]
    asked = {'config': options.config.name, 'checkpoint': options.checkpoint.name, 'masks': len(masks)}
    measured = [Measured(count_params(model), *found) for model, *found in zip(models, counts, times)]
    return Report(asked, example.label, *measured, rows, clock.seconds, notes)


def _write(
    network: Network, removal: Removal, masks: Mapping[str, Tensor], options: Masked, report: Report
) -> tuple[list[str], Report]:
    """Writes all files, each whole or not at all; their names, and the report with the sizes of the checkpoints."""
    out = options.output_dir
    step = network.own_names(removal.structure)
    structure = compose(network.structure, step) if network.structure else step
    checkpoint, remarks = slim_checkpoint(network, removal.model, step, structure)
    if masks:
        checkpoint['masks'] = _slim_masks(masks, step)
    write_slim(checkpoint, out / SLIM, network)
    structure.save(out / STRUCTURE)
    config = out / f'{options.config.stem}_slim.py'
    lost = [f'the {removal.units:,} units that nobody hears, their weights being zero']
    others = write_config(config, options.config, network.cfg, bool(options.cfg_options), lost, SLIM)
    before, after = (
        Measured(measured.params, measured.complexity, measured.latency, file.stat().st_size)
        for measured, file in ((report.before, options.checkpoint), (report.after, out / SLIM))
    )
    notes = [*report.notes, *remarks]
    report = Report(report.settings, report.example, before, after, report.groups, report.seconds, notes)
    with atomic_write(out / REPORT) as file:
        file.write(report.to_json())
    return [SLIM, STRUCTURE, REPORT, config.name, *(path.name for path in others)], report


def _slim_masks(masks: Mapping[str, Tensor], step: Structure) -> dict[str, Tensor]:
    """Masks of what is left, for whoever trains on."""
    cut = {name: mask for name, mask in masks.items() if name in step.tensors}
    return {**masks, **(slice_state_dict(cut, step) if cut else {})}
