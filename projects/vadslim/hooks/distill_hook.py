"""DistillHook: a slim network learns to say what the dense one says."""

import contextlib
import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import CheckpointError, load_checkpoint
from ..cli import UserError
from ..registry import HOOKS, MODELS
from .distill_loss import DistillLoss, Kept
from .random_state_hook import random_state, set_random_state
from .slim_model import checkpoint_structure, read_structure, without_pretrained
from .transfer import differences, shorten


@HOOKS.register_module()
class DistillHook(Hook):
    """Add to a training's losses how far outputs of the network are from those of a dense teacher.

    Each iteration the teacher gets what the student got (after the data preprocessor) and the same random numbers; it
    is in evaluation mode, without gradients, and stops when it has said what is compared. Of a module that is called
    several times in a forward (frames of a video, say) the last call counts. The terms stand in the dict of losses as
    ``loss_distill_NAME``. The hook sits on the module inside a DDP wrapper and within autocast. The teacher is no
    part of the student: nothing of it is in a state_dict, an optimizer or a checkpoint, and nothing has to be resumed.

    A slim student says less than its teacher: it has fewer channels or queries. What it still has is compared; which
    positions these are, its ``structure`` tells (see ``kept`` of :class:`DistillLoss`). There are no adapters.

    Order: any; it acts in ``before_train``, when weights are loaded, and in the forward.

    Args:
        teacher: ``checkpoint``: a file with its weights. ``model``: config of its architecture; without it that of
            the config's own model, without slimming unless the checkpoint is slim too.
        losses: arguments of :class:`DistillLoss`, one dict each.
        in_training: modules of the teacher in training mode: those that augment (a grid mask). The student's draw the
            same numbers if they draw before anything that only the student has (dropout).
        own: factor of the student's own losses.
    """

    def __init__(
        self, teacher: Mapping, losses: Sequence[Mapping], in_training: Sequence[str] = (), own: float = 1.0
    ) -> None:
        if not isinstance(teacher, Mapping) or 'checkpoint' not in teacher or set(teacher) - {'checkpoint', 'model'}:
            raise UserError(f'DistillHook: teacher needs a checkpoint, and may have a model; it is {teacher!r:.80}')
        self.teacher_cfg = dict(teacher)
        self.losses = [DistillLoss(**loss) for loss in losses]
        if not self.losses:
            raise UserError('DistillHook: losses is empty, there is nothing to learn from the teacher')
        twice = [name for name, count in Counter(loss.name for loss in self.losses).items() if count > 1]
        if twice:
            raise UserError(f'DistillHook: two losses are named {twice[0]!r}; give them a name')
        self.in_training, self.own = tuple(in_training), own
        self.teacher: nn.Module | None = None
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Build the teacher, and listen to both."""
        student = runner.model.module if is_model_wrapper(runner.model) else runner.model
        with random_state_from():
            self.teacher, structure = self._build(runner.cfg)
        device = next((parameter.device for parameter in student.parameters()), torch.device('cpu'))
        self.teacher.to(device)
        kept = Kept(getattr(student, 'structure', None), structure)
        self._handles = distill(student, self.teacher, self.losses, kept, self.own)
        runner.logger.info(
            f'Distillation from {self.teacher_cfg["checkpoint"]}: ' + ', '.join(loss.name for loss in self.losses)
        )

    def after_train(self, runner: Runner) -> None:
        """Take the hooks off and forget the teacher."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.teacher = [], None

    def _build(self, cfg: Config) -> tuple[nn.Module, Any]:
        """The teacher with its weights, frozen, in evaluation mode; and its structure, None if it is dense."""
        source = self.teacher_cfg['checkpoint']
        content = load_checkpoint(source)
        architecture = self.teacher_cfg.get('model') or cfg.model
        if str(architecture['type']).rpartition('.')[2] == 'SlimModel':
            architecture = architecture['architecture']
        architecture = without_pretrained(copy.deepcopy(architecture))
        if cfg.get('data_preprocessor') is not None:
            architecture.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the Runner does
        structure = checkpoint_structure(content)
        if structure is not None:
            architecture = dict(type='vadslim.SlimModel', architecture=architecture, structure=structure)
            structure = read_structure(structure)
        teacher = MODELS.build(architecture)
        state = {name.removeprefix('module.'): value for name, value in content.get('state_dict', content).items()}
        problems = differences(teacher, state)
        if problems:
            raise CheckpointError(f'teacher {source} is not one of {type(teacher).__name__}: {shorten(problems)}')
        teacher.load_state_dict(state)
        teacher.eval().requires_grad_(False)
        for name in self.in_training:
            module = _module(teacher, name, f'in_training: {name}')
            for part in module.modules():
                part.training = True
        return teacher, structure


