"""GroupRSSTHook: units of Groups fade away while a network trains, and are cut off at the end."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from ..cli import UserError
from ..pruning import (
    Structure,
    StructuredPruner,
    compose,
    find_groups,
    make_structure,
    optimizer_param_names,
    resize,
    slice_optimizer_state,
    slice_state_dict,
)
from ..registry import HOOKS
from ..sparse import Cases, HardMask, Penalty, penalty_factor
from ..sparse.groups import FadingLayerNorm, fade_norms, leaving, lower_logits, magnitudes, stock_norms
from .checkpoint_hook import ATOMIC
from .distill_hook import random_state_from
from .sparse_hook import KEY, SparseHook, unwrapped

FAR_ENOUGH = 100  # kept weights are as many times larger than penalised ones when these are set to zero


@HOOKS.register_module()
class GroupRSSTHook(SparseHook):
    """Drive the units of a plan to zero under a growing penalty while the rest trains, then slim.

    When the training begins, units are chosen by the weights that were loaded, as the pruning command chooses them.
    All their weights are penalised: each step takes the fraction lr * lambda of them before the optimizer moves them
    (decoupled, for SGD too). That fraction is what is set here, so that neither the learning rate, its schedule, nor
    the multipliers of parameter groups say how fast units fade. It grows from 0 to ``strength`` divided by the number
    of growing steps (1 at most): over the whole growth a weight that the loss leaves alone shrinks by
    exp(-strength * mean of the schedule), whatever the length of the run; exp(-10) by default. For the last part of
    the run, ``hold``, they are held at exactly zero, and the rest settles.

    What no weight decay reaches: positions of LayerNorms leave the mean and variance at the same pace; biases of
    softmax logits (sampling points) fall until they say nothing; statistics of batch norms, frozen norms and biases
    stay, and are cut off. The scale of an attention whose heads get narrower (``kind:query_key_dim``) changes only
    when it is slimmed.

    Validation and tests meanwhile are those of the slim network. After the training ``structure.json`` and the slim
    checkpoint are written to the work_dir. Its checkpoints hold the plan; a resumed run goes on with it.

    Order: LOW, after an EMAHook: what is cut and evaluated are the averages, if there are any.

    Args:
        ratio: fraction of the units that leaves.
        importance, allocation, targets, protect, round_to: as :class:`vadslim.pruning.StructuredPruner` takes them; a
            criterion that looks at weights.
        schedule: how lr * lambda grows, a name of ``vadslim.sparse.SCHEDULES``.
        exponents: E of ``exp_custom_exponents``.
        strength: what lr * lambda grows to, times the number of growing steps.
        hold: the last part of the run, in which penalised weights are zero.
        block_loss_grad: penalised weights see no gradient of the loss.
        interval: iterations between two measurements of how far penalised weights are.
        filename: of the slim checkpoint.
    """

    priority = 'LOW'

    def __init__(
        self,
        ratio: float,
        importance: Any = 'L2',
        allocation: Any = 'uniform',
        targets: Sequence[str] | str | None = None,
        protect: Sequence[str] | str | None = None,
        round_to: int = 1,
        schedule: str = 'x^3',
        exponents: float = 4,
        strength: float = 40.0,
        hold: float = 0.25,
        block_loss_grad: bool = False,
        interval: int = 20,
        filename: str = 'slim.pth',
    ) -> None:
        if not 0 < strength < math.inf:
            raise UserError(f'GroupRSSTHook: strength is {strength!r}: a finite number above 0')
        if not 0 <= hold < 1:
            raise UserError(f'GroupRSSTHook: hold is {hold!r}: a part of the run, from 0 up to but not including 1')
        if not isinstance(interval, int) or interval < 1:
            raise UserError(f'GroupRSSTHook: interval is {interval!r}: a whole number of at least 1')
        super().__init__(None, schedule, strength, exponents, 1.0, block_loss_grad=block_loss_grad)
        try:
            self.pruner = StructuredPruner(ratio, importance, allocation, targets, protect, round_to)
        except (TypeError, ValueError) as error:
            raise UserError(f'GroupRSSTHook: {error}') from None
        if ratio is None or getattr(self.pruner.importance, 'needs_batches', False):
            problem = 'ratio is missing' if ratio is None else f'importance {importance!r} looks at data'
            raise UserError(f'GroupRSSTHook: {problem}; needed are a ratio and a criterion that looks at weights')
        self.hold, self.interval, self.filename = hold, interval, filename
        asked = {'ratio': ratio, 'importance': importance, 'allocation': allocation, 'targets': targets}
        self.asked = {name: str(value) for name, value in {**asked, 'protect': protect, 'round_to': round_to}.items()}
        self.step: Structure | None = None  # what is left of the network that trains
        self.logits: dict[str, Tensor] = {}
        self.start = 0
        self.left = 1.0
        self._groups: list[tuple[Optimizer, int, Penalty]] = []
        self._norms: list[FadingLayerNorm] = []
        self._swapped: tuple[Runner, nn.Module] | None = None
        self._holding = self._writing = False

    def find_cases(self, runner: Runner) -> Cases:
        """Choose the units, by the weights as they are.

        Raises:
            UserError, PatternError: nothing would leave, or a pattern matches nothing.
        """
        model = unwrapped(runner.model)
        with random_state_from():
            still = copy.deepcopy(model).eval()
            groups = find_groups(still, example_of(runner, still))
            plan = [self.pruner.plan(still, groups)]
        broadcast_object_list(plan)
        kept = plan[0]
        gone = [number for group in groups if (number := group.num_units - len(kept[group.name]))]
        if not gone:
            raise UserError(f'GroupRSSTHook: ratio {self.asked["ratio"]} removes none of the units it may remove')
        penalised, self.logits = leaving(model, groups, kept)
        self.step, self.start, self.left = make_structure(model, groups, kept), runner.iter, 1.0
        runner.logger.info(
            f'{sum(gone)} units of {len(gone)} Groups are to leave: '
            f'{sum(int(mask.sum()) for mask in penalised.values()):,} weights are penalised'
        )
        none = {name: torch.zeros_like(mask) for name, mask in penalised.items()}
        return Cases({name: ~mask for name, mask in penalised.items()}, none, penalised, none)

    def before_train(self, runner: Runner) -> None:
        """Choose what leaves, or take it from the checkpoint that is resumed.

        Raises:
            UserError: the checkpoint is one of another plan.
        """
        loaded = self._loaded
        if loaded is not None and (runner.iter or runner.epoch):
            if 'asked' not in loaded:
                raise UserError('GroupRSSTHook: the checkpoint to resume is one of a SparseHook with masks')
            for name, value in self.asked.items():
                if loaded['asked'].get(name) != value:
                    was = loaded['asked'].get(name)
                    raise UserError(f'GroupRSSTHook: {name} is {value}, the training to resume began with {was}')
            self.step = Structure.from_dict(loaded['step'], 'the checkpoint to resume')
            self.logits, self.start, self.left = loaded['logits'], loaded['start'], loaded['left']
        self._holding = False
        super().before_train(runner)
        assert self.cases is not None
        self._norms = fade_norms(unwrapped(runner.model), self.cases.penalised)

    def _attach(self, optimizer: Optimizer, weights: dict[str, nn.Parameter]) -> None:
        """A penalty for each learning rate: parameter groups that begin with the same keep the same."""
        assert self.cases is not None
        names = {id(weight): name for name, weight in weights.items()}
        alike: dict[float, tuple[int, dict[str, Tensor]]] = {}
        for number, group in enumerate(optimizer.param_groups):
            own = [names[id(parameter)] for parameter in group['params'] if id(parameter) in names]
            masks = alike.setdefault(group.get('initial_lr', group['lr']), (number, {}))[1]
            masks.update({name: self.cases.penalised[name] for name in own})
        for number, masks in alike.values():
            if masks:
                penalty = Penalty({name: weights[name] for name in masks}, masks, self.block_loss_grad)
                self._groups.append((optimizer, number, penalty))
                self._handles.append(penalty.attach(optimizer, decoupled=True))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set lambda for the coming step; from the first step of the hold on, keep penalised weights at zero."""
        model, accumulated = unwrapped(runner.model), getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        growing = (1 - self.hold) * (runner.max_iters - self.start)
        done = runner.iter - self.start
        if done >= growing and not self._holding:
            self._keep_zero(runner)
        shrink = 1.0
        if not self._holding:
            progress = min(1.0, (done + 1) / growing)
            rate = self.granularity * accumulated / growing
            shrink = penalty_factor(self.schedule, progress, rate, self.exponents, self.ceiling)
        for optimizer, number, penalty in self._groups:
            lr = float(optimizer.param_groups[number]['lr'])
            penalty.factor = shrink / lr if lr > 0 else 0.0
        self.left = 0.0 if self._holding else self.left * (1 - shrink / accumulated)
        for norm in self._norms:
            norm.left = self.left
        if self.logits:
            lower_logits(dict(model.named_parameters()), self.logits, shrink / accumulated)
        runner.message_hub.update_scalar('train/reg_lambda', min(penalty.factor for _, _, penalty in self._groups))
        runner.message_hub.update_scalar('train/reg_rate', shrink)
        if done % self.interval == 0 and not self._holding:
            runner.message_hub.update_scalar('train/reg_ratio', self.distance(model))

    def distance(self, model: nn.Module) -> float:
        """Mean |w| of what stays over that of what is penalised, in the tensors that lose something."""
        assert self.cases is not None
        penalised, rest = magnitudes(dict(model.named_parameters()), self.cases.penalised)
        return rest / penalised if penalised else math.inf

    def _keep_zero(self, runner: Runner) -> None:
        """Set penalised weights to zero, now and after each step."""
        assert self.cases is not None
        model = unwrapped(runner.model)
        self._tell(runner, self.distance(model))
        parameters = dict(model.named_parameters())
        for optimizer in {id(optimizer): optimizer for optimizer, _, _ in self._groups}.values():
            weights = {name: parameters[name] for name in self.cases.final}
            self._handles.append(HardMask(weights, self.cases.final).attach(optimizer))
        self._holding = True

    def _tell(self, runner: Runner, ratio: float) -> None:
        if ratio < math.inf:
            runner.logger.info(
                f'Kept weights are {ratio:.3g} times as large as penalised ones, which are zero from now on'
            )
        if ratio < FAR_ENOUGH:
            runner.logger.warning(f'Penalised weights are not near zero yet: raise strength ({self.granularity:g})')

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Before the first batch, when averaged weights have been put in: evaluate the network that will be left."""
        if self._swapped is None:
            self.hide(runner)

    before_test_iter = before_val_iter

    def hide(self, runner: Runner) -> None:
        """Put the slim network in place of the one that trains, until :meth:`show`."""
        if self.step is None:
            return
        model = unwrapped(runner.model)
        stock_norms(self._norms)
        slim = resize(model, self.step)
        for norm in self._norms:
            norm.__class__ = FadingLayerNorm
        slim.structure = self.structure(model)
        self._swapped, runner.model = (runner, runner.model), slim

    def show(self) -> None:
        """Undo :meth:`hide`."""
        if self._swapped is not None:
            runner, runner.model = self._swapped
            self._swapped = None

    def structure(self, model: nn.Module) -> Structure:
        """What is left of the dense architecture, when the training network was slim already as well."""
        assert self.step is not None
        own = getattr(model, 'structure', None)
        return self.step if own is None else compose(own, self.step)

    def after_train(self, runner: Runner) -> None:
        """Cut the units off, and write the structure and the slim checkpoint."""
        assert self.cases is not None
        model = unwrapped(runner.model)
        if not self._holding:
            self._tell(runner, self.distance(model))
        SparseHook.hide(self, runner)
        self._hidden = []
        for handle in self._handles:
            handle.remove()
        stock_norms(self._norms)
        self._handles, self._groups, self._norms = [], [], []
        folder = Path(runner.work_dir)
        if is_main_process():
            self.structure(model).save(folder / 'structure.json')
        self._writing = True
        try:
            runner.save_checkpoint(
                str(folder),
                self.filename,
                save_optimizer=isinstance(runner.optim_wrapper, OptimWrapper),
                meta={'epoch': runner.epoch, 'iter': runner.iter},
                backend_args={'backend': ATOMIC},
            )
        finally:
            self._writing = False
        runner.logger.info(f'The slim network: {folder / self.filename}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the plan and how far it is; or make the last checkpoint one of the slim network."""
        if self.step is None:
            return
        if self._writing:
            self._cut(runner, checkpoint)
            return
        super().before_save_checkpoint(runner, checkpoint)
        logits = {name: mask.cpu() for name, mask in self.logits.items()}
        state = {'asked': self.asked, 'step': self.step.to_dict(), 'start': self.start, 'left': self.left}
        checkpoint[KEY] = {**checkpoint[KEY], **state, 'logits': logits}

    def _cut(self, runner: Runner, checkpoint: dict) -> None:
        assert self.step is not None
        model = unwrapped(runner.model)
        checkpoint['state_dict'] = slice_state_dict(checkpoint['state_dict'], self.step)
        checkpoint['meta']['structure'] = self.structure(model).to_dict()
        for key in ('ema_state_dict', 'fine_tune'):  # of the network before; of a training that has ended
            checkpoint.pop(key, None)
        if 'optimizer' in checkpoint:
            names = optimizer_param_names(model, runner.optim_wrapper.optimizer)
            shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
            moments, remarks = slice_optimizer_state(checkpoint['optimizer'], names, self.step, shapes)
            checkpoint['optimizer'] = moments
            for remark in remarks:
                runner.logger.warning(remark)


def example_of(runner: Runner, model: nn.Module) -> Callable[[nn.Module], Any]:
    """One forward of the model: the one that its class declares, or on the first training data."""
    from ..analysis import find_example

    example = find_example(model, runner.cfg, small=True)
    if example is not None:
        return example.run
    loader = runner.train_dataloader
    data = loader.collate_fn([loader.dataset[number] for number in range(min(2, len(loader.dataset)))])

    def run(network: nn.Module) -> Any:
        inputs = network.data_preprocessor(copy.deepcopy(data), False)
        if isinstance(inputs, dict):
            return network(**inputs, mode='tensor')
        return network(*inputs, mode='tensor') if isinstance(inputs, list | tuple) else network(inputs, mode='tensor')

    return run
