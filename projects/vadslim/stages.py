"""Steps that talk through files: a whole one is reused, an incomplete one goes on, a foreign folder is left
alone.

A step owns a folder. ``step.json`` in it says that it is ours and for which recipe; ``done.json``, written
last, by rename, says that it is whole: all outputs, with their sizes. The recipe is the hash of the resolved
config and flags (plain data) and of the contents of the input files, so the same command twice does the work
once. A lock keeps a second command out while the work is done.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .checkpoint import StrPath, atomic_write
from .cli import UserError, say
from .files import remove_leftovers
from .locks import LOCK, LockedError, hold, release

FORMAT = 1
MARK, DONE = 'step.json', 'done.json'


class StepError(UserError):
    """A folder that a step cannot use; the message is one line for the user."""


class OtherRecipeError(StepError):
    """It holds the results of another recipe."""


@dataclass(frozen=True)
class Step:
    """An opened step.

    Args:
        name: what the step does, for people.
        folder: where its outputs go.
        recipe: hash of everything the outputs depend on.
        resumed: the folder holds an unfinished attempt of the same recipe; whether its files are of use is
            the worker's to say.
    """

    name: str
    folder: Path
    recipe: str
    resumed: bool = False

    @property
    def done(self) -> dict[str, Any] | None:
        """What ``done.json`` holds if the step is whole: ``outputs`` (path in the folder -> bytes) and
        ``result``.
        """
        done = _read(self.folder / DONE)
        if done is None or done.get('recipe') != self.recipe:
            return None
        sizes = done.get('outputs', {})
        whole = all(_size(self.folder / name) == size for name, size in sizes.items())
        return done if whole else None

    def finish(self, outputs: Iterable[StrPath], result: Any = None, seconds: float | None = None) -> dict[str, Any]:
        """Declare the step whole.

        Args:
            outputs: files in the folder, absolute or relative to it.
            result: plain data for whoever reuses the step (numbers for a table, say).
            seconds: how long the work took.

        Returns:
            What ``done.json`` holds.
        """
        sizes = {}
        for output in outputs:
            path = self.folder / output
            size = _size(path)
            if size is None:
                raise StepError(f'{path}: step {self.name} should have written it')
            sizes[os.path.relpath(path, self.folder)] = size
        done = {
            'format': FORMAT,
            'name': self.name,
            'recipe': self.recipe,
            'outputs': sizes,
            'result': result,
        }
        if seconds is not None:
            done['seconds'] = round(seconds, 3)
        _write(self.folder / DONE, done)
        release(self.folder)
        return done


def recipe_hash(recipe: Any, inputs: Mapping[str, StrPath] | None = None) -> str:
    """Hash plain data (a resolved config, flags) and the contents of input files; their paths do not count.

    Raises:
        StepError: an input file is missing.
    """
    contents = {name: file_hash(path) for name, path in sorted((inputs or {}).items())}
    text = json.dumps([recipe, contents], sort_keys=True, default=_plain, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: StrPath) -> str:
    """SHA-256 of a file's contents."""
    try:
        with Path(path).open('rb') as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 22):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise StepError(f'{path}: {error.strerror}') from None


def open_step(
    folder: StrPath,
    name: str,
    recipe: Any,
    inputs: Mapping[str, StrPath] | None = None,
    overwrite: bool = False,
    leaves: Sequence[str] = (),
    adopt: bool = False,
) -> Step:
    """Take a folder for a step, or find that it is there already.

    Args:
        folder: created if missing. An empty one is ours to take.
        name: what the step does.
        recipe: plain data.
        inputs: name -> file whose contents the outputs depend on.
        overwrite: clear the folder of a step of ours with another recipe: its outputs, what ``leaves`` named
            when it began, and temporary files go. Other steps' folders and files that are not ours stay.
        leaves: fnmatch patterns of the names that the work leaves in the folder, also when it is not finished.
        adopt: go on in the folder of a step of ours with another recipe as if it were this one's.

    Returns:
        The step; it is whole if :attr:`Step.done` is not None.

    Raises:
        StepError: a folder of another recipe, one that is not ours, one that cannot be written.
        UserError: another command is at work in it. Until the step is finished, or the command ends, this one is.
    """
    folder = Path(folder)
    digest = recipe_hash(recipe, inputs)
    if folder.exists() and not folder.is_dir():
        raise StepError(f'{folder}: is a file, a folder for the results of {name} is needed')
    mark = _read(folder / MARK)
    if mark is None and folder.exists() and _strangers(folder):
        raise StepError(f'{folder}: holds files that are not of vadslim; choose a new or empty folder')
    known = Step(name, folder, digest, resumed=True)
    if mark is not None and mark.get('recipe') == digest and known.done:
        return known  # many may read it at once
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, 'Permission denied')
        lock(folder)
    except OSError as error:
        raise StepError(f'{folder}: cannot be written: {error.strerror}') from None
    try:
        return _take(folder, name, digest, overwrite, leaves, adopt)
    except BaseException:
        release(folder)
        raise


