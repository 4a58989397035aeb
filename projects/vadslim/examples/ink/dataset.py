"""Strokes as a data set for MMEngine, and the hook that leads it through the curriculum."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

from ...cli import UserError
from ...registry import DATASETS, HOOKS
from . import strokes


def check_stage(value: Any, what: str) -> int:
    """Check the number of a curriculum stage.

    Raises:
        UserError: there is no such stage.
    """
    if type(value) is not int or not 0 <= value < len(strokes.CURRICULUM):
        raise UserError(f'{what} {value!r}: a whole number from 0 to {len(strokes.CURRICULUM) - 1}')
    return value


@DATASETS.register_module()
class Strokes(Dataset):
    """Images of strokes with their targets, drawn when asked for; see :func:`strokes.render`.

    A sample is a function of (seed, curriculum stage, epoch, index), so that it is the same in whichever worker or
    process draws it. Each epoch has samples of its own once :class:`CurriculumHook` tells the epoch; without it
    they are those of epoch 0, as validation wants them.

    Args:
        epoch_length: number of samples.
        curriculum_stage: 0 to 9; of several, sample i is of the (i mod n)-th.
        seed: sets with different seeds have no sample in common.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, epoch_length: int = 10000, curriculum_stage: int | Sequence[int] = 0, seed: int = 0) -> None:
        if type(epoch_length) is not int or epoch_length < 1:
            raise UserError(f'Strokes: epoch_length {epoch_length!r}: a whole number of at least 1')
        if type(seed) is not int or seed < 0:
            raise UserError(f'Strokes: seed {seed!r}: a whole number of at least 0')
        self.epoch_length = epoch_length
        self.seed = seed
        self.start_epoch(0, curriculum_stage)

    def start_epoch(self, epoch: int, curriculum_stage: int | Sequence[int]) -> None:
        """Choose the samples from now on. A worker has a copy of this object and does not hear of it."""
        stages = [curriculum_stage] if isinstance(curriculum_stage, int) else list(curriculum_stage)
        if not stages:
            raise UserError('Strokes: curriculum_stage: at least one')
        self.stages = [check_stage(stage, 'Strokes: curriculum_stage') for stage in stages]
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw a sample.

        Returns:
            ``inputs`` (1, 64, 64), ``targets``: the maps of :func:`strokes.render` by name, and ``stage``.
        """
        if not 0 <= index < self.epoch_length:
            raise IndexError(index)  # also what ends a loop over the data set
        stage = self.stages[index % len(self.stages)]
        maps = strokes.sample(self.seed, stage, self.epoch * self.epoch_length + index)
        tensors: dict[str, Tensor] = {name: torch.from_numpy(value) for name, value in maps.items()}
        return {'inputs': tensors.pop('image'), 'targets': tensors, 'stage': stage}


@HOOKS.register_module()
class CurriculumHook(Hook):
    """Give :class:`Strokes` new samples each epoch, of a curriculum stage that rises with the epochs.

    The stage follows from the Runner's epoch alone, so it is right after a resume too. The data set is told before
    the epoch's workers are started; workers that live on from the last epoch (``persistent_workers``) hold copies
    that nobody can tell, so they are started anew.

    Order: any; it draws no random numbers and RandomStateHook's seeds of workers are kept.

    Args:
        start_stage: curriculum stage of epoch 0.
        end_stage: the last one, which stays to the end; by default there is no other than the first.
        epochs_per_stage: epochs from one stage to the next.

    Raises:
        UserError: there is no such stage, the last one comes before the first, or epochs_per_stage is below 1.
    """

    def __init__(self, start_stage: int = 0, end_stage: int | None = None, epochs_per_stage: int = 1) -> None:
        self.start_stage = check_stage(start_stage, 'curriculum.start_stage')
        self.end_stage = check_stage(start_stage if end_stage is None else end_stage, 'curriculum.end_stage')
        if self.end_stage < self.start_stage:
            raise UserError(f'curriculum.end_stage {end_stage}: is before start_stage {start_stage}')
        if type(epochs_per_stage) is not int or epochs_per_stage < 1:
            raise UserError(f'curriculum.epochs_per_stage {epochs_per_stage!r}: a whole number of at least 1')
        self.epochs_per_stage = epochs_per_stage

    def stage(self, epoch: int) -> int:
        """Get the curriculum stage of an epoch, the first being 0."""
        return min(self.start_stage + epoch // self.epochs_per_stage, self.end_stage)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the data set before the loader starts its workers."""
        loader, stage = runner.train_dataloader, self.stage(runner.epoch)
        loader.dataset.start_epoch(runner.epoch, stage)
        loader._iterator = None
        runner.message_hub.update_scalar('train/curriculum_stage', stage)
        if runner.epoch == 0 or stage != self.stage(runner.epoch - 1):
            runner.logger.info(f'Curriculum stage {stage} from epoch {runner.epoch + 1} on')
