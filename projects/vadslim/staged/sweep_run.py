"""The points of a sweep as processes: some at once, each with a folder and a log; finished ones are not run again."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from vadslim.cli import UserError, say
from vadslim.stages import Step, open_step

LOG = 'sweep.log'  # what a point's process prints, in its folder
_POLL, _PATIENCE = 0.2, 20.0  # seconds: between looks at the processes; for one that was told to end
_LIBC, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1  # of linux/prctl.h


@dataclass(frozen=True)
class Run:
    """A point, ready to be run.

    Args:
        name: of its folder.
        values: dotted key -> text.
        folder: where its stages' folders go.
        command: what is run.
        stages: names of the stages that the command runs, in order.
        recipe: plain data on which the results depend.
        inputs: files that they depend on as well.
        tensorboard: the folder that holds those of all points' curves; None if none are drawn there.
    """

    name: str
    values: Mapping[str, str]
    folder: Path
    command: Sequence[str]
    stages: Sequence[str]
    recipe: Any
    inputs: Mapping[str, Path] = field(default_factory=dict)
    tensorboard: Path | None = None


@dataclass
class Outcome:
    """What became of a point.

    Args:
        problem: one line; None if it is done.
        result: ``stage`` (the last that was validated), ``metrics`` (its last validation's), ``best`` and
            ``best_name`` (of its best checkpoint), ``seconds`` (of all stages).
    """

    problem: str | None = None
    result: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Process:
    number: int
    step: Step
    process: subprocess.Popen
    log: BinaryIO
    slot: int
    begun: float


def run_points(
    runs: Sequence[Run], jobs: int, overwrite: bool = False, local: bool = True, spread: bool = True
) -> list[Outcome]:
    """Run all that are not finished; one that fails does not stop the others.

    Args:
        runs: in the order in which they are begun.
        jobs: how many at once.
        overwrite: clear folders that hold results of other settings.
        local: they run on this machine, and share its cores.
        spread: they take its GPUs in turn.

    Returns:
        An outcome for each.

    Raises:
        UserError: a folder holds something else; nothing is run then.
        KeyboardInterrupt: on Ctrl-C, after all processes have ended.
    """
    steps = [open_step(one.folder, f'point {one.name}', one.recipe, one.inputs, overwrite) for one in runs]
    outcomes = [Outcome(result=step.done['result']) if step.done else None for step in steps]
    waiting = [number for number, outcome in enumerate(outcomes) if outcome is None]
    if len(waiting) < len(runs):
        say(f'{len(runs) - len(waiting)} of {len(runs)} points are done already')
    free, active = list(range(jobs)), list[_Process]()
    gpus = visible_gpus() if spread and waiting else []

    def settle(number: int, outcome: Outcome, begun: float | None = None) -> None:
        outcomes[number] = outcome
        count = f'{sum(found is not None for found in outcomes)} of {len(runs)}'
        took = '' if begun is None else f', {time.monotonic() - begun:.0f} s'
        say(f'{"✗" if outcome.problem else "✓"} {runs[number].name}{took} ({count})')

    with _ended(active, runs, outcomes):
        while waiting or active:
            while waiting and free:
                number, slot = waiting.pop(0), free.pop(0)
                try:
                    log = _take(runs[number].folder)
                    process = subprocess.Popen(
                        runs[number].command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment_of(slot, jobs if local else 1, gpus),
                        start_new_session=True,  # a terminal's Ctrl-C is for this process, which ends the others
                        preexec_fn=_end_with_parent,  # also if that is killed
                    )
                except OSError as error:
                    free.insert(0, slot)
                    settle(number, Outcome(f'{runs[number].name}: {_cannot(error)}'))
                    continue
                active.append(_Process(number, steps[number], process, log, slot, time.monotonic()))
            for one in [one for one in active if one.process.poll() is not None]:
                active.remove(one)
                free.append(one.slot)
                one.log.close()
                settle(one.number, _outcome(runs[one.number], one.step, one.process.returncode), one.begun)
            if active:
                time.sleep(_POLL)
    return [outcome or Outcome('not run') for outcome in outcomes]


def visible_gpus() -> list[str]:
    """Names of the GPUs that processes may use."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        return [name for name in named.split(',') if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def environment_of(slot: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of one of several processes: one GPU each, in turn, and a share of the cores."""
    environment = dict(os.environ)
    root = str(Path(__file__).parents[2])
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, [root, environment.get('PYTHONPATH')]))
    if len(gpus) > 1:
        environment['CUDA_VISIBLE_DEVICES'] = gpus[slot % len(gpus)]
    if jobs > 1:
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
            environment.setdefault(name, str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _take(folder: Path) -> BinaryIO:
    """Open a point's log. Whoever writes it has the point: the lock is its process's, and lasts as long."""
    log = (folder / LOG).open('ab')
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        log.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise OSError(errno.EBUSY, 'another process is at it') from None
        raise
    return log


def _cannot(error: OSError) -> str:
    return f'cannot be run: {error.strerror or error}' + (f': {error.filename}' if error.filename else '')


@contextmanager
def _ended(active: list[_Process], runs: Sequence[Run], outcomes: Sequence[Outcome | None]) -> Iterator[None]:
    """End all processes when this one is told to, also by a terminal that is closed."""

    def hang_up(signum: int, _frame: Any) -> None:
        raise SystemExit(128 + signum)

    old = signal.signal(signal.SIGHUP, hang_up)
    try:
        yield
    except BaseException:
        for one in active:
            one.process.terminate()
        until = time.monotonic() + _PATIENCE
        for one in active:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, until - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)  # the process, or what it left behind
            one.process.wait()
            one.log.close()
        done = sum(outcome is not None and outcome.problem is None for outcome in outcomes)
        say(f'stopped: {done} of {len(runs)} points are done; the same command goes on with the others')
        raise
    finally:
        signal.signal(signal.SIGHUP, old)


