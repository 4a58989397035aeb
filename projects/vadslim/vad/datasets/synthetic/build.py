"""Writes the whole dataset: simulate, render in parallel, then tables, maps and CAN bus.

The folder appears at once and complete: everything is written to a hidden sibling that is renamed at the end, after
``synthetic.json`` was put into it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from . import can_bus, lidar, tables
from .catalogue import CHANNELS, LOCATIONS, make_cameras, scene_names, token
from .ground import Ground
from .map_expansion import MapWriter
from .population import Scene, make_scene
from .render import Box, encode, render
from .roads import District
from .scenarios import SCENARIOS

FORMAT = 1
MARKER = 'synthetic.json'
VERSION = 'v1.0-mini'


class GenerationError(Exception):
    """A mistake of the user or of the machine, to be shown as one line."""


@dataclass(frozen=True)
class Settings:
    """What the dataset consists of; equal settings give equal bytes.

    Attributes:
        scenes: how many of the ten official mini scenes.
        seed: of streets, traffic and noise.
        samples: keyframes per scene, 0.5 s apart.
        quality: JPEG quality of the images.
    """

    scenes: int = 10
    seed: int = 0
    samples: int = 40
    quality: int = 30

    def __post_init__(self) -> None:
        try:
            scene_names(self.scenes)
        except ValueError as error:
            raise GenerationError(str(error)) from None
        for name, low, high in (('seed', 0, 2**32 - 1), ('samples', 2, 40), ('quality', 10, 95)):
            if not low <= getattr(self, name) <= high:
                raise GenerationError(f'--{name} {getattr(self, name)}: allowed are {low} to {high}')


@dataclass(frozen=True)
class Result:
    """Where the dataset is, how large it is, and whether it was there before."""

    root: Path
    files: int
    size: int
    reused: bool


# ---------------------------------------------------------------------------------------------------------------------
# Work that runs in parallel. Districts, grounds and scenes are made once per process and kept.

_CACHE: dict[tuple[object, ...], Any] = {}


def _district(location: str, seed: int) -> District:
    key = ('district', location, seed)
    if key not in _CACHE:
        _CACHE[key] = District(location, seed)
    return _CACHE[key]


def _ground(location: str, seed: int) -> Ground:
    key = ('ground', location, seed)
    if key not in _CACHE:
        _CACHE[key] = Ground(_district(location, seed))
    return _CACHE[key]


def simulate(name: str, settings: Settings) -> Scene:
    """One scene, without writing anything."""
    return make_scene(name, _district(SCENARIOS[name].location, settings.seed), settings.seed, settings.samples)


def _boxes(scene: Scene, time: float) -> list[Box]:
    boxes = []
    for actor in scene.actors:
        x, y, yaw, _ = scene.state(actor, time)
        boxes.append(Box((x, y, actor.size[2] / 2), actor.size, yaw, actor.category, actor.tint))
    return boxes


def _simulate_task(task: tuple[str, Settings]) -> Scene:
    return simulate(*task)


def _render_task(task: tuple[Path, Scene, Settings, int]) -> tuple[str, int, list[tuple[int, float]]]:
    """Write all files of one keyframe; returns scene, keyframe, and per actor its lidar points and visible share."""
    root, scene, settings, sample = task
    location = scene.script.location
    rig, ground = make_cameras(location, settings.seed), _ground(location, settings.seed)
    seen: list[tuple[int, float]] = []
    for shot in tables.shots(scene, rig, sample):
        pose, boxes = scene.drive.pose(shot.time), _boxes(scene, shot.time)
        path = root / shot.filename(scene)
        if shot.channel in rig:
            image = render(rig[shot.channel], pose, ground, boxes, scene.script.light)
            path.write_bytes(encode(image, settings.quality))
            continue
        seed = [settings.seed, int(scene.name[-4:]), sample, int(shot.key_frame)]
        points, visible = lidar.cast(pose, boxes, seed)
        path.write_bytes((points if shot.key_frame else points[::8]).tobytes())
        if shot.key_frame:
            counts = lidar.count_inside(points, boxes, pose)
            seen = list(zip(counts.tolist(), visible.tolist()))
    return scene.name, sample, seen


def _map_task(task: tuple[Path, str, Settings]) -> None:
    root, location, settings = task
    writer = MapWriter(_district(location, settings.seed))
    _write_json(root / 'maps' / 'expansion' / f'{location}.json', writer.to_dict())
    png = cv2.imencode('.png', writer.mask(), [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()
    (root / 'maps' / f'{token("map", location)}.png').write_bytes(png)


def _can_bus_task(task: tuple[Path, Scene]) -> None:
    root, scene = task
    for name, content in can_bus.messages(scene).items():
        _write_json(root / 'can_bus' / f'{scene.name}_{name}.json', content)


def _call(job: tuple[Callable[[Any], Any], Any]) -> Any:
    return job[0](job[1])


def _worker_init() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C for all


class _Pool:
    """Ordered results of jobs, in this process or in several."""

    def __init__(self, workers: int) -> None:
        cv2.setNumThreads(1)
        self._pool = None
        if workers > 1:
            # A forked worker starts at once; a spawned one would import everything again.
            method = 'fork' if 'fork' in multiprocessing.get_all_start_methods() else 'spawn'
            self._pool = multiprocessing.get_context(method).Pool(workers, _worker_init)

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        jobs = ((function, task) for task in tasks)
        return map(_call, jobs) if self._pool is None else self._pool.imap(_call, jobs)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


# ---------------------------------------------------------------------------------------------------------------------


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, separators=(',', ':')))


def _measure(root: Path) -> tuple[int, int]:
    """Number of files and bytes below ``root``, the marker left out."""
    sizes = [f.stat().st_size for f in root.rglob('*') if f.is_file() and f != root / MARKER]
    return len(sizes), sum(sizes)


def find_existing(out: Path, settings: Settings, overwrite: bool) -> Result | None:
    """The dataset that is already there with these settings, or None when ``out`` may be written.

    Raises:
        GenerationError: ``out`` holds something else, or a dataset with other settings and ``overwrite`` is off.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    marker = out / MARKER
    if not out.is_dir() or not marker.is_file():
        raise GenerationError(f'{out} exists and was not written by this tool; choose another --out or remove it')
    try:
        content = json.loads(marker.read_text())
    except (OSError, ValueError):
        content = {}
    files, size = _measure(out)
    wanted = {'format': FORMAT, 'settings': asdict(settings), 'files': files, 'bytes': size}
    if content == wanted and not overwrite:
        return Result(out, files, size, reused=True)
    if overwrite:
        return None
    if content.get('settings') == asdict(settings) and content.get('format') == FORMAT:
        raise GenerationError(f'{out} was changed or lost files since it was written; --overwrite writes it anew')
    raise GenerationError(f'{out} was written with {content.get("settings")}; --overwrite replaces it')