def distill_config(cfg: Config, checkpoint: str) -> dict:
    """The config of a hook that teaches a slim network of a config what the original checkpoint says.

    Args:
        cfg: of the slim or the dense network; its ``distillation`` holds the hook's other arguments.
        checkpoint: the teacher's.

    Raises:
        UserError: the config does not say what to compare.
    """
    settings = cfg.get('distillation')
    if not settings or not settings.get('losses'):
        raise UserError(
            f'{cfg.filename or "the config"}: distillation = dict(losses=[...]) is missing; it says which outputs of '
            'the teacher count (configs/_base_/distillation/vad.py has those of VAD)'
        )
    return {**settings.to_dict(), 'type': 'vadslim.DistillHook', 'teacher': {'checkpoint': str(checkpoint)}}


@contextlib.contextmanager
def random_state_from(state: dict[str, Any] | None = None) -> Iterator[None]:
    """Random numbers are drawn from a state (else from the present one); afterwards nothing has been drawn."""
    present = random_state()
    try:
        if state is not None:
            set_random_state(state)
        yield
    finally:
        set_random_state(present)


class _Enough(Exception):  # noqa: N818  no error
    """The teacher has said everything."""


class _Listener:
    """Keeps the last outputs of some modules while it is ``on``.

    Args:
        model: whose modules they are.
        names: of the modules in the dense network -> in this one.

    Attributes:
        latest: name -> output.
        calls: name -> how often the module was called.
        expected: ends the forward by ``_Enough`` when the modules were called that often.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str | None]) -> None:
        self.model, self.names = type(model).__name__, list(names)
        self.on = False
        self.latest: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.expected: Counter[str] | None = None
        self.handles = [
            _module(model, here, f'losses: {name}').register_forward_hook(self._hear(name))
            for name, here in names.items()
        ]

    def _hear(self, name: str) -> Callable[..., None]:
        def hear(module: nn.Module, args: tuple, output: Any) -> None:
            if not self.on:
                return
            # what follows may write into a layer's output (ReLU in place), and the teacher may stop before that
            self.latest[name] = output.clone() if isinstance(output, torch.Tensor) else output
            self.calls[name] += 1
            if self.calls == self.expected:
                raise _Enough

        return hear

    def start(self, expected: Counter[str] | None = None) -> None:
        self.on, self.latest, self.calls, self.expected = True, {}, Counter(), expected

    def stop(self) -> dict[str, Any]:
        """What was said; nothing is held any longer.

        Raises:
            UserError: a module said nothing.
        """
        latest, self.on, self.latest = self.latest, False, {}
        silent = [name for name in self.names if name not in latest]
        if silent:
            raise UserError(f'distillation: {silent[0]} was not called in the forward of {self.model}')
        return latest


def distill(
    student: nn.Module, teacher: nn.Module, losses: Sequence[DistillLoss], kept: Kept, own: float = 1.0
) -> list[Any]:
    """Let every forward of a student in mode 'loss' ask the teacher too.

    Args:
        student: MMEngine's kind of model: a forward with ``mode``, which returns a dict of losses for 'loss'.
        teacher: called with the same arguments.
        losses: what is compared.
        kept: which positions of the teacher's outputs the student has.
        own: factor of the student's own losses.

    Returns:
        Handles whose ``remove`` ends it.
    """
    names = sorted({loss.module for loss in losses} | {loss.confidence[0] for loss in losses if loss.confidence})
    mine = _Listener(student, {name: kept.student_edits.slim_name(name) for name in names})
    theirs = _Listener(teacher, {name: kept.teacher_edits.slim_name(name) for name in names})
    signature = inspect.signature(student.forward)
    started: list[dict[str, Any]] = []  # the random state at the student's start

    def wanted(args: tuple, kwargs: dict) -> bool:
        return signature.bind(*args, **kwargs).arguments.get('mode') == 'loss'

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if wanted(args, kwargs):
            started[:] = [random_state()]
            mine.start()

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if not wanted(args, kwargs):
            return None
        calls, said = mine.calls, mine.stop()
        theirs.start(calls)
        with random_state_from(started.pop()), torch.no_grad(), contextlib.suppress(_Enough):
            teacher(*args, **kwargs)
        taught = theirs.stop()
        mine_own = {name: _times(value, own) if 'loss' in name else value for name, value in output.items()}
        return {**mine_own, **{f'loss_distill_{loss.name}': loss(said, taught, kept) for loss in losses}}

    return [
        *mine.handles,
        *theirs.handles,
        student.register_forward_pre_hook(before, with_kwargs=True),
        student.register_forward_hook(after, with_kwargs=True),
    ]


def _times(loss: Any, factor: float) -> Any:
    """A loss as MMEngine knows them: a tensor, or a list of tensors."""
    if factor == 1:
        return loss
    return [part * factor for part in loss] if isinstance(loss, list | tuple) else loss * factor


def _module(model: nn.Module, name: str | None, where: str) -> nn.Module:
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    raise UserError(f'DistillHook: {where}: {type(model).__name__} has no such module')
