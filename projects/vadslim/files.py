"""Files that are whole or not there."""

import contextlib
import errno
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_write(path: StrPath, mode: str = 'w') -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name only when it is whole and on the disk.

    It is written under a temporary name in the same folder, synced and renamed. On any failure, Ctrl-C
    included, the temporary file is removed and what stood under ``path`` before stays.

    Args:
        path: the final name; its folder exists.
        mode: ``'w'`` for UTF-8 text or ``'wb'``.

    Raises:
        OSError: it cannot be written, or is a device or a pipe: a rename would put a file in its place.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # of a folder the system says it
        raise OSError(errno.EINVAL, 'is no ordinary file', str(path))
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with temporary.open(mode, encoding=None if 'b' in mode else 'utf-8') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def remove_leftovers(path: StrPath) -> None:
    """Remove what an :func:`atomic_write` has left whose process was killed.

    Args:
        path: what was to be written, or a folder: any file in it.
    """
    path = Path(path)
    folder, name = (path, '*') if path.is_dir() else (path.parent, glob.escape(path.name))
    for file in folder.glob(f'.{name}.*.tmp'):
        owner = file.suffixes[-2].removeprefix('.')
        if owner.isdecimal() and not _is_running(int(owner)):
            file.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
