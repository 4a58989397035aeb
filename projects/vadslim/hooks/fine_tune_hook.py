"""FineTuneHook: what of a checkpoint a fine-tune goes on with, and what is this run's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from ..cli import UserError
from ..registry import HOOKS
from .fine_tune_schedule import MODES, FineTuneLR

KEY = 'fine_tune'


@dataclass(frozen=True)
class Start:
    """How a run takes a checkpoint: ``resume`` it or only load its weights, and why, in one line."""

    resume: bool
    reason: str


def choose_start(checkpoint: Mapping[str, Any], mode: str, epochs: int) -> Start:
    """Choose between MMEngine's ``resume`` and ``load_from`` for a checkpoint that is to be trained on.

    Args:
        checkpoint: as :func:`vadslim.checkpoint.load_checkpoint` reads it.
        mode: 'fine-tune' or 'retrain'.
        epochs: the target epochs.
    """
    if mode not in MODES:
        raise UserError(f'mode {mode!r}: choose from {", ".join(MODES)}')
    meta = checkpoint.get('meta') or {}
    epoch = meta.get('epoch')
    if _own_of(checkpoint, mode) is not None and epoch is not None and epoch <= epochs:
        return Start(True, f'this {mode} was interrupted after epoch {epoch}: it goes on')
    if mode == 'retrain':
        return Start(False, 'retraining starts at epoch 0 with the weights of the checkpoint')
    if epoch is None:
        return Start(False, 'the checkpoint names no epoch: its weights are loaded, training starts at epoch 0')
    if meta.get('iter') is None or 'message_hub' not in checkpoint:
        return Start(
            False,
            'the checkpoint was not written by MMEngine: its weights are loaded, training starts at epoch 0',
        )
    if epoch >= epochs:
        return Start(
            False,
            f'the checkpoint has {epoch} epochs, the target is {epochs}: its weights are loaded, training '
            'starts at epoch 0',
        )
    return Start(True, f'the checkpoint has {epoch} epochs: training goes on to {epochs}')


def _own_of(checkpoint: Mapping[str, Any], mode: str) -> dict[str, Any] | None:
    """What a run of a mode has noted in its checkpoints; None in a checkpoint of any other training."""
    own = checkpoint.get(KEY)
    return own if isinstance(own, dict) and own.get('mode') == mode else None


@HOOKS.register_module()
class FineTuneHook(Hook):
    """Fine-tune or retrain from a checkpoint of another training, under :class:`FineTuneLR`.

    When a dense (or pruned) training's checkpoint is resumed, its epoch, iteration and the moments of its
    optimizer are taken; learning rates, schedulers, the message hub and all other settings of the optimizer
    are this run's. MMEngine's ``resume`` would put all of them back. The checkpoints of this run carry the
    key ``fine_tune``; one of these is resumed whole.

    Order: HIGH, as it edits a checkpoint before others read it; ``before_train`` sets the first learning
        rate.

    Args:
        mode: 'fine-tune' or 'retrain'.
    """

    priority = 'HIGH'

    def __init__(self, mode: str = 'fine-tune') -> None:
        if mode not in MODES:
            raise UserError(f'FineTuneHook: mode {mode!r}: choose from {", ".join(MODES)}')
        self.mode = mode
        self._own: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Check that the learning rate is under our schedule."""
        if isinstance(runner.optim_wrapper, OptimWrapper) and not _schedulers(runner):
            raise UserError('FineTuneHook needs a param_scheduler of type vadslim.FineTuneLR')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave of a foreign checkpoint what MMEngine shall resume (a loaded one is not affected)."""
        self._own = _own_of(checkpoint, self.mode)
        if self._own is not None:
            return
        if 'message_hub' in checkpoint:  # emptied, not deleted: resume reads it
            checkpoint['message_hub'] = {'log_scalars': {}, 'runtime_info': {}, 'resumed_keys': {}}
        checkpoint.pop('param_schedulers', None)
        if 'optimizer' in checkpoint and isinstance(runner.optim_wrapper, OptimWrapper):
            wrappers = runner.optim_wrapper
            if isinstance(wrappers, OptimWrapperDict):
                states = checkpoint['optimizer']
                pairs = [(states.get(name), wrapper) for name, wrapper in wrappers.items()]
            else:
                pairs = [(checkpoint['optimizer'], wrappers)]
            kept = all(state is not None and keep_moments(state, wrapper, runner) for state, wrapper in pairs)
            if not kept:
                del checkpoint['optimizer']

    def before_train(self, runner: Runner) -> None:
        """Start the schedule at the epoch where this run starts; of a run without epochs left, evaluate."""
        epoch, schedulers = runner.epoch, _schedulers(runner)
        if self._own is not None and (epoch or runner.iter):
            runner.logger.info(f'This {self.mode} is resumed at epoch {epoch}, iteration {runner.iter}.')
            if epoch >= runner.max_epochs and runner.val_loop is not None:
                runner.val_loop.run()  # it was interrupted between its last checkpoint and its end
            return
        if self.mode == 'retrain' and epoch:
            raise UserError(f'retraining starts at epoch 0: load the checkpoint (load_from), not resume it at {epoch}')
        if epoch >= runner.max_epochs:
            raise UserError(f'the checkpoint has {epoch} epochs, the target is {runner.max_epochs}: nothing to train')
        self._own = {'mode': self.mode, 'start_epoch': epoch, 'start_iter': runner.iter}
        for scheduler in schedulers:
            scheduler.start_at(epoch)
        first = schedulers[0]
        cap = '' if first.warmup == first.warmup_iters else f' (of {first.warmup_iters}: a fifth of this run)'
        runner.logger.info(
            f'{self.mode}: epochs {epoch} to {runner.max_epochs}, {first.factor} times its usual rate, '
            f'warm-up over {first.warmup} iterations{cap} in place of any of the config.'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Mark the checkpoint as this run's own."""
        if self._own is not None:
            checkpoint[KEY] = dict(self._own, epochs=runner.max_epochs)


