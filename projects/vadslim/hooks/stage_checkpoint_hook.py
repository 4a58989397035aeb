"""StageCheckpointHook: the checkpoints of one stage of a staged run, under the names that the next stage asks for."""

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.runner import IterBasedTrainLoop, Runner

from ..checkpoint import load_checkpoint
from ..cli import UserError
from ..files import atomic_write, remove_leftovers
from ..registry import HOOKS
from .checkpoint_hook import LATEST, CheckpointHook

BEST, EPOCH = 'checkpoint_best.pth', 'checkpoint_epoch{}.pth'
# in the message hub: the last epoch whose validation is in the checkpoint, and what it said
# (names that begin with val are logged)
VALIDATED, METRICS = 'epoch_validated', 'last_metrics'


@HOOKS.register_module()
class StageCheckpointHook(CheckpointHook):
    """Write ``checkpoint_latest.pth`` each epoch, ``checkpoint_epochN.pth`` and ``checkpoint_best.pth``.

    Each is a whole checkpoint, from which a run can be resumed; those of one moment are one file under several names
    (hard links). An epoch's checkpoint is written before its validation, so that a kill in it loses no training, and
    again after it. The best one is written before the latest tells of it. So a kill at any time leaves a latest
    checkpoint that is whole, and what it prevented (a validation, a name, the removal of old files) is made up for
    when the run is resumed: the best metric and the files that are kept do not depend on kills.

    Order: VERY_LOW as MMEngine's.

    Args:
        stage: its name; ``metadata.stage`` of the checkpoints.
        interval: epochs between the checkpoints that are kept by number; 0 for none.
        keep_last_n: how many of these are kept, by number, whoever wrote them; 0 for all.
        save_best: the metric of the validation that says which epoch is the best, or 'auto' for its first one; None
            for no best checkpoint.
        rule: 'greater' or 'less'; by default MMEngine tells it from the metric's name. Of equal ones the first counts.
        config: plain data, stored in place of the Runner's config: what the user has configured the whole run with.
        options: of MMEngine's hook, but those of its file names.
    """

    def __init__(
        self,
        stage: str,
        interval: int = 5,
        keep_last_n: int = 3,
        save_best: str | None = None,
        rule: str | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        for name, value in (('interval', interval), ('keep_last_n', keep_last_n)):
            if type(value) is not int or value < 0:
                raise UserError(f'StageCheckpointHook: {name} = {value!r}: a whole number of at least 0 is needed')
        if not (save_best is None or isinstance(save_best, str)):
            raise UserError(f'StageCheckpointHook: save_best = {save_best!r}: the name of one metric is needed')
        fixed = {'by_epoch', 'filename_tmpl', 'max_keep_ckpts', 'save_last'} & set(options)
        if fixed:
            raise UserError(f'StageCheckpointHook: {min(fixed)} cannot be chosen')
        super().__init__(interval=interval, save_best=save_best, rule=rule, filename_tmpl=EPOCH, **options)
        self.stage, self.keep_last_n = stage, keep_last_n
        self.config = config
        self._own = False

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return Path(self.out_dir)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note whether the checkpoint is one of this stage."""
        super().after_load_checkpoint(runner, checkpoint)
        metadata = checkpoint.get('metadata')
        self._own = isinstance(metadata, Mapping) and metadata.get('stage') == self.stage
        if self._own and not self._old and self.save_best == ['auto'] and isinstance(metadata.get('metric'), str):
            self._init_rule(self.rules, [metadata['metric']])  # an old layout's is the training's loss

    def before_train(self, runner: Runner) -> None:
        """Make up for what a kill prevented, if a run of this stage is resumed.

        Raises:
            UserError: the training is counted in iterations.
        """
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise UserError('StageCheckpointHook: train_cfg counts iterations; a stage is counted in epochs')
        super().before_train(runner)
        epoch, hub = runner.epoch, runner.message_hub
        if is_main_process():
            for path in (self.folder / LATEST, self.folder / BEST, Path(runner.work_dir) / 'last_checkpoint'):
                remove_leftovers(path)
        if not (self._own and epoch):
            return
        if self.save_best and not (self.folder / BEST).is_file():
            self._take_for_best(runner)
        if self.save_best and 'best_score' not in hub.runtime_info:
            best = self._read_best(epoch)
            if best is not None:
                hub.update_info('best_score', best)
        if is_main_process() and Path(runner._load_from or '').resolve() == (self.folder / LATEST).resolve():
            self._publish(runner, LATEST, epoch)
        if _is_due(runner, epoch) and hub.runtime_info.get(VALIDATED) != epoch:
            runner.val_loop.run()

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the checkpoint of the epoch."""
        self._write(runner, runner.epoch + 1, LATEST)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not hasattr(self, 'file_backend'):  # a validation without training
            return
        runner.message_hub.update_info(VALIDATED, runner.epoch)
        better = bool(self.save_best) and self._is_better(runner, metrics)
        self._write(runner, runner.epoch, BEST if better else LATEST)

    def _is_better(self, runner: Runner, metrics: dict[str, Any]) -> bool:
        """Whether these are the best so far, which is noted."""
        if self.key_indicators == ['auto']:
            self._init_rule(self.rules, [next(iter(metrics))])
        name = self.key_indicators[0]
        if metrics.get(name) is None:
            raise UserError(f'StageCheckpointHook: save_best {name!r}: the validation gives {", ".join(metrics)}')
        value, hub = float(metrics[name]), runner.message_hub
        best = hub.runtime_info.get('best_score', self.init_value_map[self.rules[0]])
        if not math.isfinite(value):
            runner.logger.warning(f'{name} is {value} after epoch {runner.epoch}: never the best')
            return False
        if not self.is_better_than[name](value, best):
            return False
        hub.update_info('best_score', value)
        runner.logger.info(f'The best so far: {name} {value:.4g} after epoch {runner.epoch}, {BEST}')
        return True

    def _write(self, runner: Runner, epoch: int, name: str) -> None:
        """Write the checkpoint under ``name`` and let the other names follow."""
        self.last_ckpt = str(self.folder / LATEST)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta={'epoch': epoch, 'iter': runner.iter},
            backend_args=self.backend_args,
        )
        if is_main_process():
            self._publish(runner, name, epoch)

    def _publish(self, runner: Runner, name: str, epoch: int) -> None:
        """Give the file its other names, and remove outdated ones."""
        same_file(self.folder / name, self.folder / LATEST)
        line = Path(runner.work_dir) / 'last_checkpoint'
        if not line.is_file() or line.read_text(encoding='utf-8') != str(self.folder / LATEST):
            with atomic_write(line) as file:
                file.write(str(self.folder / LATEST))
        if not self.interval or epoch % self.interval:
            return
        same_file(self.folder / LATEST, self.folder / EPOCH.format(epoch))
        kept = sorted(number for number in numbered(self.folder) if number <= epoch)
        for number in kept[: -self.keep_last_n] if self.keep_last_n else []:
            (self.folder / EPOCH.format(number)).unlink()

    def _take_for_best(self, runner: Runner) -> None:
        """Where the best checkpoint is gone, which the score is of, let the resumed one be it, if it was validated."""
        hub, name = runner.message_hub, self.key_indicators[0]
        validated = hub.runtime_info.get(VALIDATED) == runner.epoch
        value = (hub.runtime_info.get(METRICS) or {}).get(name) if validated else None
        hub.runtime_info.pop('best_score', None)
        if value is not None:
            hub.update_info('best_score', value)
            if is_main_process():
                same_file(Path(runner._load_from), self.folder / BEST)

    def _read_best(self, epoch: int) -> float | None:
        """The metric of the best checkpoint in the folder, if it is of this metric and not of a later epoch."""
        if not (self.folder / BEST).is_file():
            return None
        best = load_checkpoint(self.folder / BEST)
        metadata, metric, then = (best.get(key) for key in ('metadata', 'metric', 'epoch'))
        name = metadata.get('metric') if isinstance(metadata, Mapping) else None
        if name not in self.key_indicators or not isinstance(metric, float) or not isinstance(then, int):
            return None
        return metric if then <= epoch else None


def numbered(folder: Path) -> list[int]:
    """The epochs of which a folder has a checkpoint by number."""
    found = (re.fullmatch(r'checkpoint_epoch(\d+)\.pth', path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]


def same_file(source: Path, name: Path) -> None:
    """Let ``name`` hold what ``source`` holds, by a hard link (or a copy where there are none) and a rename."""
    remove_leftovers(name)
    if name.exists() and source.samefile(name):
        return
    temporary = name.with_name(f'.{name.name}.{os.getpid()}.tmp')
    try:
        os.link(source, temporary)
    except OSError:
        with source.open('rb') as old, atomic_write(name, 'wb') as new:
            shutil.copyfileobj(old, new)
        return
    temporary.replace(name)


def _is_due(runner: Runner, epoch: int) -> bool:
    """Whether the training loop validates after an epoch."""
    loop = runner.train_loop
    if runner.val_loop is None or epoch < loop.val_begin:
        return False
    loop._decide_current_val_interval()
    return epoch % loop.val_interval == 0 or epoch == loop.max_epochs
