"""What every command line of vadslim shares: one line for a user's mistake, and the exit codes.

0: done; 2: the user can mend it (one line says what, where and what is allowed); 130: Ctrl-C. Anything else
is a fault of ours and keeps its traceback.
"""

import argparse
import contextlib
import errno
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .locks import release

_RUNNING: list[Any] = []  # the command that this process runs
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a user's share of it, a file
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class UserError(RuntimeError):
    """Something that the user can mend; the message is one line."""


def is_user_error(error: BaseException) -> bool:
    """Tell a user's mistake from a fault of ours. Imports late: ``--help`` need not wait for torch."""
    if isinstance(error, UserError):
        return True
    from .checkpoint import CheckpointError
    from .pruning import GroupError, PatternError, RuleError, StructureError, TargetError
    from .sparse import SparseError

    mistakes = GroupError | PatternError | RuleError | SparseError | StructureError | TargetError
    return isinstance(error, CheckpointError | mistakes)


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command and turn what it raises into an exit code.

    Args:
        main: takes the arguments without the program's name; may return an exit code.
        argv: defaults to ``sys.argv[1:]``.

    Returns:
        The exit code for ``sys.exit``. A command that another one runs raises what it has to say, and the outer one
        answers.
    """
    argv = sys.argv[1:] if argv is None else argv
    if _RUNNING:
        return main(argv) or 0
    _RUNNING.append(main)
    try:
        with _stoppable():
            return _call(main, argv)
    finally:
        _RUNNING.clear()
        release()


def _call(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = Path(os.devnull).open('w', encoding='utf-8')  # noqa: SIM115  as long as the process
    try:
        try:
            return main(argv) or 0
        finally:
            sys.stdout.flush()  # what cannot be written is known now, not when Python ends
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as end:  # --help, SIGTERM
        if end.code is not None and not isinstance(end.code, int):
            raise
        return end.code or 0
    except BrokenPipeError:
        _drop_output()
        return 141
    except Exception as error:
        if was_interrupted(error):
            return _interrupted()
        if isinstance(error, OSError) and error.errno in FULL:
            _drop_output()
            _complain(f'{error.filename or "the output, or a file"}: cannot be written: {error.strerror}')
            return 2
        if not is_user_error(error):
            raise
        _complain(_line(error))
        return 2


def _drop_output() -> None:
    """Let what is left in the buffer go nowhere, so that closing it does not raise again."""
    with contextlib.suppress(OSError, ValueError):  # a file that is none, in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str) -> None:
    """Print one line to the user, once for all ranks."""
    if _rank() == 0:
        print(line, file=sys.stderr, flush=True)


def _complain(line: str) -> None:
    """Print an error. Of several processes the first to end ends the others: rank 0 goes first, so that what all
    of them find is said once, and what only another finds is said too.
    """
    if _rank():
        time.sleep(1)
        line = f'process {_rank()}: {line}'
    print(f'error: {line}', file=sys.stderr, flush=True)


def _rank() -> int:
    return int(os.environ.get('RANK', 0))


def _line(error: Exception) -> str:
    """The message on one line. A data loader raises its workers' errors anew, their traceback in the message."""
    text = str(error)
    if text.startswith('Caught '):
        text = text.rpartition(f'{type(error).__name__}: ')[2]
    return ' '.join(text.split())


def _interrupted() -> int:
    if 'TORCHELASTIC_RUN_ID' not in os.environ:  # or whoever started torchrun says so
        say('interrupted')
    return 130


def was_interrupted(error: BaseException | None) -> bool:
    """Tell whether Ctrl-C is behind an error: MMEngine's bare excepts turn it into others."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM (torchrun's word to its workers: they close their files) with an exception, and
    with no other words: data-loading workers that lose their reader would each print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped: list[int] = []
    owner = os.getpid()
    busy = threading.Event()

    def stop(signum: int, frame: object) -> None:
        if os.getpid() != owner:  # a worker, signalled with its group: its parent ends it, if it need not end now
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if busy.is_set():  # a second signal amid the first one's loop
            return
        busy.set()
        stopped.append(signum)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise for each worker that ends
        # only who has imported it has children, and commands that read headers are done before it is
        for child in getattr(sys.modules.get('multiprocessing'), 'active_children', list)():
            child.kill()
        busy.clear()
        raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)

    def drop(lost: Any) -> None:  # what Python cannot raise: it forks a worker just now, or an object dies
        if not stopped:
            sys.__unraisablehook__(lost)
        elif lost.exc_type in (KeyboardInterrupt, SystemExit):
            threading.Timer(0.1, os.kill, (os.getpid(), stopped[0])).start()

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, sys.unraisablehook = sys.unraisablehook, drop
    try:
        yield
    finally:
        if stopped:
            gc.collect()  # half-made loaders complain when they die
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


# --- arguments ----------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as those of the rest; options are written in full."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments."""
        raise UserError(f'{message} (see --help)')


def fraction(text: str) -> float:
    """Read a fraction to remove: at least 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a fraction to remove: at least 0 and below 1')
    return value


def at_least(least: int) -> Callable[[str], int]:
    """Make a reader of whole numbers."""

    def number(text: str) -> int:
        if not text.lstrip('+-').isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text} is not a whole number of at least {least}')
        return int(text)

    return number


def add_machine_options(parser: argparse.ArgumentParser) -> Any:
    """Add the options that :func:`vadslim.launch.choose_machine` takes; returns their group."""
    group = parser.add_argument_group('the machine')
    add = group.add_argument
    add('--gpus', type=at_least(1), metavar='N', help='number of GPUs; without CUDA, of CPU processes (1)')
    add('--gpu-ids', type=at_least(0), nargs='+', metavar='ID', help='which of the visible GPUs')
    add('--launcher', choices=LAUNCHERS, help='who starts the processes (torchrun, by this command)')
    add('--local_rank', '--local-rank', type=int, help='accepted for torch.distributed.launch, not used')
    return group


def add_config_options(parser: Any) -> None:
    """Add ``--cfg-options``, texts for :func:`vadslim.options.merge_texts`."""
    parser.add_argument(
        '--cfg-options',
        '--options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='put values over the config: a.b=1 c="[1,2]"; a key that does not exist is an error',
    )
