"""One line for a user's mistake, wherever it was found."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from vadslim import cli


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise cli.UserError('a.jpg: not a readable image')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_mistake_found_by_a_data_loading_worker_is_one_line(workers, capfd):
    def main(argv):
        next(iter(DataLoader(Broken(), num_workers=workers)))

    assert cli.run(main, []) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == 'error: a.jpg: not a readable image'


def state():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook


def test_the_process_is_left_as_it_was(capsys):
    before = state()

    def main(argv):
        assert all(now is not then for now, then in zip(state(), before, strict=True))
        raise cli.UserError('no')

    assert cli.run(main, []) == 2
    assert state() == before


def test_a_command_within_a_command_leaves_the_answer_to_the_outer_one(capsys):
    def inner(argv):
        raise cli.UserError('no')

    def outer(argv):
        try:
            cli.run(inner, argv)
        except cli.UserError as error:
            raise cli.UserError(f'stage x: {error}') from error

    for _ in range(2):  # and it is over when it is over
        assert cli.run(outer, []) == 2
        assert capsys.readouterr().err == 'error: stage x: no\n'
    assert cli.run(lambda argv: cli.run(lambda argv: 3, argv), []) == 3
    assert cli.run(inner, []) == 2
    assert capsys.readouterr().err == 'error: no\n'


LOST = """
import multiprocessing, os, signal, sys, time, weakref
from vadslim import cli

child = multiprocessing.Process(target=time.sleep, args=[60])

def main(argv):
    box = {1, 2}
    def dying(_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    mark = weakref.ref(box, dying)
    del box  # what its callback raises is dropped
    child.start()
    time.sleep(30)

code = cli.run(main)
child.join(5)
sys.exit(code if child.exitcode == -9 else 1)
"""


def test_an_interrupt_that_python_drops_comes_again():
    done = subprocess.run([sys.executable, '-c', LOST], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')


TWICE = """
import multiprocessing, os, signal, sys, time
from vadslim import cli

def children():  # torchrun passes Ctrl-C on and sends SIGTERM at once
    os.kill(os.getpid(), signal.SIGTERM)
    return [child]

def main(argv):
    multiprocessing.active_children = children
    os.kill(os.getpid(), signal.SIGINT)

child = multiprocessing.Process(target=time.sleep, args=[60])
child.start()
code = cli.run(main)
child.join()
sys.exit(code if child.exitcode == -9 else 1)
"""


def test_a_second_signal_does_not_save_the_children_from_the_first():
    done = subprocess.run([sys.executable, '-c', TWICE], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')


GROUP = """
import multiprocessing, os, signal, sys, time
from vadslim import cli

def main(argv):
    child = multiprocessing.get_context('fork').Process(target=time.sleep, args=[60])
    child.start()
    for number, code in ((signal.SIGINT, None), (signal.SIGTERM, 143)):
        os.kill(child.pid, number)
        child.join(1 if code is None else 60)
        assert child.exitcode == code, child.exitcode

sys.exit(cli.run(main))
"""


def test_a_worker_says_nothing_of_signals():
    done = subprocess.run([sys.executable, '-c', GROUP], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, '')


# Forked from one process, as the import of torch takes seconds; each child ends as a program does, by itself.
LOADING = """
import json, os, signal, sys
from unittest import mock
import torch
from torch.utils.data import DataLoader
from vadslim import cli

def end(*args, **options):  # as if the signal came in the midst of it
    os.kill(os.getpid(), number)

def main(argv):
    with mock.patch(place, end):
        for _ in DataLoader(torch.ones(10000, 100), num_workers=1):
            pass

codes = []
for case in sys.argv[1:]:
    child = os.fork()
    if not child:
        place, number = case.rsplit('.', 1)
        number = getattr(signal, number)
        os.dup2(os.open(case, os.O_WRONLY | os.O_CREAT), 2)
        sys.exit(cli.run(main))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""
SIGNALS = {'SIGINT': (130, 'interrupted\n'), 'SIGTERM': (143, '')}
PLACES = [
    'multiprocessing.connection.answer_challenge',  # the worker waits for it, to hand over a tensor
    'multiprocessing.reduction.recv_handle',  # the worker sends one
    'torch.utils.data.dataloader._utils.signal_handling._set_SIGCHLD_handler',  # the loader is half made
]


@pytest.fixture(scope='module')
def loading(tmp_path_factory):
    """place.signal -> (exit code, words)."""
    folder = tmp_path_factory.mktemp('loading')
    cases = [f'{place}.{name}' for place in PLACES for name in SIGNALS]
    command = [sys.executable, '-c', LOADING, *cases]
    codes = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300).stdout)
    return {case: (code, (folder / case).read_text()) for case, code in zip(cases, codes, strict=True)}


@pytest.mark.parametrize('name', SIGNALS)
@pytest.mark.parametrize('place', PLACES)
def test_a_signal_amid_loading_has_no_other_words(loading, name, place):
    assert loading[f'{place}.{name}'] == SIGNALS[name]


OUTPUT = """
import sys

from vadslim import cli


def main(argv):
    print('much' * int(argv[0]))
    return 3


sys.exit(cli.run(main))
"""


@pytest.mark.parametrize('size', ['1', '100000'])
def test_output_that_cannot_be_written(size):
    """A full disk, a pipe that nobody reads, no output at all; told at once, or when all is flushed."""
    command = ['env', '-u', 'PYTHONUNBUFFERED', sys.executable, '-c', OUTPUT, size]
    with Path('/dev/full').open('w') as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    expected = 'error: the output, or a file: cannot be written: No space left on device\n'
    assert (done.returncode, done.stderr) == (2, expected)
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, '')
    done = subprocess.run(['sh', '-c', '"$@" >&-', 'sh', *command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, '')