def _take(folder: Path, name: str, recipe: str, overwrite: bool, leaves: Sequence[str], adopt: bool) -> Step:
    """Put the mark into a folder that is locked, if it can be had; see :func:`open_step`."""
    remove_leftovers(folder)
    mark = _read(folder / MARK)
    resumed = mark is not None and mark.get('recipe') == recipe
    if mark is not None and not resumed and not adopt:
        if not overwrite:
            raise OtherRecipeError(
                f'{folder}: holds the results of another {mark.get("name", "step")} (config, flags or inputs '
                'differ); choose another folder or give --overwrite'
            )
        _clear(folder, mark.get('leaves', []))
    if not resumed:
        try:
            _write(folder / MARK, {'format': FORMAT, 'name': name, 'recipe': recipe, 'leaves': list(leaves)})
        except OSError as error:
            raise StepError(f'{folder}: cannot be written: {error.strerror}') from None
    return Step(name, folder, recipe, resumed)


def lock(folder: Path) -> None:
    """Keep other commands out of a folder until its step is finished, or this command ends.

    Raises:
        UserError: one is at work in it.
    """
    try:
        why_not = hold(folder)
    except LockedError as error:
        raise UserError(f'{folder}: another command is at work in it ({error}); wait for its end') from None
    if why_not is not None:
        say(f'{folder}: cannot be locked here ({why_not}); let no other command work in it')


def run_step(
    folder: StrPath,
    name: str,
    work: Callable[[Step], tuple[Iterable[StrPath], Any]],
    recipe: Any,
    inputs: Mapping[str, StrPath] | None = None,
    overwrite: bool = False,
    leaves: Sequence[str] = (),
) -> dict[str, Any]:
    """Do a step, or reuse it when it is whole, which is said in one line.

    Args:
        work: does it, and returns the outputs and a plain result. An error leaves the step incomplete.

    Returns:
        What ``done.json`` holds.
    """
    step = open_step(folder, name, recipe, inputs, overwrite, leaves)
    done = step.done
    if done is not None:
        say(f'{step.folder}: {name} is done already, reused')
        return done
    begin = time.monotonic()
    outputs, result = work(step)
    return step.finish(outputs, result, time.monotonic() - begin)


def _strangers(folder: Path) -> bool:
    """Tell whether a folder without a mark holds anything but what we left in dying (temporary files,
    steps).
    """
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise StepError(f'{folder}: cannot be read: {error.strerror}') from None
    return any(not (entry.name.endswith('.tmp') or entry.name == LOCK or (entry / MARK).is_file()) for entry in entries)


def _clear(folder: Path, leaves: Sequence[str]) -> None:
    """Remove what a step of ours left, and nothing else.

    ``done.json`` goes first and ``step.json`` last: the folder never looks whole or foreign.
    """
    outputs = (_read(folder / DONE) or {}).get('outputs', {})
    (folder / DONE).unlink(missing_ok=True)
    for name in outputs:
        if (folder / name).resolve().is_relative_to(folder.resolve()):
            (folder / name).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if not any(fnmatchcase(entry.name, pattern) for pattern in (*leaves, '*.tmp')) or entry.name == MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            if not any(entry.rglob(MARK)):
                shutil.rmtree(entry)
        else:
            entry.unlink()
    (folder / MARK).unlink()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get('format') == FORMAT else None


def _write(path: Path, data: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        json.dump(data, file, indent=1, default=_plain)
        file.write('\n')


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _plain(item: Any) -> Any:
    if isinstance(item, set | frozenset):
        return sorted(item, key=repr)
    if isinstance(item, os.PathLike):
        return os.fspath(item)
    if callable(item):  # a class in a config
        return f'{item.__module__}.{item.__qualname__}'
    raise TypeError(f'a recipe is plain data, {type(item).__name__} is not')
