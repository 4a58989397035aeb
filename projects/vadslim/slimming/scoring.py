"""Scores of the command: what builds the pruner, and the data that its criterion looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from torch import nn

from vadslim.cli import UserError
from vadslim.pruning import (
    Group,
    GroupError,
    Importance,
    Level,
    PatternError,
    ScoringError,
    Structure,
    StructuredPruner,
    find_groups,
)
from vadslim.pruning.importance import Scores
from vadslim.registry import PRUNERS
from vadslim.slimming.batches import loss_batches
from vadslim.slimming.edits import apply_edits
from vadslim.slimming.network import Network, load_network
from vadslim.slimming.options import Options, Turn


def build_pruner(options: Options, structure: Structure | None = None) -> StructuredPruner:
    """The pruner that the arguments ask for.

    Args:
        options: the command's arguments, or those of one level.
        structure: of the network that is to be slimmed, if that is slim already.

    Raises:
        UserError: an argument is not known.
    """
    try:
        pruner = PRUNERS.build(
            {
                'type': 'StructuredPruner',
                'ratio': options.structured_ratio,
                'importance': options.importance,
                'allocation': options.allocation,
                'targets': list(options.targets) or None,
                'protect': list(options.protect) or None,
                'round_to': options.round_to,
            }
        )
    except ValueError as error:
        raise UserError(f'--{error}') from None
    if options.turn and not options.target:
        units = _units_before(options.turn, structure) if structure else {}
        pruner.allocation = Level(pruner.allocation, options.schedule, options.turn.number, options.levels, units)
    return pruner


def _units_before(turn: Turn, structure: Structure) -> dict[str, int]:
    """How many units each Group of a slim network had before the first level."""
    return {name: turn.units.get(name, group['num_units']) for name, group in structure.groups.items()}


def needs_data(options: Options) -> bool:
    """Whether the criterion looks at data."""
    return getattr(build_pruner(options).importance, 'needs_batches', False)


def find(options: Options, network: Network) -> list[Group]:
    """The Groups of the network, by their names in the dense one."""
    small, _, _ = network.examples
    try:
        return network.named(find_groups(network.model, small.run if small else None))
    except GroupError as error:
        raise UserError(f'config {options.config}: {error}') from error


def score(options: Options, network: Network, groups: Sequence[Group], console: Console, shared: bool) -> Scores:
    """Scores of all Groups, from ``--batches`` batches of the config's training data.

    Args:
        options: the command's arguments.
        network: whose units are scored.
        groups: its Groups.
        console: of the progress bar.
        shared: all processes score, each with its share of the batches.

    Raises:
        UserError: there are no data, or they say nothing of what the criterion asks.
    """
    importance = build_pruner(options).importance
    batches = loss_batches(
        network.cfg,
        options.batches,
        options.seed,
        shared=shared,
        workers=options.workers,
        console=console,
        title=f'scoring by {options.importance}',
    )
    try:
        return importance(network.model, groups, batches)
    except (PatternError, ScoringError) as error:
        raise UserError(f'--{error}') from None


def shared_scores(options: Options, device: str, console: Console) -> Scores:
    """Scores for the pruning, computed by all processes together; each of them gets the same."""
    network = load_network(options.config, options.cfg_options, options.checkpoint, options.seed, device)
    edited = apply_edits(options, network, network.examples[0])
    return score(options, edited.network, find(options, edited.network), console, shared=True)


class Scored(Importance):
    """A criterion that has been asked before."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        return {group.name: self.scores[group.name] for group in groups}
