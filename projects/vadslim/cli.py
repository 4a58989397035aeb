"""What every command line of vadslim shares: one line for a user's mistake, and the exit codes.

0: done; 2: the user can mend it (one line says what, where and what is allowed); 130: Ctrl-C. Anything else
is a fault of ours and keeps its traceback.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence


class UserError(RuntimeError):
    """Something that the user can mend; the message is one line."""


def is_user_error(error: BaseException) -> bool:
    """Tell a user's mistake from a fault of ours. Imports late: ``--help`` need not wait for torch."""
    if isinstance(error, UserError):
        return True
    from .checkpoint import CheckpointError
    from .pruning import GroupError, PatternError, RuleError, StructureError, TargetError

    return isinstance(error, CheckpointError | GroupError | PatternError | RuleError | StructureError | TargetError)


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command and turn what it raises into an exit code.

    Args:
        main: takes the arguments without the program's name; may return an exit code.
        argv: defaults to ``sys.argv[1:]``.

    Returns:
        The exit code for ``sys.exit``.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # torchrun stops its workers so: let them close what they have open
    try:
        return main(sys.argv[1:] if argv is None else argv) or 0
    except KeyboardInterrupt:
        say('interrupted')
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it does not raise again
        return 141
    except Exception as error:
        if _was_interrupted(error):
            say('interrupted')
            return 130
        if not is_user_error(error):
            raise
        say(f'error: {_line(error)}')
        return 2


def _line(error: Exception) -> str:
    """The message on one line. A data loader raises its workers' errors anew, their traceback in the message."""
    text = str(error)
    if text.startswith('Caught '):
        text = text.rpartition(f'{type(error).__name__}: ')[2]
    return ' '.join(text.split())


def say(line: str) -> None:
    """Print one line to the user, once for all ranks."""
    if os.environ.get('RANK', '0') == '0':
        print(line, file=sys.stderr, flush=True)


def _was_interrupted(error: BaseException | None) -> bool:
    """Tell whether Ctrl-C is behind an error: MMEngine's bare excepts turn it into others."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _stop(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)
