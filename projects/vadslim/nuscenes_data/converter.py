"""nuScenes tables -> VAD's info files, with the field names and formulas of the published ones.

An info file is ``dict(infos=[...], metadata=dict(version=...))``: one dict per key frame, scene by scene.
Scenes are converted by forked processes, which share the tables; the result does not depend on their number.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vadslim.cli import UserError
from vadslim.files import atomic_write, remove_leftovers
from vadslim.nuscenes_data.agents import AnnotationTable
from vadslim.nuscenes_data.ego import CanBus
from vadslim.nuscenes_data.scene import CAMERAS as CAMERAS
from vadslim.nuscenes_data.scene import is_unpacked, location, scene_infos
from vadslim.nuscenes_data.tables import AGAIN, VERSIONS, open_tables
from vadslim.nuscenes_data.vector_map import check_maps

if TYPE_CHECKING:
    from nuscenes import NuScenes

SHOWN = 3  # broken scenes that an error names
WITHOUT_CAN_BUS = 'unpack the CAN bus expansion of nuScenes there, or do without (--canbus none)'
Track = Callable[[Iterable[Any]], Iterable[Any]]


def convert(
    root: str | Path,
    out_dir: str | Path,
    can_bus: str | Path | None,
    version: str,
    tag: str = 'vad_nuscenes',
    max_sweeps: int = 10,
    track: Track = iter,
    say: Callable[[str], None] = lambda line: None,
    workers: int = 1,
    skip_broken: bool = False,
) -> list[tuple[Path, int]]:
    """Write ``{tag}_infos_temporal_{train,val}.pkl``, or ``..._test.pkl`` for the test set: all or none of them.

    Args:
        root: the nuScenes folder, with ``samples``, ``maps`` and ``{version}``.
        out_dir: where the files go; made if needed.
        can_bus: the folder that holds ``can_bus``, or that folder itself; None does without.
        version: one of VERSIONS.
        tag: first part of the file names.
        max_sweeps: LiDAR sweeps listed per key frame (not needed by VAD itself).
        track: wraps the iteration over scenes, for a progress bar.
        say: gets one line per cause for what is left out or filled in.
        workers: processes that convert scenes; the files are the same, byte by byte, for any number.
        skip_broken: leave out scenes with missing or damaged records or files, instead of an error.

    Returns:
        (path, number of frames) per written file.

    Raises:
        UserError: a folder, file or table is missing or damaged, or the files cannot be written.
    """
    folder = check_inputs(root, can_bus, version)
    _check_writable(Path(out_dir))
    nusc = open_tables(root, version)
    splits = _scene_splits(version)
    scenes = _scenes(nusc, splits, root, version, say)
    has_labels = version != 'v1.0-test'
    if has_labels:
        check_maps(root, {location(nusc, scene) for scene in scenes})
    work = _Work(nusc, AnnotationTable(nusc) if has_labels else None, folder, max_sweeps)
    infos: dict[str, list[dict]] = {split: [] for split in splits}
    gaps: dict[str, list[str]] = {}
    broken: dict[str, str] = {}
    without_lidar, has_can_bus = 0, False
    with _in_processes(work, [scene['token'] for scene in scenes], workers) as results:
        for scene in track(scenes):
            result = next(results)
            if result.trouble:
                broken[scene['name']] = result.trouble
                continue
            infos[next(split for split, names in splits.items() if scene['name'] in names)] += result.infos
            without_lidar += result.without_lidar
            has_can_bus |= result.has_can_bus
            if result.gap:
                gaps.setdefault(result.gap, []).append(scene['name'])
    _judge(broken, len(scenes), skip_broken, f'{root}/{version}', say)
    if has_labels and folder is not None and not has_can_bus:
        raise UserError(f'{folder}: no CAN bus messages of any scene of {version}; {WITHOUT_CAN_BUS}')
    for gap, names in gaps.items():
        say(f'{_some(names, len(scenes))}: {gap}')
    if without_lidar:
        total = sum(map(len, infos.values()))
        say(f'{without_lidar} of {total} frames: their LiDAR files are not in {root}; VAD does not read them')
    files = {Path(out_dir) / f'{tag}_infos_temporal_{split}.pkl': frames for split, frames in infos.items()}
    earlier = [path for path in files if path.exists()]
    _write(files, version)
    for path in earlier:
        say(f'{path}: the earlier file was replaced')
    return [(path, len(frames)) for path, frames in files.items()]


def check_inputs(root: str | Path, can_bus: str | Path | None, version: str) -> Path | None:
    """Look for the folders a conversion needs and return the CAN bus folder, None to do without."""
    if version not in VERSIONS:
        raise UserError(f'version: {version} is unknown, allowed are {", ".join(VERSIONS)}')
    if not Path(root).is_dir():
        raise UserError(f'{root}: no such folder')
    if not (Path(root) / version).is_dir():
        present = sorted(p.name for p in Path(root).glob('v1.0-*')) or ['none']
        raise UserError(f'{root}: no tables of {version} there (found: {", ".join(present)})')
    if can_bus is None:
        return None
    folder = Path(can_bus)
    if folder.name != 'can_bus':
        folder = folder / 'can_bus'
    if not folder.is_dir() and version != 'v1.0-test':  # of test scenes there may be none
        raise UserError(f'{folder}: no such folder; {WITHOUT_CAN_BUS}')
    return folder


def _check_writable(folder: Path) -> None:
    """Say before the work what would fail after it."""
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise UserError(f'{folder}: cannot be created: {place} is not a folder')
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f'{folder}: cannot be written: no permission')


# --- scenes --------------------------------------------------------------------------------------------------


def _scenes(
    nusc: NuScenes, splits: dict[str, frozenset[str]], root: str | Path, version: str, say: Callable[[str], None]
) -> list[dict]:
    """The scenes to convert, in the order in which their key frames stand in the sample table."""
    listed = [nusc.get('scene', token) for token in dict.fromkeys(s['scene_token'] for s in nusc.sample)]
    official = [s for s in listed if any(s['name'] in names for names in splits.values())]
    scenes = [s for s in official if is_unpacked(nusc, s)]
    if not official:
        raise UserError(f'{root}/{version}: none of its scenes is in an official split of {version}')
    if not scenes:
        raise UserError(f'{root}: no camera images of any scene of {version}; unpack the sensor blobs there')
    if others := [s['name'] for s in listed if s not in official]:
        say(f'{_some(others, len(listed))}: in no official split of {version}; left out')
    if missing := [s['name'] for s in official if s not in scenes]:
        say(f'{_some(missing, len(official))}: no camera images in {root}; left out')
    return scenes


def _scene_splits(version: str) -> dict[str, frozenset[str]]:
    from nuscenes.utils import splits

    if version == 'v1.0-test':
        return {'test': frozenset(splits.test)}
    if version == 'v1.0-mini':
        return {'train': frozenset(splits.mini_train), 'val': frozenset(splits.mini_val)}
    return {'train': frozenset(splits.train), 'val': frozenset(splits.val)}


def _some(names: list[str], total: int) -> str:
    """'3 of 10 scenes (a, b, c)', with the first names only if there are many."""
    shown = ', '.join(names[:5]) + (' ...' if len(names) > 5 else '')
    return f'{len(names)} of {total} scenes ({shown})'


def _judge(broken: dict[str, str], total: int, skip: bool, source: str, say: Callable[[str], None]) -> None:
    """Raise or tell what is wrong with scenes that could not be converted (name -> why and what to do)."""
    if not broken:
        return
    named = [f'{name}: {trouble}' for name, trouble in broken.items()][:SHOWN]
    line = f'{source}: {len(broken)} of {total} scenes cannot be converted ({" | ".join(named)}'
    line += f' | and {len(broken) - SHOWN} more)' if len(broken) > SHOWN else ')'
    if not skip:
        raise UserError(f'{line}; --skip-broken converts the others')
    if len(broken) == total:
        raise UserError(line)
    say(f'{line}; left out')


# --- processes -----------------------------------------------------------------------------------------------


@dataclass
class _Result:
    """What a process tells of one scene: its infos, or why there are none."""

    infos: list[dict] = field(default_factory=list)
    gap: str = ''
    has_can_bus: bool = False
    without_lidar: int = 0
    trouble: str = ''


@dataclass
class _Work:
    """What the conversion of any scene needs."""

    nusc: NuScenes
    annotations: AnnotationTable | None
    can_bus: Path | None
    max_sweeps: int

    def __call__(self, token: str) -> _Result:
        scene = self.nusc.get('scene', token)
        try:
            messages = CanBus(self.can_bus, scene['name'], location(self.nusc, scene).startswith('singapore'))
            infos = list(scene_infos(self.nusc, scene, messages, self.annotations, self.max_sweeps))
        except UserError as error:
            return _Result(trouble=str(error))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a record is not what it should be
            return _Result(trouble=f'a record is damaged ({type(error).__name__}: {error}); {AGAIN}')
        return _Result(
            infos, messages.gap, bool(messages), sum(not Path(info['lidar_path']).is_file() for info in infos)
        )


_work: _Work | None = None  # of this process; workers get it by the fork, nothing is copied to them


@contextmanager
def _in_processes(work: _Work, tokens: Sequence[str], workers: int) -> Iterator[Iterator[_Result]]:
    """The results in order. One worker is a process, too: what passes through a pickle shares no objects between
    scenes, so that files do not depend on the number of workers.
    """
    context = multiprocessing.get_context('fork')
    pool = ProcessPoolExecutor(min(workers, len(tokens)), context, _begin, (work, os.getpid()))
    gc.collect()
    gc.freeze()  # or the collector of each worker would touch, and so copy, all tables
    try:
        yield pool.map(_convert, tokens)  # forks at once, before a progress bar starts its thread
    except BrokenProcessPool:
        raise UserError('a worker was ended from outside; if memory is short, give less --workers') from None
    finally:
        gc.unfreeze()
        pool.shutdown(cancel_futures=True)


def _begin(work: _Work, parent: int) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A parent that is killed cannot end its workers."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _convert(token: str) -> _Result:
    assert _work is not None
    return _work(token)


# --- files ---------------------------------------------------------------------------------------------------


def _write(files: dict[Path, list[dict]], version: str) -> None:
    """All files get their names after all of them are on the disk."""
    path = next(iter(files))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for path in files:
            remove_leftovers(path)
        with ExitStack() as stack:
            for path, frames in reversed(files.items()):  # the stack puts them in place the other way round
                stream = stack.enter_context(atomic_write(path, 'wb'))
                pickle.dump({'infos': frames, 'metadata': {'version': version}}, stream, protocol=4)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from None
