"""Going on with a training that was saved in an old layout: its moments, and the run's own schedule where it stands."""

import itertools
import warnings
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from ..cli import UserError
from ..old_layouts import is_old_layout
from .fine_tune_hook import keep_moments
from .fine_tune_schedule import FineTuneLR


def fit_optimizer(runner: Runner, checkpoint: dict[str, Any]) -> bool:
    """Fit the optimizer's state of an old layout to a run that resumes it, in place; what does not fit is dropped.

    Returns:
        Whether the checkpoint is in an old layout.
    """
    if not is_old_layout(checkpoint):
        return False
    wrapper = runner.optim_wrapper
    if 'optimizer' in checkpoint and isinstance(wrapper, OptimWrapper):
        fits = not isinstance(wrapper, OptimWrapperDict) and keep_moments(checkpoint['optimizer'], wrapper, runner)
        if not fits:
            del checkpoint['optimizer']
    return True


def advance_schedulers(runner: Runner) -> None:
    """Let the schedulers, whose states an old layout does not tell, stand where the resumed run stands.

    Raises:
        UserError: they end before.
    """
    groups = runner.param_schedulers or []
    for scheduler in itertools.chain(*(groups.values() if isinstance(groups, dict) else [groups])):
        if isinstance(scheduler, FineTuneLR):  # it has been told where to start
            continue
        count = runner.epoch if scheduler.by_epoch else runner.iter
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # that the optimizer has not stepped: it has, in another process
                for _ in range(count):
                    scheduler.step()
        except ValueError as error:  # a OneCycleLR that is over
            unit = 'epochs' if scheduler.by_epoch else 'iterations'
            raise UserError(f'the checkpoint has {count} {unit}, {type(scheduler).__name__}: {error}') from None
