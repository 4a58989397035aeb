"""One line for a user's mistake, wherever it was found."""

import signal
import subprocess
import sys

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


def test_the_process_is_left_as_it_was(capsys):
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook

    def main(argv):
        assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) != before
        raise cli.UserError('no')

    assert cli.run(main, []) == 2
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


LOST = """
import os, signal, sys, time, weakref
from vadslim import cli

def main(argv):
    box = {1, 2}
    def dying(_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    mark = weakref.ref(box, dying)
    del box  # what its callback raises is dropped
    time.sleep(30)

sys.exit(cli.run(main))
"""


def test_an_interrupt_that_python_drops_comes_again():
    done = subprocess.run([sys.executable, '-c', LOST], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')
