"""A folder with the config of a toy network, and the command called in this process."""

import os
import signal

import pytest

from vadslim.slimming import main
from vadslim.testing import write_toy_config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with toy.py in it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    write_toy_config('toy.py', 'work', log_level='ERROR')
    return tmp_path


@pytest.fixture
def command(folder, capfd, monkeypatch):
    """command(*args) -> (exit code, stdout, stderr); environment and signal handlers are put back."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', os.environ.get('CUDA_VISIBLE_DEVICES', ''))
    terminate = signal.getsignal(signal.SIGTERM)

    def run(*args):
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        return code, *capfd.readouterr()

    yield run
    signal.signal(signal.SIGTERM, terminate)
