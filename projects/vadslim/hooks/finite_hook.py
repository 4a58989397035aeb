"""FiniteHook: a training that has diverged ends before its checkpoint takes the place of a good one."""

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..cli import UserError
from ..registry import HOOKS


@HOOKS.register_module()
class FiniteHook(Hook):
    """End the training when weights are no finite numbers: after an iteration whose loss is none, and after each epoch.

    A loss alone may be nan or inf: mixed precision leaves such a step out and goes on.

    Order: LOW, before CheckpointHook (VERY_LOW); after RuntimeInfoHook (VERY_HIGH) has fetched the loss.
    """

    priority = 'LOW'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check the loss.

        Raises:
            UserError: the training has diverged.
        """
        losses = runner.message_hub.log_scalars.get('train/loss')
        if losses is not None and not math.isfinite(loss := losses.current()):
            self._check(runner, runner.iter + 1, f'the loss is {loss}, ')

    def after_train_epoch(self, runner: Runner) -> None:
        """Check what is about to be written.

        Raises:
            UserError: the training has diverged.
        """
        self._check(runner, runner.iter)

    def _check(self, runner: Runner, iteration: int, what: str = '') -> None:
        name = not_finite(runner.model)
        if name is not None:
            raise UserError(
                f'epoch {runner.epoch + 1}, iteration {iteration}: {what}{name} is no longer finite: the '
                'training diverged; the checkpoint of the epoch before is kept: go on with a lower learning rate'
            )


def not_finite(model: nn.Module) -> str | None:
    """The first trained parameter with a value that is inf or nan, or buffer with one that is nan: masks hold inf."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            return name
    return next((name for name, buffer in model.named_buffers() if bool(torch.isnan(buffer).any())), None)
