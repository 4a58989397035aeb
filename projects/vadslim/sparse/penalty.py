"""What enters an optimizer's step in sparse training: weights that stay zero, and the growing penalty of RSST.

Both attach to the optimizer itself. Its hooks fire once per real step: after gradient accumulation, averaging over
processes, unscaling and clipping, and not at all in a step that a gradient scaler skips. ``attach`` comes after the
model has been moved to its device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from .masks import SparseError, check_masks


class HardMask:
    """Keeps weights that are pruned at zero: sets them to zero when attached and after each step.

    Args:
        weights: Prunable weights, the ones that the optimizer steps.
        masks: True where they train.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
        check_masks(weights, masks)
        names = [name for name, mask in masks.items() if not bool(mask.all())]
        self._weights: list[Tensor] = [weights[name] for name in names]
        self._kept = [_like(weights[name], masks[name]) for name in names]

    @torch.no_grad()
    def apply(self) -> None:
        """Set the pruned weights to zero now."""
        if self._weights:
            torch._foreach_mul_(self._weights, self._kept)

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Apply it now and after each step, until the handle is removed."""
        self.apply()
        return optimizer.register_step_post_hook(lambda *_: self.apply())


class Penalty:
    """Drives penalised weights to zero as ``factor``, lambda, grows; other weights train as without it.

    SGD: lambda * w is added to the gradient of the loss, the penalty being lambda / 2 * w^2. Optimizers that divide
    by the gradient's size (Adam and its kin) would undo that; there the weights themselves shrink before the step:
    w *= 1 - min(lr * lambda, 1), with the lr of their parameter group. As with torch's weight decay, a parameter
    without a gradient is left alone.

    Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021; Loshchilov and Hutter,
    Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.

    Args:
        weights: Prunable weights, the ones that the optimizer steps.
        penalised: True where they are to become zero, see ``rsst.cases``.
        block_loss_grad: Penalised weights do not see the gradient of the loss, only the penalty.

    Attributes:
        factor: Lambda of the next step, finite and 0 or more; set it as training goes on. 0 at first.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], penalised: Mapping[str, Tensor], block_loss_grad: bool = False
    ) -> None:
        check_masks(weights, penalised)
        if not isinstance(block_loss_grad, bool):  # the word 'False' is true
            raise SparseError(f'block_loss_grad is {block_loss_grad!r}; it is True or False')
        self.factor = 0.0
        self.block_loss_grad = block_loss_grad
        self._names = {id(weights[name]): name for name, mask in penalised.items() if bool(mask.any())}
        self._masks = {id(weights[name]): _like(weights[name], mask) for name, mask in penalised.items()}
        self._rests = {key: 1 - self._masks[key] for key in self._names} if block_loss_grad else {}

    def attach(self, optimizer: Optimizer, decoupled: bool | None = None) -> RemovableHandle:
        """Apply it before each step, until the handle is removed.

        Args:
            optimizer: Steps all penalised weights. It steps them without a closure, and not with ``fused=True`` under
                a gradient scaler.
            decoupled: Shrink the weights in place of adding to gradients. None does so for all but SGD.

        Raises:
            SparseError: The optimizer does not step a penalised weight.
        """
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
        if left := [name for key, name in self._names.items() if key not in stepped]:
            raise SparseError(f'the optimizer does not step {", ".join(left[:5])}: the penalty cannot reach it')
        shrinks = not isinstance(optimizer, SGD) if decoupled is None else decoupled

        def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if any(arg is not None for arg in (*args[1:], *kwargs.values())):
                raise SparseError('a penalty needs gradients before the step: call it without a closure')
            # Gradients are still scaled there, and the step may turn out to be none.
            if getattr(optimizer, 'found_inf', None) is not None:
                raise SparseError('a penalty does not go with fused=True under a gradient scaler: use foreach=True')
            self._apply(optimizer, shrinks)

        return optimizer.register_step_pre_hook(before_step)

    @torch.no_grad()
    def _apply(self, optimizer: Optimizer, shrinks: bool) -> None:
        if not 0 <= self.factor < math.inf:
            raise SparseError(f'lambda is {self.factor}; it is a finite number, 0 or more')
        if self.factor == 0 and not self.block_loss_grad:
            return
        for group in optimizer.param_groups:
            weights = [p for p in group['params'] if id(p) in self._names and p.grad is not None]
            if not weights:
                continue
            masks = [self._masks[id(weight)] for weight in weights]
            grads: list[Tensor] = [weight.grad for weight in weights if weight.grad is not None]
            if self.block_loss_grad:
                torch._foreach_mul_(grads, [self._rests[id(weight)] for weight in weights])
            if shrinks:
                torch._foreach_addcmul_(weights, masks, weights, value=-min(float(group['lr']) * self.factor, 1.0))
            else:
                sign = -1 if group.get('maximize') else 1
                torch._foreach_addcmul_(grads, masks, weights, value=sign * self.factor)


def _like(weight: Tensor, mask: Tensor) -> Tensor:
    """A mask of a weight's type, device and layout in memory, as fused updates want it."""
    return torch.empty_like(weight, requires_grad=False).copy_(mask)
