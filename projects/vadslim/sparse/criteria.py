"""How much each output channel of a layer is worth to the trained and masked network.

With M the mask, w the trained weights, a_c what a layer's channel c gives for the batches (before norm and
nonlinearity), and L a batch's loss, the score of channel c is

    remain      sum of M                            weights that are left
    magnitude   sum of |M w|
    l1          sum of |a_c|                        over samples and positions
    l2          sum of a_c^2
    saliency    sum of |a_c dL/da_c|                Molchanov et al., ICLR 2017, eq. 8, |.| of each term
    hessian     sum of w^2 h / 2, h the mean over batches of the diagonal of the Hessian of L; may be negative

Only scores of one layer are comparable. What the data give equal scores, such as 0 to all channels of a layer that the
loss does not depend on, is ordered by magnitude. Sources besides: Hu et al., Network Trimming, 2016 (outputs); LeCun et
al., Optimal Brain Damage, NIPS 1989.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..pruning.activation import plain_attention
from ..pruning.gradients import TINY, Hessian, Taylor
from ..pruning.passes import Batch, ScoringError, evaluated_copy, numbered, random_state_kept, reduced
from .masks import SparseError, Weights, check_masks, masked, row_sums, rows

CRITERIA = ('remain', 'magnitude', 'l1', 'l2', 'saliency', 'hessian')
#: They need no data.
OF_WEIGHTS = ('remain', 'magnitude')


def channel_scores(
    model: nn.Module,
    weights: Weights,
    masks: Mapping[str, Tensor],
    criterion: str = 'magnitude',
    batches: Iterable[Batch] | None = None,
    seed: int = 0,
    probes: int = 16,
) -> dict[str, Tensor]:
    """Score the output channels of each layer by the layer itself: its weights or its own outputs.

    The network runs as a copy in evaluation mode with the masked weights; ``model`` and the random state are as before.
    A weight that several layers share, or a layer that is called more than once, gets the sums over all calls.

    Args:
        model: Has the layers, and everything else that is trained.
        weights: Prunable weights, **trained**: parameters of the model, or others of the same names and shapes.
        masks: What is left of them.
        criterion: One of ``CRITERIA``.
        batches: As for the importances of ``pruning``: functions run(model) that do one forward and return the losses
            (a tensor, or a dict of them), such as ``slimming.batches.loss_batches`` makes of a config. Of several
            processes each has its share, if there is ``batches.reduce``.
        seed: Of the Hessian's probes.
        probes: Of the Hessian, per batch; each takes two passes. The estimate is noisy: with 16 on two batches, the
            scores of a trained ResNet-20 by two seeds had a mean rank correlation of 0.28 within a layer (4: 0.12).

    Returns:
        {parameter name: (C,) float64 on the CPU}, finite.

    Raises:
        SparseError: An unknown criterion, no batches where they are needed, masks that do not fit, a layer that the
            batches never call, or numbers that are not finite.
    """
    check_criterion(criterion, batches)
    check_masks(weights, masks)
    if criterion == 'remain':
        return {name: rows(mask).sum(1, dtype=torch.float64).cpu() for name, mask in masks.items()}
    scores = {name: sums.cpu() for name, sums in row_sums(weights, masks).items()}
    if criterion == 'hessian':
        worth = weight_scores(model, weights, masks, criterion, batches, seed, probes)
        scores = {name: rows(worth[name]).sum(1) + TINY * size for name, size in scores.items()}
        for name, score in scores.items():  # which may be negative: the 0 of a channel that is gone is no merit
            score[~rows(masks[name]).any(1).cpu()] = score.min() - 1
    elif criterion != 'magnitude':
        sums = output_sums(model, weights, masks, criterion, batches)
        scores = {name: sums[name][0] + TINY * size for name, size in scores.items()}
    return finite(scores, criterion)


def check_criterion(criterion: str, batches: object) -> None:
    """Raise a SparseError if the criterion is not known, or looks at data and there are none."""
    if criterion not in CRITERIA:
        raise SparseError(f'criterion {criterion!r} is not known; there are {", ".join(CRITERIA)}')
    if batches is None and criterion not in OF_WEIGHTS:
        raise SparseError(f'criterion {criterion!r} looks at data: give batches, functions run(model) of the loss')


def finite(scores: dict[str, Tensor], criterion: str) -> dict[str, Tensor]:
    """The scores, unless one is NaN or infinite."""
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise SparseError(f'{criterion} scores of {name} are not finite: the training has diverged')
    return scores


def weight_scores(
    model: nn.Module,
    weights: Weights,
    masks: Mapping[str, Tensor],
    criterion: str,
    batches: Iterable[Batch] | None,
    seed: int = 0,
    probes: int = 16,
) -> dict[str, Tensor]:
    """What single weights are worth: the mean over batches of |w g| (``saliency``) or w^2 h / 2 (``hessian``).

    Args: as for ``channel_scores``; g is the gradient of a batch's loss, h the diagonal of its Hessian by Hutchinson's
    estimate, in which only weights that are left are moved.

    Returns:
        {parameter name: float64 of the weight's shape, on the CPU}; 0 where a weight is masked.
    """
    twin, parameters = _masked_copy(model, weights, masks)
    estimator = _Hessian(masks, probes, seed) if criterion == 'hessian' else Taylor()
    totals = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in parameters.items()}
    count = np.zeros(1)
    with random_state_kept(), _one_line(criterion):
        for number, batch in numbered(batches, estimator):
            for name, value in estimator.values(twin, parameters, batch, number).items():
                weight = parameters[name].detach().double()
                totals[name] += weight**2 * value / 2 if criterion == 'hessian' else (weight * value).abs()
            count += 1
    assert batches is not None  # else numbered has raised
    *sums, count = reduced(batches, [*(total.cpu().numpy() for total in totals.values()), count])
    _check_count(count, criterion)
    return {name: torch.from_numpy(total / count) for name, total in zip(totals, sums)}


class _Hessian(Hessian):
    """Moves only what is left: what is masked counts nothing, and would add noise."""

    def __init__(self, masks: Mapping[str, Tensor], probes: int, seed: int) -> None:
        super().__init__(probes=probes, seed=seed)
        self.masks = masks

    def signs(self, name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
        return super().signs(name, weight, generator) * self.masks[name].to(weight.device)


def output_sums(
    model: nn.Module,
    weights: Weights,
    masks: Mapping[str, Tensor],
    criterion: str,
    batches: Iterable[Batch] | None,
    names: Collection[str] | None = None,
) -> dict[str, tuple[Tensor, float]]:
    """Sums over what the layers of some weights give: of |a|, a^2 or |a dL/da|.

    Args: as for ``channel_scores``; ``names`` are those of the weights, None is all of them.

    Returns:
        {parameter name: ((C,) float64 sums, how many positions they run over)}.
    """
    twin, parameters = _masked_copy(model, weights, masks)
    meters = {
        name: _Meter(name, weight, criterion) for name, weight in parameters.items() if names is None or name in names
    }
    by_weight = {id(parameters[name]): meter for name, meter in meters.items()}
    gradients = Taylor()
    count = np.zeros(1)
    with random_state_kept(), _one_line(criterion), plain_attention(twin), ExitStack() as hooks:
        for module in twin.modules():
            if meter := by_weight.get(id(module._parameters.get('weight'))):
                hooks.callback(module.register_forward_hook(meter.see).remove)
        for number, batch in numbered(batches, gradients):
            if criterion == 'saliency':
                gradients.gradients(twin, parameters, batch, number)
            else:
                with torch.no_grad(), random_state_kept(number):
                    batch(twin)
            count += 1
    assert batches is not None  # else numbered has raised
    flat = [part for meter in meters.values() for part in (meter.total.numpy(), meter.counts)]
    *sums, count = reduced(batches, [*flat, count])
    _check_count(count, criterion)
    result = {}
    for name, total, (positions, calls) in zip(meters, sums[::2], sums[1::2]):
        if not calls:
            raise SparseError(f'criterion {criterion!r}: the layer of {name} is never called, it has no outputs')
        result[name] = torch.from_numpy(total), float(positions)
    return result


class _Meter:
    """Sums over what the layer of one weight gives, per channel."""

    def __init__(self, name: str, weight: Tensor, criterion: str) -> None:
        self.name, self.criterion = name, criterion
        self.axis = 1 - weight.dim() if weight.dim() > 2 else -1  # of a convolution (..., C, H, W), else (..., C)
        self.total = torch.zeros(len(weight), dtype=torch.float64)
        self.counts = np.zeros(2)  # positions, calls

    def see(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook."""
        if not isinstance(output, Tensor) or output.dim() < -self.axis or output.shape[self.axis] != len(self.total):
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise SparseError(f'{self.name}: its layer gives {given}, no tensor of {len(self.total)} channels')
        self.counts += output.numel() // max(len(self.total), 1), 1
        if self.criterion != 'saliency':
            self.add(output.detach())
        elif output.requires_grad:
            values = output.detach().clone()  # what follows may work in place
            output.register_hook(lambda grad: self.add(values * grad))

    def add(self, values: Tensor) -> None:
        """Adds up magnitudes, or squares."""
        channels = values.movedim(self.axis, 0).flatten(1)
        channels = channels.to(torch.promote_types(channels.dtype, torch.float32))  # squares of half overflow
        sizes = channels.square() if self.criterion == 'l2' else channels.abs()
        self.total += sizes.sum(1, dtype=torch.float64).cpu()


def _masked_copy(
    model: nn.Module, weights: Weights, masks: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A copy to run, with the masked weights, and those parameters of it; they alone get gradients."""
    left = masked(weights, masks)
    twin = evaluated_copy(model, left)
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, weight in left.items():
            if name not in parameters or parameters[name].shape != weight.shape:
                raise SparseError(f'the model has no parameter {name} of {tuple(weight.shape)}')
            parameters[name].copy_(weight)
    return twin, {name: parameters[name] for name in left}


@contextmanager
def _one_line(criterion: str) -> Iterator[None]:
    try:
        yield
    except ScoringError as error:
        raise SparseError(f'criterion {criterion!r}: {error}') from error


def _check_count(count: np.ndarray, criterion: str) -> None:
    if not count:
        raise SparseError(f'criterion {criterion!r}: there are no batches')
