"""Between two levels: from the weights of one to the masks of the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vadslim.cli import UserError
from vadslim.sparse import (
    VIT_LAYERS,
    Masks,
    check_stable,
    density,
    imp,
    layer_rates,
    progressive_rate,
    prunable_weights,
    refill,
)
from vadslim.sparse.criteria import channel_scores
from vadslim.sparse.units import find_units, regroup, unit_scores, units_left
from vadslim.sparse.vit_report import regroup_lines, sparsity_lines
from vadslim.sparse_training.settings import Settings


@dataclass(frozen=True)
class Pruned:
    """The masks of a level.

    Attributes:
        current: What trains in it, element-wise for rsst.
        refill: What is left when it ends.
        element: Density of the element-wise masks that ``refill`` was made of, in [0, 1].
        report: Lines for people.
        heads: Per cent of a ViT's heads that are left; None of other networks.
    """

    current: Masks
    refill: Masks
    element: float = 1.0
    report: list[str] = field(default_factory=list)
    heads: float | None = None


def is_vit(model: nn.Module) -> bool:
    """Whether what is pruned of a network are the linear layers of its blocks: attention and MLP."""
    return any(name.endswith('attn.qkv') for name, _ in model.named_modules())


def classifier(model: nn.Module) -> str:
    """The name of the layer that gives the class scores: the last linear one.

    Raises:
        UserError: there is none.
    """
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise UserError(f'{type(model).__name__} has no linear layer that could be its classifier')
    return names[-1]


def prunable(model: nn.Module, settings: Settings) -> dict[str, nn.Parameter]:
    """The weights that masks are of: convolutions but the stem, or the layers of a ViT's blocks; and what flags add."""
    if is_vit(model):
        weights = prunable_weights(model, (nn.Linear,), VIT_LAYERS, ())
        if settings.conv1:
            weights = prunable_weights(model, (nn.Conv2d,), exclude=()) | weights
    else:
        weights = prunable_weights(model, (nn.Conv2d,), exclude=() if settings.conv1 else None)
    if settings.fc:
        weights |= prunable_weights(model, (nn.Linear,), (classifier(model),), ())
    if not weights:
        raise UserError(f'{type(model).__name__} has no weights to prune: no convolution but the stem, no attn.qkv')
    return {name: weight for name, weight in model.named_parameters() if name in weights}


def check(model: nn.Module, settings: Settings, optimizer: Mapping[str, Any]) -> None:
    """Raise before level 0 is trained what the levels after it would raise.

    Args:
        model: As it is built.
        settings: Of the run.
        optimizer: Its config.

    Raises:
        SparseError, UserError: settings that do not fit the network, a lambda under which training diverges.
    """
    weights = prunable(model, settings)
    if settings.layer_rates:
        layer_rates(weights, settings.rate, settings.layer_rates)
    if settings.vit_structured:
        find_units(model, weights)
    if settings.struct == 'rsst' and settings.reg_mode == 'progress' and str(optimizer['type']) == 'SGD':
        highest = min(settings.reg_granularity_prune, settings.reg_ceiling)
        momentum, decay = optimizer.get('momentum', 0.0), optimizer.get('weight_decay', 0.0)
        check_stable(highest, optimizer['lr'], momentum, decay, optimizer.get('nesterov', False))


def next_masks(
    model: nn.Module, masks: Mapping[str, Tensor], settings: Settings, level: int, batches: Iterable[Any]
) -> Pruned:
    """The masks of a level, from what the level before has left.

    Args:
        model: With the trained and masked weights of that level.
        masks: What it ended with.
        settings: Of the run.
        level: The new one, from 1.
        batches: For the criteria that look at data.

    Raises:
        SparseError, ScoringError, UserError: settings that do not fit the network.
    """
    weights = prunable(model, settings)
    rate = progressive_rate(settings.rate, level - 1) if settings.progressive_rate else settings.rate
    rates: float | dict[str, float] = rate
    if settings.layer_rates:
        rates = layer_rates(weights, rate, settings.layer_rates)
    element = imp(weights, masks, rates, settings.scope)
    if settings.struct == 'imp':
        return Pruned(element, element, density(element), heads=heads_left(model, weights, element))
    whole, report = element, []
    units: dict[str, nn.Parameter] = dict(weights)
    if settings.fc:
        units.pop(f'{classifier(model)}.weight')  # whole rows of it are classes
    if settings.vit_structured:
        layers = find_units(model, units)
        scores = unit_scores(model, layers, weights, element, settings.criteria, batches, settings.seed)
        ratio = rate if settings.mlp_prune_ratio is None else settings.mlp_prune_ratio
        result = regroup(
            layers, element, scores, rate, ratio, settings.vit_prune_target, settings.sorting_mode, normalize=True
        )
        whole = result.masks
        report = [*regroup_lines(result, settings.criteria, settings.struct), *sparsity_lines(whole)]
    else:
        scores = channel_scores(model, weights, element, settings.criteria, batches, settings.seed)
        whole = element | refill({name: element[name] for name in units}, scores, settings.fillback_rate)
    heads = heads_left(model, weights, whole)
    return Pruned(whole if settings.struct == 'refill' else element, whole, density(element), report, heads)


def heads_left(model: nn.Module, weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> float | None:
    """Per cent of a ViT's heads that masks leave; None of other networks."""
    return units_left(find_units(model, weights), masks) if is_vit(model) else None
