"""Going on with a stage: with the settings of its checkpoint exactly where it stood, with others by the new ones."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError, say
from vadslim.hooks.checkpoint_hook import LATEST
from vadslim.hooks.fine_tune_hook import keep_moments
from vadslim.hooks.stage_checkpoint_hook import BEST, EPOCH, METRICS, numbered, same_file
from vadslim.slimming.training import LastMetrics

#: settings on which no result of a training depends: of sections, and of MMEngine configs
NOT_RESULTS = (
    *('logging.*', 'device.*', 'data.num_workers', 'data.rust_threads'),
    *('training.save_dir', 'training.save_interval', 'training.keep_last_n'),
    *('work_dir', 'experiment_name', 'load_from', 'resume', 'launcher', 'visualizer*', 'log_level', 'env_cfg*'),
    *('default_hooks*', '*_dataloader.num_workers', '*.persistent_workers', 'stages*'),
)
_SHOWN = 4


def differences(saved: Mapping[str, Any] | None, now: Mapping[str, Any], whole: bool = True) -> list[str]:
    """Tell in which settings a checkpoint's config and that of now differ, as far as results depend on them.

    Args:
        saved: plain data; None: not known, so nothing differs.
        now: the settings of the stage that goes on.
        whole: the config says all; else what it does not say is no difference.

    Returns:
        ``'training.epochs 2 -> 4'`` and so on.
    """
    if saved is None:
        return []
    theirs, ours = dict(_leaves(saved)), dict(_leaves(now))
    named = {**theirs, **ours} if whole else theirs
    keys = [key for key in named if not any(fnmatchcase(key, pattern) for pattern in NOT_RESULTS)]
    return [
        f'{key} {_text(theirs.get(key))} -> {_text(ours.get(key))}' for key in keys if theirs.get(key) != ours.get(key)
    ]


def shorten(changes: list[str]) -> str:
    """The first of the differences, on one line."""
    more = f' and {len(changes) - _SHOWN} more' if len(changes) > _SHOWN else ''
    return ', '.join(changes[:_SHOWN]) + more


def check_state(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Check that a checkpoint holds the state of a training.

    Raises:
        UserError: it does not; the line says what to do with it.
    """
    meta = checkpoint.get('meta') or {}
    if type(meta.get('epoch')) is not int or type(meta.get('iter')) is not int or 'message_hub' not in checkpoint:
        why = 'holds weights, not the state of a training'
        if 'optimizer' in checkpoint:
            why = 'does not say after which epoch it was written'
        raise UserError(f'{path}: {why}; start from it by --init_from {path}')


def check_resumable(checkpoint: Mapping[str, Any], path: Path, stage: str, epochs: int | None, changed: bool) -> None:
    """Check that a stage can go on from a checkpoint.

    Args:
        checkpoint: what ``path`` holds.
        path: for the error.
        stage: the name of the one that goes on.
        epochs: that it shall have in the end; None: not counted.
        changed: whether its settings are others than the checkpoint's.

    Raises:
        UserError: it is no state of a training, is another stage's, or has no epochs left.
    """
    check_state(checkpoint, path)
    metadata = checkpoint.get('metadata') or {}
    if metadata.get('stage') not in (None, stage):
        raise UserError(f'{path}: is of stage {metadata["stage"]}, not of {stage}')
    done = checkpoint['meta']['epoch']
    if epochs is not None and (done > epochs or (changed and done == epochs)):
        raise UserError(f'{path}: has {done} epochs, the stage shall have {epochs}; more are needed (--epochs N)')


