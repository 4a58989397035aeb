"""What all tests share."""

import fcntl
import functools
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

# A command that a shell starts in the background ignores Ctrl-C, and so do its children; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first: at the end no process works alone on one."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope='module', autouse=True)
def no_default_scope_from_elsewhere() -> Iterator[None]:
    """A Runner leaves its default scope behind, and registries of other packages would follow it."""
    from mmengine.registry import DefaultScope

    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='module', autouse=True)
def no_garbage_from_elsewhere() -> None:
    """What is there before a file's first test is not looked at again: for all that thousands of tests have imported
    each search for garbage takes a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def asked_once() -> Iterator[None]:
    """What is done anew for each Runner, dataset and conversion, and takes seconds where thousands of tests share a
    process: the versions of compilers; the config as text that reads well (here it stays as it is, the same Python);
    a search for garbage.
    """
    from mmengine.config import config
    from mmengine.dataset import base_dataset
    from mmengine.runner import runner

    from vadslim.nuscenes_data import converter

    collect_env = functools.cache(runner.collect_env)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, 'FormatCode', lambda text, **_: (text, True))
        patch.setattr(runner, 'collect_env', lambda: dict(collect_env()))
        for module in (base_dataset, converter):
            patch.setattr(module, 'gc', SimpleNamespace(collect=int, freeze=int, unfreeze=int))
        yield


@pytest.fixture(scope='session')
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic nuScenes of one train and one val scene with 12 key frames each; treat it as read-only."""
    from vadslim.nuscenes_data.synthetic import Settings, generate

    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # all workers share one: it takes a quarter of a minute
        folder = folder.parent
    root = folder / 'synthetic' / 'nuscenes'
    with (folder / 'synthetic.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed; the next one finds the dataset whole
        generate(root, Settings(scenes=2, seed=0, samples=12))
    return root


@pytest.fixture(scope='session')
def nano_config(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VAD-nano's config on the small data set; both scenes, 24 frames, are validated on. Treat it as read-only."""
    from vadslim.checkpoint import dump_info, load_info
    from vadslim.nuscenes_data import converter

    folder = tmp_path_factory.mktemp('nano_config')
    files = [path for path, _ in converter.convert(synthetic_root, folder, synthetic_root, 'v1.0-mini')]
    infos = [info for file in files for info in load_info(file)['infos']]
    dump_info({'infos': infos, 'metadata': {'version': 'v1.0-mini'}}, folder / 'both.pkl')
    base = Path(__file__).parents[1] / 'configs' / 'VAD' / 'VAD_nano_synthetic.py'
    data = f'data_root={str(synthetic_root)!r}, ann_file={str(folder / "both.pkl")!r}'
    path = folder / 'nano.py'
    path.write_text(
        f'_base_ = {str(base)!r}\n'
        f'train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict({data}))\n'
        f'val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict({data}))\n'
        'test_dataloader = val_dataloader\n'
    )
    return path
