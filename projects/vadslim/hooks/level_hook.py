"""LevelHook: what a level of sparse training leaves behind: its history and its best weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoint_format import write_checkpoint
from ..cli import UserError
from ..registry import HOOKS
from .distill_hook import random_state_from
from .sparse_hook import unwrapped

KEY = 'level'
STAGE = 'sparse'  # what metadata says of files of levels


@HOOKS.register_module()
class LevelHook(Hook):
    """Keep numbers of each epoch and the weights of the best one; a kill at any time changes neither.

    Of epochs that are equally good the last counts. The weights are those that were evaluated: masked, averaged. They
    are written to ``best_epoch_N.pth`` in the work_dir, before the next checkpoint tells of them; older ones leave only
    when that is written. The validation that a kill prevented is made up for when the run is resumed.

    Order: HIGH, so that it sees weights and metrics of a validation before SparseHook and EMAHook put the trained
        weights back.

    Args:
        metric: of the validation, the larger the better.
        scalars: numbers of the whole level, such as ``remain_weight``, shown beside each validation's.
        rewind_epoch: the weights with which this epoch, counted from 0, starts are written to ``rewind.pth``.

    Attributes:
        history: of each epoch ``epoch`` (from 1), ``loss`` (mean), ``val``, ``lr`` and, where there is one,
            ``reg_lambda`` (the last of the epoch).
    """

    priority = 'HIGH'

    def __init__(
        self,
        metric: str = 'accuracy/top1',
        scalars: Mapping[str, float] | None = None,
        rewind_epoch: int | None = None,
    ) -> None:
        self.metric, self.scalars, self.rewind_epoch = metric, dict(scalars or {}), rewind_epoch
        self.history: list[dict[str, float]] = []

    @property
    def best(self) -> int:
        """The best epoch, from 1.

        Raises:
            UserError: no epoch has a number that could be compared.
        """
        rated = [row for row in self.history if math.isfinite(row['val'])]
        if not rated:
            raise UserError(f'{self.metric}: no epoch has a finite one')
        return int(max(reversed(rated), key=lambda row: row['val'])['epoch'])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the history along, if the run is resumed."""
        self.history = [dict(row) for row in checkpoint.get(KEY, [])] if runner._resume else []

    def before_train_epoch(self, runner: Runner) -> None:
        """Make up for a validation, forget what is no longer the best, and write the weights to rewind to."""
        self._complete(runner)
        if not is_main_process():
            return
        if self.history:
            for path in Path(runner.work_dir).glob('best_epoch_*.pth'):
                if path.name != f'best_epoch_{self.best}.pth':
                    path.unlink()
        if runner.epoch == self.rewind_epoch:
            self._save(runner, 'rewind.pth')

    def after_train(self, runner: Runner) -> None:
        """Make up for the last validation."""
        self._complete(runner)

    def _complete(self, runner: Runner) -> None:
        if runner.epoch and not any(row['epoch'] == runner.epoch for row in self.history):
            with random_state_from():  # an uninterrupted run draws nothing here
                runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note the numbers, and keep the weights if they are the best so far.

        Raises:
            UserError: the validation does not give the metric.
        """
        metrics = metrics or {}
        if self.metric not in metrics:
            raise UserError(f'LevelHook: metric {self.metric!r}: the validation gives {", ".join(metrics)}')
        hub, batches = runner.message_hub, len(runner.train_dataloader)
        row = {'epoch': runner.epoch, 'val': float(metrics[self.metric])}
        if 'train/loss' in hub.log_scalars:
            row['loss'] = float(hub.get_scalar('train/loss').mean(batches))
        for name in ('lr', 'reg_lambda'):
            if f'train/{name}' in hub.log_scalars:
                row[name] = float(hub.get_scalar(f'train/{name}').current())
        self.history.append(row)
        runner.visualizer.add_scalars(self.scalars, step=runner.epoch)
        if self.best == runner.epoch and is_main_process():
            self._save(runner, f'best_epoch_{runner.epoch}.pth')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the history."""
        checkpoint[KEY] = self.history

    def _save(self, runner: Runner, name: str) -> None:
        state = {key: value.cpu() for key, value in unwrapped(runner.model).state_dict().items()}
        meta: dict[str, Any] = {'epoch': runner.epoch, 'seed': runner.seed}
        best = max((row['val'] for row in self.history if math.isfinite(row['val'])), default=None)
        labels = {'config': runner.cfg.to_dict(), 'metric': best, 'metric_name': self.metric, 'stage': STAGE}
        write_checkpoint({'state_dict': state, 'meta': meta}, Path(runner.work_dir) / name, **labels)