def set_aside(folder: Path, resumed: Path, checkpoint: Mapping[str, Any]) -> None:
    """Let a stage's folder be what it was when a checkpoint was written that other settings go on from.

    Checkpoints of later epochs, and a best one that this one does not know, are moved to ``replaced_1`` (2, ...): they
    are not of the run that begins now. The resumed one becomes the latest: a kill that follows goes on from it.

    Args:
        folder: the stage's.
        resumed: the checkpoint, in this folder or elsewhere.
        checkpoint: what it holds.
    """
    epoch, latest, best = checkpoint['meta']['epoch'], folder / LATEST, folder / BEST
    number = next(number for number in itertools.count(1) if not (folder / f'replaced_{number}').exists())
    kept = folder / f'replaced_{number}'
    theirs = [folder / EPOCH.format(later) for later in numbered(folder) if later > epoch]
    if best.is_file():
        found = load_checkpoint(best)
        if found.get('metric') != checkpoint.get('metric') or (found.get('meta') or {}).get('epoch', 0) > epoch:
            theirs.append(best)
    if latest.is_file() and not latest.samefile(resumed):
        kept.mkdir()
        same_file(latest, kept / LATEST)
        same_file(resumed, latest)  # first: it is what a command that is given again goes on from
    for path in theirs:
        kept.mkdir(exist_ok=True)
        path.rename(kept / path.name)
    if kept.is_dir():
        names = ', '.join(sorted(path.name for path in kept.iterdir()))
        say(f'{folder}: goes back to epoch {epoch}; of other settings, and moved to {kept.name}: {names}')


def workers_note(saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str | None:
    """Tell if another number of data-loading workers changes what they draw: each has a generator of its own.

    The pictures of the task ink follow from their numbers alone.
    """
    theirs, ours = dict(_leaves(saved or {})), dict(_leaves(now))
    for key in () if now.get('task') == 'ink' else ('data.num_workers', 'train_dataloader.num_workers'):
        if key in theirs and theirs[key] != ours.get(key):
            return f'{key} {theirs[key]} -> {ours.get(key)}: random augmentations are others than without this change'
    return None


class NewSettings(Hook):
    """Let a resumed training follow other settings than those it was begun with.

    MMEngine's resume puts back the learning rates, the schedules (with their length) and the seed. With this hook the
    weights, moments, counters and history are resumed, and the rates are what the new schedules give at this epoch.

    Order: NORMAL; before_train only has to come before the first iteration.
    """

    def __init__(self) -> None:
        self._pending = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave of the checkpoint what does not follow from settings."""
        self._pending = True
        checkpoint.pop('param_schedulers', None)
        checkpoint['meta']['seed'] = runner.seed
        wrapper = runner.optim_wrapper
        if not (isinstance(wrapper, OptimWrapper) and keep_moments(checkpoint.get('optimizer') or {}, wrapper, runner)):
            checkpoint.pop('optimizer', None)

    def before_train(self, runner: Runner) -> None:
        """Lead the schedules, which were just built, to the epoch where the training goes on."""
        if not self._pending:
            return
        self._pending = False
        schedulers = runner.param_schedulers or []
        lists = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # of steps before the optimizer's first
            for scheduler in [one for group in lists for one in group]:
                steps = runner.epoch if scheduler.by_epoch else runner.epoch * len(runner.train_dataloader)
                for _ in range(steps):
                    scheduler.step()


class KeptMetrics(LastMetrics):
    """Remembers what the last validation said in the checkpoints too: a kill may come after it.

    Order: before CheckpointHook (VERY_LOW).
    """

    def before_train(self, runner: Runner) -> None:
        """Take what a resumed checkpoint says."""
        self.metrics = dict(runner.message_hub.runtime_info.get(METRICS) or {})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Take what is new."""
        super().after_val_epoch(runner, metrics)
        runner.message_hub.update_info(METRICS, self.metrics)


class SameBuffers(Hook):
    """Let all ranks have rank 0's buffers after each epoch: those that the checkpoint holds, and a resumed run has.

    Running statistics differ between ranks; each would validate its share with its own.

    Order: NORMAL; before CheckpointHook (VERY_LOW) and the validation.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Send them."""
        kept = runner.model.state_dict()
        for name, buffer in runner.model.named_buffers():
            if name in kept:
                broadcast(buffer)


def _leaves(values: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f'{text[:37]}...'