def _outcome(one: Run, step: Step, code: int) -> Outcome:
    """What a process that has ended leaves."""
    log = one.folder / LOG
    if code:
        how = f'exit code {code}' if code > 0 else f'ended by {signal.Signals(-code).name}'
        lines = [line for line in _tail(log).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if line.startswith('error: ')), lines[-1] if lines else '')
        return Outcome(f'{one.name}: failed ({how}): {said.removeprefix("error: "):.300}; its log is {log}')
    try:
        result = collect(one)
        step.finish([f'{stage}/done.json' for stage in one.stages], result, result['seconds'])
    except (OSError, ValueError, KeyError, UserError) as error:
        return Outcome(f'{one.name}: has left no results: {error}; its log is {log}')
    return Outcome(result=result)


def _tail(path: Path, size: int = 8192) -> str:
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors='replace')


def collect(one: Run) -> dict[str, Any]:
    """Read what a point's stages have left; see :class:`Outcome`."""
    done = {stage: json.loads((one.folder / stage / 'done.json').read_text(encoding='utf-8')) for stage in one.stages}
    found: dict[str, Any] = {'seconds': round(sum(entry.get('seconds', 0.0) for entry in done.values()), 3)}
    for stage, entry in reversed(done.items()):
        left = entry['result']
        if not left.get('metrics'):  # a stage that validates nothing
            continue
        found |= {'stage': stage, 'metrics': left['metrics']}
        if left.get('checkpoint'):
            found |= _best(one.folder / stage / left['checkpoint'])
        break
    return found


def _best(path: Path) -> dict[str, Any]:
    from vadslim.checkpoint_format import load_any

    checkpoint = load_any(path)
    name = checkpoint['metadata'].get('metric')
    return {'best': checkpoint['metric'], 'best_name': name} if name and checkpoint['metric'] is not None else {}
