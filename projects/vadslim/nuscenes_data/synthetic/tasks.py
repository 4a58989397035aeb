"""The work of writing a dataset, cut into independent tasks for several processes."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from . import can_bus, lidar, tables
from .catalogue import make_cameras, token
from .ground import Ground
from .map_expansion import MapWriter
from .population import Scene, make_scene
from .render import Box, encode, render
from .roads import District
from .scenarios import SCENARIOS
from .settings import Settings

Seen = list[tuple[int, float]]  # per actor: lidar points in its box, and the share of it that is in sight


@functools.cache
def district(location: str, seed: int) -> District:
    """The streets of a location, made once per process."""
    return District(location, seed)


@functools.cache
def _ground(location: str, seed: int) -> Ground:
    return Ground(district(location, seed))


def simulate(name: str, settings: Settings) -> Scene:
    """One scene, without writing anything."""
    return make_scene(name, district(SCENARIOS[name].location, settings.seed), settings.seed, settings.samples)


def boxes(scene: Scene, time: float) -> list[Box]:
    """Everybody in the scene ``time`` seconds after its first sample, in the order of ``scene.actors``."""
    result = []
    for actor in scene.actors:
        x, y, yaw, _ = scene.state(actor, time)
        result.append(Box((x, y, actor.size[2] / 2), actor.size, yaw, actor.category, actor.tint))
    return result


def simulate_task(task: tuple[str, Settings]) -> Scene:
    """See ``simulate``."""
    return simulate(*task)


def keyframe_task(task: tuple[Path, Scene, Settings, int]) -> tuple[str, Seen]:
    """Write the sensor files of one keyframe; returns the scene's name and who was seen."""
    root, scene, settings, sample = task
    rig = make_cameras(scene.script.location, settings.seed)
    ground = _ground(scene.script.location, settings.seed)
    seen: Seen = []
    for shot in tables.shots(scene, rig, sample):
        pose, around = scene.drive.pose(shot.time), boxes(scene, shot.time)
        path = root / shot.filename(scene)
        if shot.channel in rig:
            image = render(rig[shot.channel], pose, ground, around, scene.script.light)
            path.write_bytes(encode(image, settings.quality))
            continue
        seed = [settings.seed, int(scene.name[-4:]), sample, int(shot.key_frame)]
        points, visible = lidar.cast(pose, around, seed)
        # Sweeps between keyframes are for completeness, and thin.
        path.write_bytes((points if shot.key_frame else points[::8]).tobytes())
        if shot.key_frame:
            seen = list(zip(lidar.count_inside(points, around, pose).tolist(), visible.tolist()))
    return scene.name, seen


def map_task(task: tuple[Path, str, Settings]) -> None:
    """Write the map expansion and the mask of one location."""
    root, location, settings = task
    writer = MapWriter(district(location, settings.seed))
    write_json(root / 'maps' / 'expansion' / f'{location}.json', writer.to_dict())
    png = cv2.imencode('.png', writer.mask())[1].tobytes()  # compression 6 is as large, and takes four times as long
    (root / 'maps' / f'{token("map", location)}.png').write_bytes(png)


def can_bus_task(task: tuple[Path, Scene]) -> None:
    """Write the CAN bus messages of one scene."""
    root, scene = task
    for name, content in can_bus.message_files(scene).items():
        write_json(root / 'can_bus' / f'{scene.name}_{name}.json', content)


def write_json(path: Path, content: object) -> None:
    """Compact json; the same content gives the same bytes."""
    path.write_text(json.dumps(content, separators=(',', ':')))


def call(job: tuple[Callable[[Any], Any], Any]) -> Any:
    """Run a task that comes as (function, argument)."""
    return job[0](job[1])


def _worker_init() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone answers Ctrl-C


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back: one that comes while Python forks is lost in its fork hooks, and the work would go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = []
    handler = signal.signal(signal.SIGINT, lambda *_: caught.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught:
        signal.raise_signal(signal.SIGINT)


class Workers:
    """Runs tasks in this process (one worker) or in several, with the results in order."""

    def __init__(self, count: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            cv2.setNumThreads(1)  # a forked child must not inherit OpenCV's threads
            # A forked worker starts at once; a spawned one would import everything again.
            method = 'fork' if 'fork' in multiprocessing.get_all_start_methods() else 'spawn'
            self._pool = ProcessPoolExecutor(count, multiprocessing.get_context(method), _worker_init)
            with _interrupts_wait():
                self._pool.submit(int).result()  # starts all processes

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Results of ``function`` for all tasks.

        Raises:
            BrokenProcessPool: a worker was killed.
        """
        return map(function, tasks) if self._pool is None else self._pool.map(function, tasks)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
