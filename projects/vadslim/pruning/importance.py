"""Importance: a number per unit; the units with the smallest go first. Here: criteria that need no data.

Criteria that look at data are in ``gradients`` and ``activation``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..registry import IMPORTANCES
from .group import Group, Slice, tensors_of
from .places import makers, reading

Scores = dict[str, np.ndarray]


class Importance(Protocol):
    """Scores every unit of every Group that is not protected; pure, the model is only read.

    A criterion is built from its own options. Called with the model, its Groups and, for data-driven ones,
    batches, it returns {Group name: (num_units,) float64 scores, at least 0, larger is more important}.

    Batches are functions run(model), each of which does one forward on data of its own and returns the losses: a
    tensor, or a dict of tensors (or lists of them) by name. With several processes, each may give batches of its own
    if they have a method ``reduce``, see ``passes.reduced``; all processes must then score.

    Attributes:
        needs_batches: Without batches it raises a ``ScoringError``.
    """

    needs_batches: bool = False

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores: ...


def prunable(groups: Sequence[Group]) -> list[Group]:
    """Those of which units may go."""
    return [group for group in groups if not group.protected]


def per_unit(part: Slice, values: np.ndarray, num_units: int) -> np.ndarray:
    """Sum a number per position of a Slice's dim over each unit: (size of dim,) -> (num_units,)."""
    return np.bincount(part.index.units, weights=values[part.index.flat], minlength=num_units)


def weight_slices(group: Group, tensors: dict[str, torch.Tensor]) -> list[Slice]:
    """The Slices that tell a unit's size: those of weight matrices and kernels, else of any parameter."""
    parameters = [part for part in group.slices if isinstance(tensors[part.tensor], nn.Parameter)]
    return [part for part in parameters if tensors[part.tensor].dim() > 1] or parameters


def sum_except(values: torch.Tensor, dim: int) -> np.ndarray:
    """The sums over all dims but one: (size of dim,) float64."""
    others = [other for other in range(values.dim()) if other != dim]
    return (values.sum(others) if others else values).double().cpu().numpy()


class _Norm(Importance):
    """The p-norm of all weights that leave with a unit: the rows that make it, the columns that read it."""

    power: int

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        tensors = tensors_of(model)
        sums: dict[tuple[str, int], np.ndarray] = {}
        scores = {}
        for group in prunable(groups):
            total = np.zeros(group.num_units)
            for part in weight_slices(group, tensors):
                key = part.tensor, part.dim
                if key not in sums:
                    sums[key] = self._sums(tensors[part.tensor], part.dim)
                total += per_unit(part, sums[key], group.num_units)
            scores[group.name] = total ** (1 / self.power)
        return scores

    def _sums(self, tensor: torch.Tensor, dim: int) -> np.ndarray:
        size = tensor.detach()
        return sum_except(size.abs() if self.power == 1 else size * size, dim)


@IMPORTANCES.register_module()
class L1(_Norm):
    """Sum of the magnitudes of the weights that leave with a unit."""

    power = 1


@IMPORTANCES.register_module()
class L2(_Norm):
    """Euclidean norm of the weights that leave with a unit."""

    power = 2


@IMPORTANCES.register_module()
class BNScale(Importance):
    """Mean magnitude of a unit's batch-norm scales, |gamma|; L2 for Groups without batch norm.

    Network slimming (Liu et al., ICCV 2017, sec. 3): there a channel has one scale, and |gamma| is its score. Here a
    unit of coupled layers has several.
    """

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        tensors = tensors_of(model)
        norms = {
            f'{name}.weight' if name else 'weight'
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
        }
        scores = {}
        without = []
        for group in prunable(groups):
            parts = [part for part in group.slices if part.tensor in norms]
            if not parts:
                without.append(group)
                continue
            total, count = np.zeros(group.num_units), np.zeros(group.num_units)
            for part in parts:
                scale = tensors[part.tensor].detach().abs().double().cpu().numpy()
                total += per_unit(part, scale, group.num_units)
                count += per_unit(part, np.ones_like(scale), group.num_units)
            scores[group.name] = total / np.maximum(count, 1)
        return {**scores, **L2()(model, without)}


@IMPORTANCES.register_module()
class LAMP(Importance):
    """Layer-adaptive magnitude (Lee et al., ICLR 2021, eq. 2), for units in place of weights.

    With s_u the sum of the squares of all weights that leave with unit u (the square of ``L2``),

        score(u) = s_u / (sum of s_v over the units v of the Group with s_v >= s_u),

    which is the part of what would be left that u would be, if all smaller units were gone. The largest unit of every
    Group scores 1 (k units of equal size share it). Within a Group the order is that of ``L2``; the scores are made to
    be compared between Groups as they are.
    """

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        return {name: lamp(scores**2) for name, scores in L2()(model, groups).items()}


def lamp(squares: np.ndarray) -> np.ndarray:
    """Each square by the sum of those that are not smaller; 0 where that is 0."""
    order = np.argsort(squares, kind='stable')
    ordered = squares[order]
    rest = np.cumsum(ordered[::-1])[::-1]  # of it and all after it
    rest = rest[np.searchsorted(ordered, ordered)]  # equal ones start at the first of them
    scores = np.empty_like(squares)
    scores[order] = np.divide(ordered, rest, out=np.zeros_like(ordered), where=rest > 0)
    return scores


@IMPORTANCES.register_module()
class FPGM(Importance):
    """Distance of a unit from the others (He et al., CVPR 2019, eq. 5): who is near the geometric median goes.

        score(u) = sum over the units v of the Group of |w_u - w_v|

    w_u are the weights that make the unit (rows of matrices, kernels; of all layers that are coupled), in one vector;
    where no layer makes it, all weights that leave with it. Of a unit with fewer weights than others the vector
    is filled up with zeros.
    """

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        tensors, reads = tensors_of(model), reading(model)
        scores = {}
        for group in prunable(groups):
            parts = weight_slices(group, tensors)
            vectors = [unit_vectors(part, tensors[part.tensor]) for part in makers(parts, reads) or parts]
            if not vectors:
                scores[group.name] = np.zeros(group.num_units)
                continue
            joined = torch.cat(vectors, 1)
            joined -= joined.mean(0)  # distances stay, and lose less to rounding
            scores[group.name] = torch.cdist(joined, joined).sum(1).double().cpu().numpy()
        return scores


def unit_vectors(part: Slice, tensor: torch.Tensor) -> torch.Tensor:
    """The weights of each unit at a Slice's positions as the rows of a matrix, shorter ones followed by zeros."""
    rows = tensor.detach().movedim(part.dim, 0).flatten(1) if tensor.dim() > 1 else tensor.detach()[:, None]
    counts = np.diff(part.index.starts)
    columns = np.arange(part.index.flat.size) - part.index.starts[part.index.units]
    units, columns, positions = (
        torch.as_tensor(x, device=rows.device) for x in (part.index.units, columns, part.index.flat)
    )
    result = rows.new_zeros(len(counts), int(counts.max(initial=0)), rows.shape[1], dtype=torch.float32)
    result[units, columns] = rows[positions].float()
    return result.flatten(1)


@IMPORTANCES.register_module()
class Random(Importance):
    """Random scores that depend on the seed and the Group's name only, not on the other Groups."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        return {
            group.name: np.random.default_rng([self.seed, zlib.crc32(group.name.encode())]).random(group.num_units)
            for group in prunable(groups)
        }
