"""One command at a time in a step's folder; a lock ends with its process."""

import errno
import fcntl
import functools
import os
import signal
import time

import pytest

from processes import Forked
from vadslim import cli
from vadslim.locks import LOCK, LockedError, hold, release
from vadslim.stages import StepError, open_step, run_step


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    release()


def at_work(folder, argv=()):
    """Another command, which has opened a step there and goes on for long; a worker of its has been forked since."""

    def main(argv):
        open_step(folder, 'training', {'epochs': 3})
        if not os.fork():
            time.sleep(5)
            os._exit(0)
        print('OPENED', flush=True)
        time.sleep(60)

    process = Forked(lambda argv: cli.run(main, argv), argv)
    assert process.stdout.readline() == 'OPENED\n'
    return process


def test_a_second_command_is_kept_out(tmp_path, capsys):
    folder = tmp_path / 'out'
    process = at_work(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for epochs, options in ((3, {}), (4, {'overwrite': True}), (4, {'adopt': True})):
        second = functools.partial(open_step, folder, 'training', {'epochs': epochs}, **options)
        assert cli.run(lambda _, second=second: second() and None, []) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'error: {folder}: another command is at work in it (process ')
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    process.send_signal(signal.SIGKILL)
    while process.poll() is None:  # the worker lives on: a lock that it shared would too
        time.sleep(0.01)
    step = open_step(folder, 'training', {'epochs': 3})
    assert step.resumed
    step.finish([])
    assert sorted(path.name for path in folder.iterdir()) == ['done.json', 'step.json']


def test_it_ends_with_the_command_or_the_step(tmp_path):
    folder = tmp_path / 'out'

    def work(step):
        assert (folder / LOCK).is_file()
        open_step(folder, 'training', {})  # by the same process
        return [], None

    run_step(folder, 'training', work, {})
    assert not (folder / LOCK).exists()
    with (folder / LOCK).open('w'):  # left by a process that was killed just then
        assert run_step(folder, 'training', work, {})['outputs'] == {}
    with pytest.raises(StepError, match='--overwrite'):
        open_step(folder, 'training', {'epochs': 4})
    assert not (folder / LOCK).exists()
    cli.run(lambda _: open_step(folder, 'training', {'epochs': 4}, overwrite=True) and None, [])
    assert not (folder / LOCK).exists()


def test_a_lock_that_was_left_is_no_stranger(tmp_path):
    (tmp_path / LOCK).write_text('process 1 on another machine')
    open_step(tmp_path, 'training', {})
    assert (tmp_path / LOCK).read_text().startswith(f'process {os.getpid()} on ')


def test_it_is_removed_between_opening_and_locking(tmp_path, monkeypatch):
    """The second may not hold what nobody sees any more, beside a third."""
    lockf = fcntl.lockf

    def late(file, how):
        monkeypatch.setattr(fcntl, 'lockf', lockf)
        (tmp_path / LOCK).unlink()
        lockf(file, how)

    monkeypatch.setattr(fcntl, 'lockf', late)
    hold(tmp_path)
    process = Forked(lambda _: 3 if refused(tmp_path) else 0, [])
    assert process.wait(100) == 3


def refused(folder):
    with pytest.raises(LockedError, match=f'process {os.getppid()} on '):
        hold(folder)
    return True


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', none)
    run_step(tmp_path / 'out', 'training', lambda step: ([], None), {})
    line = f'{tmp_path / "out"}: cannot be locked here (No locks available); let no other command work in it\n'
    assert capsys.readouterr().err == line
    assert not (tmp_path / 'out' / LOCK).exists()
