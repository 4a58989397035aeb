"""Importance: a number per unit; the units with the smallest go first."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..registry import IMPORTANCES
from .group import Group, Slice, tensors_of

Scores = dict[str, np.ndarray]


class Importance(Protocol):
    """Scores every unit of every Group; pure, the model is only read.

    A criterion is built from its own options. Called with the model, its Groups and, for data-driven ones,
    batches, it returns {Group name: (num_units,) float64 scores, larger is more important}.
    """

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores: ...


def per_unit(part: Slice, values: np.ndarray, num_units: int) -> np.ndarray:
    """Sum a number per position of a Slice's dim over each unit: (size of dim,) -> (num_units,)."""
    return np.bincount(part.index.units, weights=values[part.index.flat], minlength=num_units)


def weight_slices(group: Group, tensors: dict[str, torch.Tensor]) -> list[Slice]:
    """The Slices that tell a unit's size: those of weight matrices and kernels, else of any parameter."""
    parameters = [part for part in group.slices if isinstance(tensors[part.tensor], nn.Parameter)]
    return [part for part in parameters if tensors[part.tensor].dim() > 1] or parameters


class _Norm:
    """The p-norm of all weights that leave with a unit: the rows that make it, the columns that read it."""

    power: int

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        tensors = tensors_of(model)
        sums: dict[tuple[str, int], np.ndarray] = {}
        scores = {}
        for group in groups:
            total = np.zeros(group.num_units)
            for part in weight_slices(group, tensors):
                key = part.tensor, part.dim
                if key not in sums:
                    sums[key] = self._sums(tensors[part.tensor], part.dim)
                total += per_unit(part, sums[key], group.num_units)
            scores[group.name] = total ** (1 / self.power)
        return scores

    def _sums(self, tensor: torch.Tensor, dim: int) -> np.ndarray:
        powers = tensor.detach().abs().to(torch.float32) ** self.power
        others = [other for other in range(tensor.dim()) if other != dim]
        total = powers.sum(others) if others else powers
        return total.double().cpu().numpy()


@IMPORTANCES.register_module()
class L1(_Norm):
    """Sum of the magnitudes of the weights that leave with a unit."""

    power = 1


@IMPORTANCES.register_module()
class L2(_Norm):
    """Euclidean norm of the weights that leave with a unit."""

    power = 2


@IMPORTANCES.register_module()
class BNScale:
    """Mean magnitude of a unit's batch-norm scales (network slimming); L2 for Groups without batch norm."""

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        tensors = tensors_of(model)
        norms = {
            f'{name}.weight' if name else 'weight'
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
        }
        scores = {}
        without = []
        for group in groups:
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
class Random:
    """Random scores that depend on the seed and the Group's name only, not on the other Groups."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        return {
            group.name: np.random.default_rng([self.seed, zlib.crc32(group.name.encode())]).random(group.num_units)
            for group in groups
        }
