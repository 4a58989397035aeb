"""Writes the whole dataset: simulate, render in parallel, then tables, maps and CAN bus.

The folder appears at once and complete: everything is written to a hidden sibling that is renamed at the end, after
``synthetic.json`` was put into it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from vadslim.cli import UserError

from . import tables, tasks
from .catalogue import CHANNELS, LOCATIONS, make_cameras, scene_names
from .settings import Settings

FORMAT = 1
MARKER = 'synthetic.json'
VERSION = 'v1.0-mini'
_FOLDERS = (VERSION, 'samples', 'sweeps', 'maps', 'can_bus')

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Result:
    """Where the dataset is, how large it is (files, bytes), and whether it was there before."""

    root: Path
    files: int
    size: int
    reused: bool


def generate(
    out: Path,
    settings: Settings,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> Result:
    """Write the dataset, or find it written.

    Args:
        out: the dataset's root (``dataroot`` of the devkit).
        workers: processes; the result does not depend on it.
        overwrite: replace a dataset that was written by this function, with all that lies in its folder.
        progress: called with a phase, the number of finished steps and of all steps.

    Raises:
        UserError: ``out`` holds something else or a dataset with other settings; or the disk is full, or may
            not be written.
    """
    out = Path(out).resolve()  # or 'missing/../tools' would not exist now and be another folder later
    building = out.parent / f'.{out.name}.partial-{os.getpid()}'
    try:
        existing = _find_existing(out, settings, overwrite)
        if existing is not None:
            return existing
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        _check_space(out.parent, settings)
        building.mkdir()
        _build(building, settings, workers, progress)
        files, size = _measure(building)
        (building / MARKER).write_text(json.dumps(_marker(settings, files, size), indent=1))
        _put_in_place(building, out, overwrite)
    except OSError as error:
        raise UserError(f'cannot write {out}: {error.strerror or error}') from error
    except BrokenProcessPool as error:
        raise UserError(f'cannot write {out}: a worker process was killed; try --workers 1') from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Result(out, files, size, reused=False)


def _marker(settings: Settings, files: int, size: int) -> dict[str, object]:
    return {'format': FORMAT, 'settings': asdict(settings), 'files': files, 'bytes': size}


def _find_existing(out: Path, settings: Settings, overwrite: bool) -> Result | None:
    """The dataset that is already there with these settings, or None when ``out`` may be written."""
    place = next(parent for parent in out.parents if parent.exists())
    if not place.is_dir():
        raise UserError(f'{out}: {place} is a file, not a folder')
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MARKER).is_file():
        raise UserError(f'{out} exists and was not written by this tool; choose another --out or remove it')
    if overwrite:
        return None
    try:
        found = dict(json.loads((out / MARKER).read_text()))
    except (TypeError, ValueError):
        found = {}
    files, size = _measure(out)
    if found == _marker(settings, files, size):
        return Result(out, files, size, reused=True)
    if (found.get('format'), found.get('settings')) == (FORMAT, asdict(settings)):
        raise UserError(f'{out} was changed or lost files since it was written; --overwrite writes it anew')
    raise UserError(f'{out} was written with {found.get("settings")}; --overwrite replaces it')


def _measure(root: Path) -> tuple[int, int]:
    """Number of files and bytes in the dataset's folders; what else lies in ``root`` (info files, say) is left out."""
    sizes = [path.stat().st_size for name in _FOLDERS for path in (root / name).rglob('*') if path.is_file()]
    return len(sizes), sum(sizes)


def _check_space(folder: Path, settings: Settings) -> None:
    needed = 15e6 + 0.25e6 * settings.scenes * settings.samples  # measured: 0.16 MB per keyframe
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f'{folder}: {free / 1e6:.0f} MB free, about {needed / 1e6:.0f} MB needed')


def _put_in_place(building: Path, out: Path, overwrite: bool) -> None:
    """Rename the finished folder to ``out``; only a dataset of ours ever makes room for it, and only if asked."""
    old = out.parent / f'.{out.name}.old-{os.getpid()}'
    if overwrite and (out / MARKER).is_file():
        out.rename(old)
    building.rename(out)  # fails if there is anything in ``out``
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(out: Path) -> None:
    """Remove what killed runs left beside ``out``; runs that are alive keep theirs."""
    for kind in ('partial', 'old'):
        for path in out.parent.glob(f'.{out.name}.{kind}-*'):
            number = path.name.rsplit('-', 1)[1]
            if number.isdigit() and (int(number) == os.getpid() or not _alive(int(number))):
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _build(root: Path, settings: Settings, workers: int, progress: Progress) -> None:
    names = scene_names(settings.scenes)
    channels = [f'samples/{channel}' for channel in CHANNELS]
    for folder in (VERSION, 'can_bus', 'maps/expansion', 'sweeps/LIDAR_TOP', *channels):
        (root / folder).mkdir(parents=True)
    with tasks.Workers(workers) as pool:
        scenes = []
        for scene in pool.run(tasks.simulate_task, [(name, settings) for name in names]):
            scenes.append(scene)
            progress('simulating scenes', len(scenes), len(names))

        jobs = [(root, scene, settings, sample) for scene in scenes for sample in range(scene.samples)]
        seen: dict[str, list[tasks.Seen]] = {name: [] for name in names}
        for done, (name, counts) in enumerate(pool.run(tasks.keyframe_task, jobs), 1):
            seen[name].append(counts)
            progress('rendering keyframes', done, len(jobs))

        # The devkit and VAD open all four maps, whatever scenes there are.
        others = [(tasks.map_task, (root, location, settings)) for location in LOCATIONS]
        others += [(tasks.can_bus_task, (root, scene)) for scene in scenes]
        for done, _ in enumerate(pool.run(tasks.call, others), 1):
            progress('writing maps and CAN bus', done, len(others))

    content = tables.constant_tables()
    content['map'] = tables.map_table(scenes)
    for scene in scenes:
        rig = make_cameras(scene.script.location, settings.seed)
        for name, rows in tables.scene_tables(scene, rig, seen[scene.name]).items():
            content.setdefault(name, []).extend(rows)
    for name, rows in content.items():
        tasks.write_json(root / VERSION / f'{name}.json', rows)
