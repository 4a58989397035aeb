"""ProgressHook: where a training or a test is and when it will end, in one line at the bottom of the terminal."""

import atexit
import logging
import sys
import time
from typing import Any, ClassVar

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Draw a bar with epoch, iteration, loss and remaining time, if standard error is a terminal; else do nothing.

    A validation or a test has a bar as well.

    Lines of the log appear above it, unbroken. The bar is drawn by the training's own thread, every ``interval``
    seconds at most: workers are forked from this process, and a lock that another thread holds would stay locked in
    them. It is erased when the training ends; after a failure with the process, or when the next bar begins.

    The remaining time is the training's; validations do not count.

    Order: VERY_LOW, after RuntimeInfoHook has noted the loss.

    Args:
        name: what is trained, for people.
        interval: seconds between drawings. One takes about 2 ms.
    """

    priority = 'VERY_LOW'
    _shown: ClassVar['ProgressHook | None'] = None  # a terminal has room for one

    def __init__(self, name: str = '', interval: float = 0.5) -> None:
        self.name, self.interval = name, interval
        self._progress: Progress | None = None
        self._training: TaskID | None = None
        self._checking: TaskID | None = None
        self._drawn = 0.0
        self._streams: list[tuple[logging.StreamHandler, Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Begin to draw."""
        self._start(runner)
        if self._progress is not None:
            self._training = self._progress.add_task(self._say(runner), total=runner.max_iters, completed=runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move on."""
        self._move(self._training, runner.iter + 1, runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Show a bar, in a training a second one."""
        self._begin_check(runner, 'validation', runner.val_dataloader)

    def before_test_epoch(self, runner: Runner) -> None:
        """Show a bar."""
        self._begin_check(runner, 'test', runner.test_dataloader)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move on."""
        self._move_check(batch_idx + 1)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move on."""
        self._move_check(batch_idx + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remove the validation's bar."""
        self._end_check()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remove the test's bar."""
        self._end_check()

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
        self._progress = self._training = self._checking = ProgressHook._shown = None
        self._streams = []

    def _begin_check(self, runner: Runner, what: str, loader: Any) -> None:
        if self._training is None:
            self._start(runner)
        if self._progress is None or self._checking is not None:
            return
        words = f'  {what}' if self._training is not None else f'{self.name}  {what}'.strip()
        self._checking = self._progress.add_task(words, total=len(loader) if hasattr(loader, '__len__') else None)

    def _move_check(self, done: int) -> None:
        if self._progress is None or self._checking is None:
            return
        if done == self._progress.tasks[-1].total:  # what comes now has no length
            self._drawn = 0.0
            self._progress.update(self._checking, description=f'{self._progress.tasks[-1].description}: metrics')
        self._move(self._checking, done, None)

    def _end_check(self) -> None:
        if self._training is None:
            self.stop()
        elif self._progress is not None and self._checking is not None:
            self._progress.remove_task(self._checking)
            self._checking = None

    def _start(self, runner: Runner) -> None:
        if self._shown is not None:
            self._shown.stop()
        if not (is_main_process() and sys.stderr.isatty()):
            return
        columns = [TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn()]
        columns.append(TimeRemainingColumn(elapsed_when_finished=True))
        self._progress = Progress(*columns, console=_Unbroken(stderr=True), transient=True, auto_refresh=False)
        terminals = {id(stream): name for name in ('stdout', 'stderr') if (stream := getattr(sys, name)).isatty()}
        self._progress.start()  # puts its own streams into sys
        ProgressHook._shown = self
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


class _Unbroken(Console):
    """Leaves lines that are longer than the terminal is wide to the terminal: they can be copied whole."""

    @property
    def size(self) -> ConsoleDimensions:
        """The terminal's, less the ``^C`` that it writes after the bar: in a line of its own the bar would stay."""
        width, height = super().size
        return ConsoleDimensions(max(width - 2, 1), height)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print without breaking lines."""
        super().print(*objects, **{'soft_wrap': True, **options})
