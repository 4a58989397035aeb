"""Attention heads and MLP neurons of vision transformers as what is kept or goes, in masks.

Layers are told by what they are made of, so that our ``VisionTransformer`` and timm's fit alike: attention has linear
``qkv`` and ``proj`` and a number ``num_heads``, an MLP linear ``fc1`` and ``fc2``. Head h of H with d dimensions is the
rows of ``qkv`` that make its queries, keys and values, (3, H, d) in this order, and the columns h d to (h + 1) d of
``proj``; neuron j is row j of ``fc1`` and column j of ``fc2``. Biases are not masked: nothing reads what they make.

    layers = find_units(model, weights)
    scores = unit_scores(model, layers, weights, masks, 'l1', batches)
    result = regroup(layers, masks, scores, 0.3)        # result.masks; ``report_lines`` prints the rest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pruning.gradients import TINY
from ..pruning.passes import Batch
from .criteria import check_criterion, finite, output_sums, weight_scores
from .masks import Masks, SparseError, Weights, check_masks, density, largest, row_sums, rows

#: What is regrouped -> the kinds of units
TARGETS = {'head': ('head',), 'mlp': ('neuron',), 'both': ('head', 'neuron')}
SORTINGS = ('layer-wise', 'global')
#: So many units of a layer stay when all layers are sorted together
FLOORS = {'head': 1, 'neuron': 4}


@dataclass(frozen=True)
class UnitLayer:
    """The heads of an attention, or the neurons of an MLP.

    Attributes:
        name: Of the layer that makes them, ``blocks.0.attn.qkv`` or ``blocks.0.mlp.fc1``.
        kind: ``head`` or ``neuron``.
        count: How many there are in the dense layer.
        size: Rows of a unit next to each other: dimensions of a head; 1 of a neuron.
        maker: Name of the weight whose rows make them.
        reader: Name of the weight whose columns read them.
    """

    name: str
    kind: str
    count: int
    size: int
    maker: str
    reader: str

    def per_unit(self, values: Tensor) -> Tensor:
        """Values of the maker's rows, or the reader's columns -> their sums over each unit, (count,) float64."""
        return values.reshape(-1, self.count, self.size).sum((0, 2), dtype=torch.float64)

    def places(self, units: Tensor, length: int) -> Tensor:
        """Which rows of the maker, or columns of the reader, are of these units: (count,) -> (length,)."""
        return units.repeat_interleave(self.size).repeat(length // (self.count * self.size))

    def left(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Which units are not gone: a row of the maker or a column of the reader still holds weights. (count,) bool."""
        made, read = self.per_unit(masks[self.maker].sum(1)), self.per_unit(masks[self.reader].sum(0))
        return (made + read.to(made.device)) > 0


