"""SparseHook: a level of sparse training under the Runner."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import SGD

from ..cli import UserError
from ..registry import HOOKS
from ..sparse import (
    Cases,
    HardMask,
    Penalty,
    SparseError,
    cases,
    check_masks,
    check_stable,
    dynamic_scale,
    load_masks,
    penalty_factor,
    upstream_factor,
)

KEY = 'sparse'
MODES = ('progress', 'upstream')


@HOOKS.register_module()
class SparseHook(Hook):
    """Train under masks: what is pruned stays zero, what is to go shrinks under a growing penalty (RSST).

    The masks divide the weights into the four cases of :func:`vadslim.sparse.cases`. Validation and tests during the
    training are those of the network that will be left: penalised weights are zero meanwhile. After the training they
    are zero for good. Checkpoints hold the masks beside the weights, under the key ``sparse``; a resumed run takes
    them from there.

    Order: ABOVE_NORMAL, so that weights are masked before an EMAHook averages them. It acts on the optimizer's steps
        (see :class:`vadslim.sparse.Penalty`), in ``before_train_iter`` and around evaluations.

    Args:
        masks: file that :func:`vadslim.sparse.save_masks` wrote.
        schedule: how lambda grows, a name of ``vadslim.sparse.SCHEDULES``.
        granularity: what it grows to.
        exponents: E of ``exp_custom_exponents``.
        ceiling: lambda never exceeds it.
        reg_mode: ``progress``: lambda is a function of the part of the training that is done. ``upstream``: of the
            batch within the epoch, as in RSST's public code, to compare with it.
        block_loss_grad: penalised weights see no gradient of the loss.
        target: dynamic lambda: after each validation with ``metric`` below it, lambda is halved.
        metric: of the validation.
    """

    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        masks: str | None = None,
        schedule: str = 'exp_custom_exponents',
        granularity: float = 1.0,
        exponents: float = 4,
        ceiling: float = 1.0,
        reg_mode: str = 'progress',
        block_loss_grad: bool = False,
        target: float | None = None,
        metric: str = 'accuracy/top1',
    ) -> None:
        if reg_mode not in MODES:
            raise UserError(f'SparseHook: reg_mode {reg_mode!r}: choose from {", ".join(MODES)}')
        penalty_factor(schedule, 1.0, granularity, exponents, ceiling)  # raises what cannot be
        self.masks, self.schedule, self.granularity, self.exponents = masks, schedule, granularity, exponents
        self.ceiling, self.reg_mode, self.block_loss_grad = ceiling, reg_mode, block_loss_grad
        self.target, self.metric = target, metric
        self.cases: Cases | None = None
        self.scale = 1.0
        self._penalties: list[Penalty] = []
        self._handles: list[Any] = []
        self._loaded: dict[str, Any] | None = None
        self._hidden: list[tuple[Tensor, Tensor, Tensor]] = []  # (weight, its mask, the values that are hidden)

    def find_cases(self, runner: Runner) -> Cases:
        """What becomes of each weight; called once, when a training that is not resumed begins.

        Raises:
            UserError, SparseError, CheckpointError: there is no such file, or it is of another network.
        """
        if self.masks is None:
            raise UserError('SparseHook: masks: the file with the masks of this level is missing')
        current, refill = load_masks(self.masks)
        return cases(current, refill)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the masks along; they are used only when the run is resumed."""
        self._loaded = checkpoint.get(KEY)

    def before_train(self, runner: Runner) -> None:
        """Put the masks on: pruned weights become zero now."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None and (runner.iter or runner.epoch):
            self.cases, self.scale = cases(loaded['current'], loaded['refill']), float(loaded['scale'])
        else:
            self.cases = self.find_cases(runner)
        parameters = dict(unwrapped(runner.model).named_parameters())
        if unknown := [name for name in self.cases.kept if name not in parameters]:
            raise SparseError(f'SparseHook: masks of {", ".join(unknown[:3])}, which the model does not have')
        weights = {name: parameters[name] for name in self.cases.kept}
        check_masks(weights, self.cases.kept)
        stepped = {id(p) for one in _optimizers(runner) for group in one.param_groups for p in group['params']}
        if still := [name for name, weight in weights.items() if id(weight) not in stepped]:
            raise SparseError(f'SparseHook: no optimizer steps {", ".join(still[:3])}: masks cannot be kept there')
        for optimizer in _optimizers(runner):
            self._attach(optimizer, weights)

    def _attach(self, optimizer: torch.optim.Optimizer, weights: dict[str, nn.Parameter]) -> None:
        """Let one optimizer keep the masks of the weights that it steps, and penalise them."""
        assert self.cases is not None
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
        own = {name: weight for name, weight in weights.items() if id(weight) in stepped}
        active, penalised = ({name: masks[name] for name in own} for masks in (self.cases.active, self.cases.penalised))
        self._handles.append(HardMask(own, active).attach(optimizer))
        if not any(bool(mask.any()) for mask in penalised.values()):
            return
        if isinstance(optimizer, SGD) and self.reg_mode == 'progress':
            for group in optimizer.param_groups:
                lr = max(group['lr'], group.get('initial_lr', 0.0))
                highest = min(self.granularity, self.ceiling)
                check_stable(highest, lr, group['momentum'], group['weight_decay'], group['nesterov'])
        penalty = Penalty(own, penalised, self.block_loss_grad)
        self._penalties.append(penalty)
        self._handles.append(penalty.attach(optimizer))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set lambda for the coming step."""
        if not self._penalties:
            return
        factor = self.scale * self.factor(runner, batch_idx)
        for penalty in self._penalties:
            penalty.factor = factor
        runner.message_hub.update_scalar('train/reg_lambda', factor)

    def factor(self, runner: Runner, batch: int) -> float:
        """Lambda at a batch of the present epoch, before ``scale``."""
        if self.reg_mode == 'upstream':
            batches = len(runner.train_dataloader)
            return upstream_factor(self.schedule, runner.epoch, batch, batches, self.granularity, self.exponents)
        progress = min(1.0, (runner.iter + 1) / runner.max_iters)
        return penalty_factor(self.schedule, progress, self.granularity, self.exponents, self.ceiling)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Before the first batch, when averaged weights have been put in: hide what will not be left."""
        if not self._hidden:
            self.hide(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Bring it back, before an EMAHook takes the averaged weights out; halve lambda if the target is missed."""
        self.show()
        if self.target is not None and self._penalties:
            if self.metric not in (metrics or {}):
                raise UserError(f'SparseHook: metric {self.metric!r}: the validation gives {", ".join(metrics or {})}')
            scale = dynamic_scale(self.scale, float((metrics or {})[self.metric]), self.target)
            if scale != self.scale:
                runner.logger.info(f'{self.metric} is below {self.target}: lambda is halved, to {scale:g} times')
            self.scale = scale

    before_test_iter = before_val_iter

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Bring it back."""
        self.show()

    def hide(self, runner: Runner) -> None:
        """Set to zero what is not in the final masks, until :meth:`show`."""
        if self.cases is None:
            return
        parameters = dict(unwrapped(runner.model).named_parameters())
        for name, final in self.cases.final.items():
            if not bool(final.all()):
                weight = parameters[name].data
                mask = ~final.to(weight.device)  # what is removed, too: averages need not be masked
                self._hidden.append((weight, mask, weight[mask]))
                weight.masked_fill_(mask, 0)

    def show(self) -> None:
        """Undo :meth:`hide`."""
        for weight, mask, values in self._hidden:
            weight[mask] = values
        self._hidden = []

    def after_train(self, runner: Runner) -> None:
        """The end of a level: penalised weights become zero; the optimizer is left alone again."""
        self.hide(runner)
        self._hidden = []
        for handle in self._handles:
            handle.remove()
        self._handles, self._penalties = [], []

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the masks."""
        if self.cases is not None:
            kept, penalised = self.cases.kept, self.cases.penalised
            current = {name: (mask | penalised[name]).cpu() for name, mask in kept.items()}
            refill = {name: mask.cpu() for name, mask in self.cases.final.items()}
            checkpoint[KEY] = {'current': current, 'refill': refill, 'scale': self.scale}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a DDP wrapper, if it is in one."""
    return model.module if is_model_wrapper(model) else model


def _optimizers(runner: Runner) -> list[torch.optim.Optimizer]:
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [each.optimizer for each in wrappers]
