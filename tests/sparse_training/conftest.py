"""A folder with the recipe of a toy, and the command called in this process."""

import os

import pytest

from sparse_toys import write_recipe
from vadslim.sparse_training.cli import main


@pytest.fixture(scope='module', autouse=True)
def plain_logs():
    """Runners spend no time on how their log looks: neither here nor in forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with toy.py in it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / 'toy.py')
    return tmp_path


@pytest.fixture
def command(capfd, monkeypatch):
    """command(*args) -> (exit code, stdout, stderr); the environment is put back."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', os.environ.get('CUDA_VISIBLE_DEVICES', ''))

    def run(*args):
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        return code, *capfd.readouterr()

    return run
