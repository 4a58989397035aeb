"""Importance from the gradients of the losses: what the loss would lose with a unit.

The weights that count are those of ``places.gate``: there a unit's whole effect passes once. With g the gradient and H
the Hessian of a batch's loss, w a weight and m how far it moves when its unit goes (w, as it becomes 0),

    Taylor   sqrt(mean over batches of (sum of m g)^2)           Molchanov et al., CVPR 2019, eq. 8
    Fisher   1/2 sum of m^2 (mean over batches of g^2)           the Fisher information in the place of H
    Hessian  1/2 |sum of m^2 (mean over batches of H_ii)|        LeCun et al., NIPS 1989, eq. 6

where the sums run over the weights of a unit. The sum of m g over the weights that read a unit is exactly the
derivative of the loss by a factor on what is read. The logits of a softmax that forgets the unit go to -inf; there m is
1, and g the derivative by the logarithm of a factor on the unit's exponential.

Networks are scored in evaluation mode, on a copy: no dropout, batch norms use and keep the statistics that they have.
Frozen weights are scored like the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..registry import IMPORTANCES
from .group import Group, Slice, tensors_of
from .importance import L2, Importance, Scores, per_unit, prunable, sum_except
from .passes import Batch, ScoringError, evaluated_copy, numbered, random_state_kept, reduced
from .places import gate, reading
from .pruner import PatternError

TINY = 1e-30  # units whose scores are 0 are ordered by L2, below all others


def chosen_loss(losses: Any, patterns: Sequence[str] | None = None) -> Tensor:
    """One number from what a batch returns.

    Args:
        losses: A tensor, of which the mean is taken, or a dict of tensors and lists of tensors by name.
        patterns: fnmatch patterns over the names; None chooses all with 'loss' in them, as MMEngine does.

    Returns:
        The sum of the means.

    Raises:
        PatternError: A pattern matches no loss.
        ScoringError: There are no losses.
    """
    if isinstance(losses, Tensor):
        if patterns is not None:
            raise PatternError(f'importance: {patterns[0]!r} names a loss, but the batches return a tensor without one')
        return losses.mean()
    if not isinstance(losses, Mapping):
        raise TypeError(f'a batch returned {type(losses).__name__}; a tensor or a dict of losses is needed')
    names = [name for name in losses if 'loss' in name]
    if patterns is not None:
        names = []
        for pattern in patterns:
            hits = [name for name in losses if fnmatchcase(name, pattern)]
            if not hits:
                near = difflib.get_close_matches(pattern, list(losses), 1, 0.0)
                raise PatternError(
                    f'importance: {pattern!r} matches no loss; the nearest is {near[0] if near else "-"}'
                )
            names += [name for name in hits if name not in names]
    parts = [losses[name] if isinstance(losses[name], list | tuple) else [losses[name]] for name in names]
    if not parts:
        raise ScoringError(f'importance: a batch returned no losses, but {", ".join(losses) or "an empty dict"}')
    return torch.stack([tensor.mean() for part in parts for tensor in part]).sum()


class _Gradients(Importance):
    """Sums what gradients say of weights over each unit's gate.

    Args:
        losses: fnmatch patterns over the names of the losses that count; None is all.
    """

    needs_batches = True
    power: int  # of m

    def __init__(self, losses: Sequence[str] | str | None = None) -> None:
        self.losses = [losses] if isinstance(losses, str) else losses

    def __call__(self, model: nn.Module, groups: Sequence[Group], batches: Iterable[Any] | None = None) -> Scores:
        groups = prunable(groups)
        tensors, reads = tensors_of(model), reading(model)
        gates = {group.name: gate(group, tensors, reads) for group in groups}
        needed = {part.tensor for parts in gates.values() for part in parts}
        sums = {group.name: np.zeros(group.num_units) for group in groups}
        count = np.zeros(1)
        twin = evaluated_copy(model, needed)
        weights = {name: p for name, p in twin.named_parameters() if name in needed}
        with random_state_kept():
            for number, batch in numbered(batches, self):
                values = self.values(twin, weights, batch, number)
                for name, total in self._unit_sums(groups, gates, weights, values).items():
                    sums[name] += self._of_batch(total)
                count += 1
        assert batches is not None  # else numbered has raised
        *totals, count = reduced(batches, [*sums.values(), count])
        if not count:
            raise ScoringError(f'importance {type(self).__name__}: there are no batches')
        sizes = L2()(model, groups)
        return {name: self._score(total / count) + TINY * sizes[name] for name, total in zip(sums, totals)}

    def _unit_sums(
        self,
        groups: Sequence[Group],
        gates: Mapping[str, Sequence[Slice]],
        weights: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
    ) -> Scores:
        """The sums of m^power times the values, (num_units,) per Group."""
        done: dict[tuple[str, int, float], np.ndarray] = {}
        result = {}
        for group in groups:
            total = np.zeros(group.num_units)
            for part in gates[group.name]:
                key = part.tensor, part.dim, part.mask_value
                if part.tensor in values and key not in done:
                    done[key] = sum_except(self._moved(part, weights, values), part.dim)
                if key in done:
                    total += per_unit(part, done[key], group.num_units)
            result[group.name] = total
        return result

    def _moved(self, part: Slice, weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
        value = values[part.tensor].double()
        if not np.isfinite(part.mask_value):
            return value
        return (weights[part.tensor].detach().double() - part.mask_value) ** self.power * value

    def gradients(self, twin: nn.Module, weights: Mapping[str, Tensor], batch: Batch, number: int) -> dict[str, Tensor]:
        """Gradients of one batch's loss; of weights that do not matter to it there are none."""
        for weight in weights.values():
            weight.grad = None
        with random_state_kept(number), torch.enable_grad():
            loss = chosen_loss(batch(twin), self.losses)
            if not torch.isfinite(loss):
                raise ScoringError(f'importance {type(self).__name__}: the loss of batch {number} is {loss.item()}')
            if loss.requires_grad:
                loss.backward()
        return {name: weight.grad for name, weight in weights.items() if weight.grad is not None}

    def values(self, twin: nn.Module, weights: Mapping[str, Tensor], batch: Batch, number: int) -> dict[str, Tensor]:
        """What a batch says of every weight."""
        raise NotImplementedError

    def _of_batch(self, total: np.ndarray) -> np.ndarray:
        """What is averaged over the batches."""
        return total

    def _score(self, mean: np.ndarray) -> np.ndarray:
        return mean