def generate(
    out: Path,
    settings: Settings,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Result:
    """Write the dataset, or find it written.

    Args:
        out: the dataset's root (``dataroot`` of the devkit).
        workers: processes; the result does not depend on it.
        progress: called with a phase, the number of finished steps and of all steps.

    Raises:
        GenerationError: see ``find_existing``; or the disk is full or may not be written.
    """
    out = Path(os.path.abspath(out))
    existing = find_existing(out, settings, overwrite)
    if existing is not None:
        return existing
    building = out.parent / f'.{out.name}.partial-{os.getpid()}'
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        building.mkdir()
        _build(building, settings, workers, progress)
        files, size = _measure(building)
        marker = {'format': FORMAT, 'settings': asdict(settings), 'files': files, 'bytes': size}
        (building / MARKER).write_text(json.dumps(marker, indent=1))
        _swap(building, out)
    except OSError as error:
        raise GenerationError(f'cannot write {out}: {error.strerror or error}') from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Result(out, files, size, reused=False)


def _swap(building: Path, out: Path) -> None:
    old = out.parent / f'.{out.name}.old-{os.getpid()}'
    if out.exists():
        out.rename(old)
    building.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(out: Path) -> None:
    """Remove what killed runs left beside ``out``; runs that are alive keep theirs."""
    for kind in ('partial', 'old'):
        for path in out.parent.glob(f'.{out.name}.{kind}-*'):
            number = path.name.rsplit('-', 1)[1]
            if number.isdigit() and not _alive(int(number)):
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _build(root: Path, settings: Settings, workers: int, progress: Callable[[str, int, int], None]) -> None:
    names = scene_names(settings.scenes)
    for folder in (
        VERSION,
        'can_bus',
        'maps/expansion',
        'sweeps/LIDAR_TOP',
        *(f'samples/{c}' for c in CHANNELS),
    ):
        (root / folder).mkdir(parents=True)
    with _Pool(workers) as pool:
        scenes: list[Scene] = []
        for scene in pool.run(_simulate_task, [(name, settings) for name in names]):
            scenes.append(scene)
            progress('simulating scenes', len(scenes), len(names))

        jobs = [(root, scene, settings, sample) for scene in scenes for sample in range(scene.samples)]
        seen: dict[str, list[list[tuple[int, float]]]] = {name: [] for name in names}
        for done, (name, _, counts) in enumerate(pool.run(_render_task, jobs), 1):
            seen[name].append(counts)
            progress('rendering keyframes', done, len(jobs))

        # The devkit and VAD open all four maps, whatever scenes there are.
        others = [(_map_task, (root, location, settings)) for location in LOCATIONS]
        others += [(_can_bus_task, (root, scene)) for scene in scenes]
        for done, _ in enumerate(pool.run(_call, others), 1):
            progress('writing maps and CAN bus', done, len(others))

    content = tables.constant_tables()
    content['map'] = tables.map_table(scenes)
    for scene in scenes:
        rig = make_cameras(scene.script.location, settings.seed)
        for name, rows in tables.scene_tables(scene, rig, seen[scene.name]).items():
            content.setdefault(name, []).extend(rows)
    for name, rows in content.items():
        _write_json(root / VERSION / f'{name}.json', rows)