def _schedulers(runner: Runner) -> list[FineTuneLR]:
    schedulers = runner.param_schedulers
    if isinstance(schedulers, dict):
        schedulers = [scheduler for group in schedulers.values() for scheduler in group]
    return [scheduler for scheduler in schedulers or [] if isinstance(scheduler, FineTuneLR)]


def keep_moments(state: dict, wrapper: OptimWrapper, runner: Runner) -> bool:
    """Put this run's settings into an optimizer's state, in place, and drop moments that do not fit.

    Returns:
        Whether the state can be loaded at all.
    """
    groups = wrapper.optimizer.param_groups
    saved = state.get('param_groups', [])
    if [len(group['params']) for group in saved] != [len(group['params']) for group in groups]:
        runner.logger.warning(
            'The optimizer state of the checkpoint is for other parameter groups: moments start at zero.'
        )
        return False
    names = _names(runner)
    dropped = []
    for old, new in zip(saved, groups):
        for number, parameter in zip(old['params'], new['params']):
            moments = state['state'].get(number, {})
            shapes = [value.shape for value in moments.values() if hasattr(value, 'shape') and value.ndim]
            if any(shape != parameter.shape for shape in shapes):
                dropped.append(names.get(id(parameter), str(number)))
                del state['state'][number]
        numbers = old['params']
        old.clear()
        old.update({key: value for key, value in new.items() if key != 'params'}, params=numbers)
    state.pop('base_param_settings', None)  # the wrapper keeps its own
    if dropped:
        shown = ', '.join(dropped[:3]) + (' ...' if len(dropped) > 3 else '')
        runner.logger.warning(f'Moments of {len(dropped)} parameters do not fit and start at zero: {shown}')
    return True


def _names(runner: Runner) -> dict[int, str]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return {id(parameter): name for name, parameter in model.named_parameters()}
