"""What all tests share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A command that a shell starts in the background ignores Ctrl-C, and so do its children; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='module', autouse=True)
def no_default_scope_from_elsewhere() -> Iterator[None]:
    """A Runner leaves its default scope behind, and registries of other packages would follow it."""
    from mmengine.registry import DefaultScope

    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic nuScenes of one train and one val scene with 12 key frames each; treat it as read-only."""
    from vadslim.nuscenes_data.synthetic import Settings, generate

    root = tmp_path_factory.mktemp('synthetic') / 'nuscenes'
    generate(root, Settings(scenes=2, seed=0, samples=12))
    return root
