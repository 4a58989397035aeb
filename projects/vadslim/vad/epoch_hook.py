"""Tells the criterion which epoch it is."""

from mmdet3d.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner


@HOOKS.register_module(name=['VADSetEpochHook', 'CustomSetEpochInfoHook'])
class SetEpochHook(Hook):
    """Sets ``criterion.epoch`` before each epoch of training, counted from 0; ``use_traj_lr_warmup`` needs it.

    The second name is that of the original's configs. Its order among the hooks does not matter.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.criterion.epoch = runner.epoch