@IMPORTANCES.register_module()
class Taylor(_Gradients):
    """First-order estimate of how much the loss changes without a unit (Molchanov et al., CVPR 2019, eq. 8).

    The root of the mean over batches of (sum of m g)^2: in the unit of the loss, in the order of the paper. With one
    batch and a loss that is linear in what the readers give out, it is exactly the change of the loss. The smaller
    the batches, the less what a unit does for one sample is cancelled by what it does to another.
    """

    power = 1

    def values(self, twin: nn.Module, weights: Mapping[str, Tensor], batch: Batch, number: int) -> dict[str, Tensor]:
        return self.gradients(twin, weights, batch, number)

    def _of_batch(self, total: np.ndarray) -> np.ndarray:
        return total**2

    def _score(self, mean: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(mean))


@IMPORTANCES.register_module()
class PlanningTaylor(Taylor):
    """Taylor on the losses of the plan alone, for networks whose purpose is the plan.

    What does nothing for the plan goes first, the largest weights last.
    """

    def __init__(self, losses: Sequence[str] | str = ('loss_plan*',)) -> None:
        super().__init__(losses)


@IMPORTANCES.register_module()
class Fisher(_Gradients):
    """1/2 sum of m^2 g^2: the loss that a unit is worth by the diagonal of the empirical Fisher information.

    (Theis et al., arXiv:1801.05787, 2018, for single weights.) It is that with batches of one sample; with larger ones
    the gradients of the samples are averaged before they are squared.
    """

    power = 2

    def values(self, twin: nn.Module, weights: Mapping[str, Tensor], batch: Batch, number: int) -> dict[str, Tensor]:
        return {name: grad**2 for name, grad in self.gradients(twin, weights, batch, number).items()}

    def _score(self, mean: np.ndarray) -> np.ndarray:
        return mean / 2


@IMPORTANCES.register_module()
class Hessian(_Gradients):
    """1/2 |sum of m^2 H_ii|: the loss that a unit is worth at a minimum (optimal brain damage).

    The diagonal is Hutchinson's estimate z * Hz, its mean over random signs z. Hz is the difference of two gradients,
    (g(w + s z) - g(w - s z)) / 2s, as operators such as grid sampling cannot be differentiated twice. It is
    exact where the loss is quadratic. Each probe takes two passes.

    Args:
        losses: fnmatch patterns over the names of the losses that count; None is all.
        probes: Sign vectors per batch.
        step: s, as a fraction of the root mean square of the tensor's weights.
        seed: Of the signs.
    """

    power = 2

    def __init__(
        self, losses: Sequence[str] | str | None = None, probes: int = 2, step: float = 1e-3, seed: int = 0
    ) -> None:
        super().__init__(losses)
        if not isinstance(probes, int) or probes < 1:
            raise ValueError(f'probes is {probes!r}, a positive integer is needed')
        if not step > 0:
            raise ValueError(f'step is {step!r}, a positive number is needed')
        self.probes, self.step, self.seed = probes, step, seed

    def values(self, twin: nn.Module, weights: Mapping[str, Tensor], batch: Batch, number: int) -> dict[str, Tensor]:
        diagonal = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        # of weights that are all zero only those of logits matter, and theirs is the scale of a logit
        steps = {name: self.step * (float(weight.square().mean().sqrt()) or 1.0) for name, weight in before.items()}
        generator = torch.Generator()
        for probe in range(self.probes):
            generator.manual_seed(int(np.random.SeedSequence([self.seed, number, probe]).generate_state(1)[0]))
            signs = {name: self.signs(name, weight, generator) for name, weight in before.items()}
            for side in (1, -1):
                with torch.no_grad():
                    for name, weight in weights.items():
                        weight.copy_(before[name] + side * steps[name] * signs[name])
                for name, grad in self.gradients(twin, weights, batch, number).items():
                    diagonal[name] += side * signs[name] * grad / (2 * steps[name] * self.probes)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
        return diagonal

    def signs(self, name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
        """Which way a probe moves each weight of a tensor: 1 or -1; where it is 0, the weight stays and scores 0."""
        return torch.randint(2, weight.shape, generator=generator).to(weight) * 2 - 1

    def _score(self, mean: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(mean) / 2)
