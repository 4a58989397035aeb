"""A folder with the config of a toy network, and the command called in this process."""

import os

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
    """command(*args) -> (exit code, stdout, stderr); the environment is put back."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', os.environ.get('CUDA_VISIBLE_DEVICES', ''))

    def run(*args):
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        return code, *capfd.readouterr()

    return run
