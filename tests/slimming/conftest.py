"""A folder with the config of a toy network, and the command called in this process."""

import os

import pytest

from vadslim.analysis import plots
from vadslim.slimming import main
from vadslim.testing import write_toy_config


@pytest.fixture(scope='session')
def drawn():
    """Pictures that these tests have drawn already: name of the function -> PNG, of the first data that it got."""
    return {}


@pytest.fixture(autouse=True)
def pictures_are_drawn_once(drawn, monkeypatch):
    """Drawing takes a command the most time; what is drawn, other tests look at."""

    def once(draw):
        def drawing(*args):
            if draw.__name__ not in drawn:
                drawn[draw.__name__] = draw(*args)
            return drawn[draw.__name__]

        return drawing

    for name in ('widths_picture', 'parts_picture'):
        monkeypatch.setattr(plots, name, once(getattr(plots, name)))


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
