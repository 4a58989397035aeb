"""The learning rate of fine-tuning and retraining: lr(i) = factor * w(i) * s(i).

``i`` counts the iterations of this run, from 0. ``w`` is the warm-up: it rises linearly from 1/3 at i = 0 to
1 at i = W and stays there; W is the mode's, at most a fifth of the run. ``s`` is the learning rate that the
config's own schedule gives, without its warm-up and stretched to the target epochs, at the absolute epoch (a
fine-tune that goes on from epoch 12 has s of epoch 12 at i = 0).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS as ROOT_PARAM_SCHEDULERS

from ..cli import UserError
from ..registry import PARAM_SCHEDULERS


@dataclass(frozen=True)
class Mode:
    """The numbers of a mode of training after pruning."""

    factor: float
    warmup_iters: int


MODES = {'fine-tune': Mode(factor=0.1, warmup_iters=500), 'retrain': Mode(factor=0.5, warmup_iters=1000)}
WARMUP_START = 1 / 3
WARMUP_SHARE = 5  # the warm-up is at most this part of the run

LENGTHS = {
    'LinearLR': ('begin', 'end'),
    'ConstantLR': ('begin', 'end'),
    'PolyLR': ('begin', 'end'),
    'ExponentialLR': ('begin', 'end'),
    'CosineAnnealingLR': ('begin', 'end', 'T_max'),
    'MultiStepLR': ('begin', 'end', 'milestones'),
    'StepLR': ('begin', 'end'),
    'CosineRestartLR': ('begin', 'end', 'periods'),
}  # the arguments that are times


def fine_tune_config(cfg: Mapping[str, Any], mode: str, epochs: int) -> dict[str, Any]:
    """What of a training config changes when its slimmed network is fine-tuned or retrained.

    Args:
        cfg: the config of the dense training, with an epoch-based ``train_cfg``.
        mode: 'fine-tune' or 'retrain'.
        epochs: the target epochs.

    Returns:
        ``train_cfg``, ``param_scheduler`` and ``custom_hooks``, to be put over ``cfg``. Validation comes at
        least once.
    """
    if epochs < 1:
        raise UserError(f'epochs is {epochs}: at least 1 is needed')
    train_cfg = dict(cfg['train_cfg'])
    schedule = fine_tune_schedule(cfg, mode)
    train_cfg['max_epochs'] = epochs
    train_cfg['val_interval'] = min(train_cfg.get('val_interval', 1), epochs)
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if _bare(hook.get('type')) != 'FineTuneHook']
    hooks.append({'type': 'vadslim.FineTuneHook', 'mode': mode})
    return {'train_cfg': train_cfg, 'param_scheduler': schedule, 'custom_hooks': hooks}


def fine_tune_schedule(cfg: Mapping[str, Any], mode: str) -> list[dict[str, Any]]:
    """Write the ``param_scheduler`` of a mode from that of a config.

    The target epochs are those of the run that uses it (``train_cfg.max_epochs``).

    Args:
        cfg: has ``train_cfg.max_epochs``, for which its ``param_scheduler`` was made; a ``FineTuneLR`` is
            replaced.
        mode: 'fine-tune' or 'retrain'.

    Raises:
        UserError: an unknown mode, a ``train_cfg`` that counts iterations, or a scheduler that cannot be
            stretched.
    """
    if mode not in MODES:
        raise UserError(f'mode {mode!r}: choose from {", ".join(MODES)}')
    epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    if not epochs:
        raise UserError('train_cfg.max_epochs is missing: fine-tuning needs a config that trains by epochs')
    schedule = cfg.get('param_scheduler') or []
    schedule = [schedule] if isinstance(schedule, Mapping) else list(schedule)
    if len(schedule) == 1 and _bare(schedule[0].get('type')) == 'FineTuneLR':  # of a fine-tune before this one
        schedule, epochs = schedule[0]['schedule'], schedule[0]['schedule_epochs']
    stretch(schedule, 1.0)  # says now what cannot be stretched
    return [
        {
            'type': 'vadslim.FineTuneLR',
            'convert_to_iter_based': True,
            'factor': MODES[mode].factor,
            'warmup_iters': MODES[mode].warmup_iters,
            'schedule': [dict(scheduler) for scheduler in schedule],
            'schedule_epochs': epochs,
        }
    ]


def is_warmup(scheduler: Mapping[str, Any]) -> bool:
    """Tell whether a scheduler's config is a warm-up: it lifts the rate from the first step to a given
    end.
    """
    if scheduler.get('begin', 0) != 0 or scheduler.get('end', INF) >= INF:
        return False
    kind = _bare(scheduler['type'])
    if kind == 'LinearLR':
        return scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1.0)
    return kind == 'ConstantLR' and scheduler.get('factor', 1 / 3) < 1


def stretch(schedule: Sequence[Mapping[str, Any]], ratio: float) -> list[dict[str, Any]]:
    """Take the warm-ups out of a schedule and multiply its times by ``ratio``.

    Times are rounded to whole steps, halves up. A StepLR becomes the MultiStepLR that it is, so that its
    rounding does not add up; an ExponentialLR falls as far in all as before.

    Raises:
        UserError: a scheduler whose rate is not a function of time, or one that is unknown.
    """
    result = []
    for scheduler in schedule:
        kind = _bare(scheduler.get('type'))
        if kind not in LENGTHS:
            raise UserError(f'param_scheduler of type {kind} cannot be stretched; these can: {", ".join(LENGTHS)}')
        if is_warmup(scheduler):
            continue
        new = copy.deepcopy(dict(scheduler))
        if kind == 'StepLR':
            step = new.pop('step_size')
            last = min(new.get('end', INF), 10_000 * step) - new.get('begin', 0)
            new.update(type='MultiStepLR', milestones=list(range(step, last, step)))
            kind = 'MultiStepLR'
        if kind == 'ExponentialLR':
            new['gamma'] **= 1 / ratio
        for key in LENGTHS[kind]:
            if new.get(key) is not None:
                new[key] = _times(new[key], ratio)
        if new.get('end') is not None:
            new['end'] = max(new['end'], new.get('begin', 0) + 1)
        if new.get('T_max') is not None:
            new['T_max'] = max(new['T_max'], 1)
        result.append(new)
    return result


def _times(value: Any, ratio: float) -> Any:
    if isinstance(value, list | tuple):
        return [_times(item, ratio) for item in value]
    return value if value >= INF else math.floor(value * ratio + 0.5)


def _bare(kind: Any) -> str:
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))).rpartition('.')[2]


@PARAM_SCHEDULERS.register_module()
class FineTuneLR(_ParamScheduler):
    """lr(i) = factor * w(i) * s(i), as the module says; one scheduler in place of all those of the config.

    MMEngine's schedulers are chained: each multiplies or shifts what the others left, so a warm-up under a
    cosine with a floor is not a product. Here the config's schedulers run on numbers of their own and the
    product is set.

    In a config with ``convert_to_iter_based=True``: MMEngine then passes the iterations of an epoch, and as
    ``end`` the run's epochs.

    Args:
        optimizer: the optimizer or its wrapper; each parameter group keeps its own base rate.
        factor: of the whole schedule.
        schedule: configs of the dense training's schedulers, warm-up included.
        schedule_epochs: the epochs that ``schedule`` was made for.
        epoch_length: iterations of an epoch.
        end: target epochs.
        warmup_iters: iterations of the warm-up, before the cap.
    """

    def __init__(
        self,
        optimizer: Any,
        factor: float,
        schedule: Sequence[Mapping[str, Any]],
        schedule_epochs: int,
        epoch_length: int,
        end: int,
        warmup_iters: int,
    ) -> None:
        if not factor > 0 or warmup_iters < 0 or schedule_epochs < 1:
            raise UserError(
                f'FineTuneLR: factor {factor} > 0, warmup_iters {warmup_iters} >= 0 and schedule_epochs '
                f'{schedule_epochs} >= 1 are needed'
            )
        self.factor = factor
        self.warmup_iters = warmup_iters
        self.epoch_length = epoch_length
        self.epochs = end
        self.start_epoch = 0
        self.schedule = stretch(schedule, end / schedule_epochs)
        self._plain: _PlainSchedule | None = None
        super().__init__(optimizer, 'lr', by_epoch=False)

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, by_epoch: bool = True, **kwargs: Any) -> 'FineTuneLR':
        """Build it as MMEngine does for ``convert_to_iter_based=True``."""
        return cls(*args, **kwargs)

    @property
    def warmup(self) -> int:
        """W: the iterations of the warm-up after the cap."""
        return min(self.warmup_iters, max(self.epochs - self.start_epoch, 0) * self.epoch_length // WARMUP_SHARE)

    def start_at(self, epoch: int) -> None:
        """Let this run begin at an absolute epoch: its first iteration has w = 1/3 and s of that epoch."""
        self.start_epoch, self.last_step = epoch, 0
        self._set()

    def step(self) -> None:
        """Go to the next iteration."""
        self._global_step += 1
        self.last_step += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """Get where it stands; the law itself is the config's."""
        keys = ('start_epoch', 'last_step', 'epoch_length', 'base_values')
        return {key: copy.deepcopy(getattr(self, key)) for key in keys}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go where a state stands; another number of iterations per epoch (more ranks) keeps the epoch."""
        self.start_epoch = state_dict['start_epoch']
        self.last_step = round(state_dict['last_step'] * self.epoch_length / state_dict['epoch_length'])
        if len(state_dict['base_values']) == len(self.base_values):
            self.base_values = list(state_dict['base_values'])
        self._plain = None
        self._set()

    def _set(self) -> None:
        position = self.start_epoch * self.epoch_length + self.last_step
        if self._plain is None or position < self._plain.position:
            self._plain = _PlainSchedule(self.schedule, self.base_values, self.epoch_length, self.epochs)
        rates = self._plain.at(position)
        rise = min(self.last_step / self.warmup, 1.0) if self.warmup else 1.0
        scale = self.factor * (WARMUP_START + (1 - WARMUP_START) * rise)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group['lr'] = scale * rate
        self._last_value = [group['lr'] for group in self.optimizer.param_groups]


class _PlainSchedule:
    """MMEngine's schedulers on an optimizer of their own: s(i) of every parameter group."""

    def __init__(
        self,
        schedule: Sequence[Mapping[str, Any]],
        base_values: Sequence[float],
        epoch_length: int,
        epochs: int,
    ) -> None:
        groups = [{'params': [torch.nn.Parameter(torch.zeros(()))], 'lr': float(value)} for value in base_values]
        self.optimizer = torch.optim.SGD(groups)
        self.epoch_length = epoch_length
        self.position = 0
        self.schedulers = []
        for scheduler in schedule:
            by_epoch = scheduler.get('by_epoch', True)
            args = {'end': epochs if by_epoch else epochs * epoch_length, **scheduler}
            args.update(optimizer=self.optimizer, epoch_length=epoch_length)
            self.schedulers.append(ROOT_PARAM_SCHEDULERS.build(args))
        self.optimizer._global_step = 0  # type: ignore[attr-defined]  # or they warn that no step was taken
        self.by_iter = [scheduler for scheduler in self.schedulers if not scheduler.by_epoch]
        self.by_epoch = [scheduler for scheduler in self.schedulers if scheduler.by_epoch]

    def at(self, position: int) -> list[float]:
        """Advance to an iteration, counted from the start of the schedule, and get the rates."""
        while self.position < position:
            # with no scheduler that steps by iteration, go from one border of epochs to the next
            leap = (
                1
                if self.by_iter
                else min(self.epoch_length - self.position % self.epoch_length, position - self.position)
            )
            self.position += leap
            for scheduler in self.by_iter:
                scheduler.step()
            if self.position % self.epoch_length == 0:
                for scheduler in self.by_epoch:
                    scheduler.step()
        return [group['lr'] for group in self.optimizer.param_groups]
