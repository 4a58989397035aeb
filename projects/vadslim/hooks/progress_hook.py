"""ProgressHook: where a training is and when it will end, in one line at the bottom of the terminal."""

import atexit
import logging
import sys
import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Draw a bar with epoch, iteration, loss and remaining time, if standard error is a terminal; else do nothing.

    Lines of the log appear above it. The bar is drawn by the training's own thread, every ``interval`` seconds at
    most: workers are forked from this process, and a lock that another thread holds would stay locked in them. It is
    erased when the training ends, with the process at the latest; :meth:`stop` does it when the training fails.

    The remaining time is the training's; validations do not count.

    Order: VERY_LOW, after RuntimeInfoHook has noted the loss.

    Args:
        name: what is trained, for people.
        interval: seconds between drawings. One takes about 2 ms.
    """

    priority = 'VERY_LOW'

    def __init__(self, name: str = '', interval: float = 0.5) -> None:
        self.name, self.interval = name, interval
        self._progress: Progress | None = None
        self._training: TaskID | None = None
        self._checking: TaskID | None = None
        self._drawn = 0.0
        self._streams: list[tuple[logging.StreamHandler, Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Begin to draw."""
        if not (is_main_process() and sys.stderr.isatty()):
            return
        self.stop()
        self._start(runner)
        assert self._progress is not None
        self._training = self._progress.add_task(self._say(runner), total=runner.max_iters, completed=runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move on."""
        self._move(self._training, runner.iter + 1, runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Show a second bar."""
        if self._progress is not None and self._checking is None:
            total = len(runner.val_dataloader) if hasattr(runner.val_dataloader, '__len__') else None
            self._checking = self._progress.add_task('  validation', total=total)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move on."""
        self._move(self._checking, batch_idx + 1, None)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remove the second bar."""
        if self._progress is not None and self._checking is not None:
            self._progress.remove_task(self._checking)
            self._checking = None

    def after_train(self, runner: Runner) -> None:
        """Erase the bar."""
        self.stop()

    def stop(self) -> None:
        """Erase what is drawn and give the terminal back; once more does nothing."""
        if self._progress is None:
            return
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._progress.stop()
        atexit.unregister(self.stop)
        self._progress = self._training = self._checking = None
        self._streams = []

    def _start(self, runner: Runner) -> None:
        columns = [TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn()]
        columns.append(TimeRemainingColumn(elapsed_when_finished=True))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
        terminals = {id(stream): name for name in ('stdout', 'stderr') if (stream := getattr(sys, name)).isatty()}
        self._progress.start()  # puts its own streams into sys
        atexit.register(self.stop)
        for handler in runner.logger.handlers:  # it has kept the streams that were there before
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in terminals:
                name = terminals[id(handler.stream)]
                self._streams.append((handler, handler.setStream(getattr(sys, name))))

    def _move(self, task: TaskID | None, done: int, runner: Runner | None) -> None:
        if self._progress is None or task is None:
            return
        now = time.monotonic()
        if now - self._drawn < self.interval:
            return
        self._drawn = now
        if runner is None:
            self._progress.update(task, completed=done)
        else:
            self._progress.update(task, completed=done, description=self._say(runner))
        self._progress.refresh()

    def _say(self, runner: Runner) -> str:
        parts = [self.name] if self.name else []
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            parts.append(f'epoch {runner.epoch + 1}/{runner.max_epochs}')
        scalars = runner.message_hub.log_scalars
        if 'train/loss' in scalars:  # RuntimeInfoHook has fetched it from the device already
            parts.append(f'loss {scalars["train/loss"].current():.4g}')
        return '  '.join(parts)
