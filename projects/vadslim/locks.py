"""One command at a time in a folder: a lock that no process can leave behind, however it ends."""

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

LOCK = '.step.lock'
_HELD: dict[Path, int] = {}  # folder -> the open file by which this process has locked it
os.register_at_fork(after_in_child=_HELD.clear)


class LockedError(Exception):
    """Another process has the folder; the message says which, as far as is known."""


def hold(folder: Path) -> str | None:
    """Lock a folder for this process, until :func:`release` or its end, also by ``kill -9``.

    The lock is of the kind that a forked process, such as a data-loading worker, neither has nor keeps. Once more by
    the same process does nothing.

    Args:
        folder: it is there.

    Returns:
        Why there is no lock, if the file system has none.

    Raises:
        LockedError: another process holds it.
        OSError: the folder cannot be written.
    """
    folder = folder.resolve()
    path = folder / LOCK
    while folder not in _HELD:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(file, 200).decode(errors='replace')
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise LockedError(owner or 'another process') from None
            path.unlink(missing_ok=True)
            return error.strerror
        if not _is(file, path):  # whoever held it has removed it since it was opened
            os.close(file)
            continue
        with suppress(OSError):  # for people; a full disk is told by whoever writes more
            os.ftruncate(file, 0)
            os.write(file, f'process {os.getpid()} on {socket.gethostname()}'.encode())
        _HELD[folder] = file
    return None


def release(folder: Path | None = None) -> None:
    """Give up the lock of a folder, or all of this process; what it does not hold stays."""
    for held in list(_HELD) if folder is None else [folder.resolve()]:
        if (file := _HELD.pop(held, None)) is None:
            continue
        if _is(file, held / LOCK):
            with suppress(OSError):
                (held / LOCK).unlink()  # before it is given up: afterwards it may be another's
        os.close(file)


def _is(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