def find_units(model: nn.Module, weights: Iterable[str]) -> list[UnitLayer]:
    """The layers whose heads or neurons are units, in the model's order; of shared weights once.

    Args:
        model: Only read.
        weights: Names of the prunable weights; others have no units.

    Raises:
        SparseError: There are none; only one of the two layers is prunable; heads that do not fill the layers.
    """
    prunable = set(weights)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, UnitLayer] = {}
    for name, module in model.named_modules():
        heads = getattr(module, 'num_heads', None)
        for kind, makes, reads, times in (('head', 'qkv', 'proj', 3), ('neuron', 'fc1', 'fc2', 1)):
            first, second = getattr(module, makes, None), getattr(module, reads, None)
            if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear)):
                continue
            maker, reader = (names.get(id(layer.weight), '') for layer in (first, second))
            if not prunable & {maker, reader} or (kind == 'head' and not isinstance(heads, int)):
                continue
            if not {maker, reader} <= prunable:
                raise SparseError(f'{name}: {makes} and {reads} are masked together; only one of them is prunable')
            rows_, columns = len(first.weight), second.weight.shape[1]
            count = heads if isinstance(heads, int) and kind == 'head' else columns
            if rows_ != times * columns or count < 1 or columns % count:
                raise SparseError(
                    f'{name}: {makes} makes {rows_} and {reads} reads {columns} features; '
                    f'{times} x {count} {kind}s of one size are needed'
                )
            layer = f'{name}.{makes}' if name else makes
            found.setdefault(maker, UnitLayer(layer, kind, count, columns // count, maker, reader))
    if not found:
        raise SparseError(
            f'none of {len(prunable)} prunable weights is of an attention (qkv, proj, num_heads) or an MLP (fc1, fc2)'
        )
    return list(found.values())


def unit_scores(
    model: nn.Module,
    layers: Sequence[UnitLayer],
    weights: Weights,
    masks: Mapping[str, Tensor],
    criterion: str = 'magnitude',
    batches: Iterable[Batch] | None = None,
    seed: int = 0,
    probes: int = 16,
) -> dict[str, Tensor]:
    """How much each head or neuron is worth to the trained and masked network.

    ``remain`` and ``magnitude`` sum M and |M w| over the rows that make a unit; ``l1`` and ``l2`` are the mean and the
    root mean square of what these rows give (neurons: before the nonlinearity), over samples, tokens and rows;
    ``saliency`` and ``hessian`` sum the |w dL/dw| and w^2 h / 2 of all weights of a unit, columns that read it too.

    Args: as for ``criteria.channel_scores``.

    Returns:
        {name of the layer: (count,) float64 on the CPU}, finite.

    Raises:
        SparseError: as for ``criteria.channel_scores``.
    """
    check_criterion(criterion, batches)
    check_masks(weights, masks)
    if criterion == 'remain':
        return {layer.name: layer.per_unit(masks[layer.maker].sum(1)).cpu() for layer in layers}
    sums = row_sums(weights, masks)
    scores = {layer.name: layer.per_unit(sums[layer.maker]).cpu() for layer in layers}
    if criterion in ('l1', 'l2'):
        given = output_sums(model, weights, masks, criterion, batches, {layer.maker for layer in layers})
        for layer in layers:
            total, positions = given[layer.maker]
            mean = layer.per_unit(total) / max(positions * len(total) / layer.count, 1)
            scores[layer.name] = (mean.sqrt() if criterion == 'l2' else mean) + TINY * scores[layer.name]
    elif criterion != 'magnitude':
        worth = weight_scores(model, weights, masks, criterion, batches, seed, probes)
        for layer in layers:
            both = layer.per_unit(worth[layer.maker].sum(1)) + layer.per_unit(worth[layer.reader].sum(0))
            scores[layer.name] = both + TINY * scores[layer.name]
    return finite(scores, criterion)


@dataclass(frozen=True)
class UnitChoice:
    """What became of one layer.

    Attributes:
        layer: Which one.
        shape: Of the maker's weight.
        scores: One per unit of the dense layer.
        before: How many units there were.
        kept: Those that stay, the largest scores first.
        sparsity: Fraction of the maker's weights that was masked before.
        new_sparsity: And is now.
    """

    layer: UnitLayer
    shape: tuple[int, ...]
    scores: tuple[float, ...]
    before: int
    kept: tuple[int, ...]
    sparsity: float
    new_sparsity: float


@dataclass(frozen=True)
class Regrouped:
    """New masks, and what a report tells of them.

    Attributes:
        masks: Of all layers; a unit that stays is wholly True in those of its maker and reader.
        layers: All that were given.
        choices: Of those that were regrouped.
        target: ``head``, ``mlp`` or ``both``.
        ratio: Fraction of the heads that went (target ``mlp``: of the neurons).
        mlp_ratio: Of the neurons.
        sorting: ``layer-wise`` or ``global``.
    """

    masks: Masks
    layers: tuple[UnitLayer, ...]
    choices: tuple[UnitChoice, ...]
    target: str
    ratio: float
    mlp_ratio: float
    sorting: str


def kept_units(count: int, ratio: float) -> int:
    """How many of the units that there are now stay: int(count * (1 - ratio)), at least 1 unless there are none."""
    if not 0 <= ratio <= 1:
        raise SparseError(f'the ratio of heads or neurons to prune is {ratio}; it is a fraction from 0 to 1')
    return min(count, max(1, int(count * (1 - ratio) + 1e-6)))  # 10 * (1 - 0.9) is 0.9999999999999998


def regroup(
    layers: Sequence[UnitLayer],
    masks: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    ratio: float,
    mlp_ratio: float | None = None,
    target: str = 'both',
    sorting: str = 'layer-wise',
    floors: Mapping[str, int] = FLOORS,
    normalize: bool = False,
) -> Regrouped:
    """Whole heads and neurons in place of the scattered weights that element-wise pruning leaves.

    A unit that is gone, all its weights masked, stays gone; the others are what there is now, and of them a fraction
    goes. Those that stay get all their weights back. Layers that are not of the target keep their element-wise masks.

    Args:
        layers: From ``find_units``; those that are not of the target are left as they are.
        masks: Element-wise masks of all prunable weights.
        scores: {name of the layer: (count,) finite}; of equal scores the first units stay.
        ratio: Fraction of the heads that are there now to prune, see ``kept_units``.
        mlp_ratio: The same of neurons; None is ``ratio``.
        target: ``head``, ``mlp`` or ``both``.
        sorting: ``layer-wise``: within each layer. ``global``: all heads together, and all neurons.
        floors: Global: so many units of a kind stay in each layer that has them.
        normalize: Global: scores are divided by the mean of their layer's, over the units that there are. Sums are
            only comparable between layers of one shape.

    Raises:
        SparseError: A setting that cannot be, or scores that do not fit.
    """
    if target not in TARGETS:
        raise SparseError(f'target {target!r} is not known; there are {", ".join(TARGETS)}')
    if sorting not in SORTINGS:
        raise SparseError(f'sorting {sorting!r} is not known; there are {", ".join(SORTINGS)}')
    ratios = {'head': ratio, 'neuron': ratio if mlp_ratio is None else mlp_ratio}
    new = {name: mask.clone() for name, mask in masks.items()}
    choices = []
    for kind in TARGETS[target]:
        of_kind = [layer for layer in layers if layer.kind == kind]
        if not of_kind:
            raise SparseError(f'target {target!r}: the prunable weights are of no layer with {kind}s')
        together = [of_kind] if sorting == 'global' else [[layer] for layer in of_kind]
        least = floors.get(kind, 1) if sorting == 'global' else 1
        for some in together:
            values = {layer.name: _checked_scores(layer, scores) for layer in some}
            left = {layer.name: layer.left(masks).cpu() for layer in some}
            kept = _choose(values, left, ratios[kind], least, normalize and sorting == 'global')
            for layer in some:
                new |= _unit_masks(layer, kept[layer.name], masks)
                choices.append(_choice(layer, values[layer.name], left[layer.name], kept[layer.name], masks, new))
    return Regrouped(new, tuple(layers), tuple(choices), target, ratio, ratios['neuron'], sorting)


def _checked_scores(layer: UnitLayer, scores: Mapping[str, Tensor]) -> Tensor:
    if layer.name not in scores:
        raise SparseError(f'there are no {layer.kind} scores for {layer.name}')
    score = scores[layer.name].detach().double().cpu()
    if score.shape != (layer.count,):
        raise SparseError(f'{layer.name} has {layer.count} {layer.kind}s; its scores are {tuple(score.shape)}')
    if not bool(torch.isfinite(score).all()):
        raise SparseError(f'{layer.kind} scores of {layer.name} are not finite')
    return score


def _choose(
    scores: Mapping[str, Tensor], left: Mapping[str, Tensor], ratio: float, floor: int, normalize: bool
) -> dict[str, Tensor]:
    """The units of these layers that stay, sorted together: {layer: (count,) bool}."""
    candidates, least = [], 0
    for name, score in scores.items():
        present = score[left[name]]
        if normalize and len(present) and float(mean := present.mean()) > 0:
            present = present / mean
        own = largest(present, floor)
        least += int(own.sum())
        candidates.append(present.masked_fill(own, torch.inf))  # so that others leave in place of a layer's last ones
    everything = torch.cat(candidates)
    kept = largest(everything, max(least, kept_units(len(everything), ratio)))
    parts = kept.split([len(present) for present in candidates])
    return {name: torch.zeros_like(left[name]).masked_scatter(left[name], part) for name, part in zip(scores, parts)}


def _unit_masks(layer: UnitLayer, kept: Tensor, masks: Mapping[str, Tensor]) -> Masks:
    made, read = masks[layer.maker], masks[layer.reader]
    rows_, columns = (layer.places(kept.to(mask.device), mask.shape[dim]) for dim, mask in enumerate((made, read)))
    return {
        layer.maker: rows_[:, None].expand_as(made).clone(),
        layer.reader: columns[None].expand_as(read).clone(),
    }


def _choice(
    layer: UnitLayer, scores: Tensor, left: Tensor, kept: Tensor, old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> UnitChoice:
    order = sorted(kept.nonzero().flatten().tolist(), key=lambda unit: (-float(scores[unit]), unit))
    before, after = (1 - density({layer.maker: masks[layer.maker]}) for masks in (old, new))
    shape = tuple(old[layer.maker].shape)
    return UnitChoice(layer, shape, tuple(scores.tolist()), int(left.sum()), tuple(order), before, after)


def units_left(layers: Sequence[UnitLayer], masks: Mapping[str, Tensor], kind: str = 'head') -> float:
    """Percent of the dense model's heads (or neurons) that are not gone; 100.0 if it has none."""
    counts = [(int(layer.left(masks).sum()), layer.count) for layer in layers if layer.kind == kind]
    total = sum(count for _, count in counts)
    return 100 * sum(left for left, _ in counts) / total if total else 100.0


def fill_back(masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], fillback_rate: float) -> Masks:
    """The element-wise variant of refilling: a fraction of what is pruned in each layer comes back, the best first.

    What is counted is what comes back: with scores of the weights' shape int(rate * z) of the z masked weights; with
    scores of the (C,) output channels int(rate * z) of the z channels that have lost all of their weights, whole.

    Args:
        masks: Element-wise masks.
        scores: Finite, per layer; of what is masked. Weights that are masked while they train are all zero, so for
            magnitudes take those before the level's pruning.
        fillback_rate: In [0, 1]; 0 gives the same masks.

    Raises:
        SparseError: A rate that cannot be, or scores that do not fit.
    """
    if not 0 <= fillback_rate <= 1:
        raise SparseError(f'fillback_rate is {fillback_rate}; it is a fraction from 0 to 1')
    filled = {}
    for name, mask in masks.items():
        if name not in scores:
            raise SparseError(f'there are no scores for {name}')
        score = scores[name].detach().double().to(mask.device)
        if score.shape not in (mask.shape, mask.shape[:1]):
            raise SparseError(f'{name} is {tuple(mask.shape)}; its scores are {tuple(score.shape)}, of no unit of it')
        if not bool(torch.isfinite(score).all()):
            raise SparseError(f'scores of {name} are not finite')
        gone = ~mask if score.shape == mask.shape else ~rows(mask).any(1)
        back = largest(score[gone], int(fillback_rate * int(gone.sum()) + 1e-6))
        restored = torch.zeros_like(gone).masked_scatter(gone, back)
        filled[name] = mask | restored.reshape(-1, *[1] * (mask.dim() - 1)) if gone.dim() == 1 else mask | restored
    return filled
