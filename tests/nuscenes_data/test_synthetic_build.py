"""The synthetic dataset as files and as a command: repeatable, atomic, and clear about mistakes."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from nuscenes.utils.splits import create_splits_scenes

from vadslim.cli import UserError, run
from vadslim.nuscenes_data.synthetic import Settings, generate, simulate
from vadslim.nuscenes_data.synthetic.build import remove_leftovers
from vadslim.nuscenes_data.synthetic.catalogue import LIDAR_TRANSLATION, MINI_TRAIN, MINI_VAL, scene_names

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'tools' / 'data_converter' / 'make_synthetic_nuscenes.py'
TINY = Settings(scenes=2, seed=3, samples=2)


def _digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp('tiny') / 'data'
    generate(root, TINY)
    return root


def test_rebuilt_dataset_has_the_same_bytes(tiny, tmp_path):
    """A damaged dataset is noticed; written anew, by several processes, it equals the first one byte for byte."""
    root, whole = tmp_path / 'data', _digests(tiny)
    shutil.copytree(tiny, root)
    next((root / 'samples' / 'CAM_BACK').iterdir()).unlink()
    with pytest.raises(UserError, match='lost files'):
        generate(root, TINY)
    result = generate(root, TINY, workers=2, overwrite=True)
    assert not result.reused
    assert _digests(root) == whole
    assert result.files == len(whole) - 1  # the marker does not count itself


def test_seed_changes_streets_and_traffic():
    one, other = (simulate('scene-0103', Settings(scenes=2, seed=seed, samples=2)) for seed in (3, 4))
    assert not np.allclose(one.drive.path.xy[:50], other.drive.path.xy[:50], atol=0.5)
    assert [a.category for a in one.actors] != [a.category for a in other.actors]


def test_a_complete_dataset_is_reused(tiny):
    before = _digests(tiny)
    (tiny / 'vad_nuscenes_infos_temporal_train.pkl').write_bytes(b'added by somebody')
    try:
        result = generate(tiny, TINY)
    finally:
        (tiny / 'vad_nuscenes_infos_temporal_train.pkl').unlink()
    assert result.reused
    assert _digests(tiny) == before


def test_other_settings_need_overwrite(tiny):
    with pytest.raises(UserError, match='--overwrite'):
        generate(tiny, Settings(scenes=2, seed=4, samples=2))


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('precious')
    for overwrite in (False, True):
        with pytest.raises(UserError, match='not written by this tool'):
            generate(tmp_path, TINY, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_folder_behind_a_missing_one_is_left_alone(tmp_path, overwrite):
    """``missing/../mine`` does not exist before ``missing`` is made, and is somebody's folder after."""
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'mine.txt').write_text('precious')
    with pytest.raises(UserError, match='not written by this tool'):
        generate(tmp_path / 'missing' / '..' / 'mine', TINY, overwrite=overwrite)
    assert (tmp_path / 'mine' / 'mine.txt').read_text() == 'precious'
    assert not (tmp_path / 'missing').exists()


@pytest.mark.parametrize('overwrite', [False, True])
def test_folder_that_appears_meanwhile_is_left_alone(tmp_path, monkeypatch, overwrite):
    out = tmp_path / 'data'

    def build(*_):
        out.mkdir()
        (out / 'mine.txt').write_text('precious')

    monkeypatch.setattr('vadslim.nuscenes_data.synthetic.build._build', build)
    with pytest.raises(UserError, match='cannot write'):
        generate(out, TINY, overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob('*')] == ['data', 'mine.txt']


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    """A full disk in the middle: one error, and neither the folder nor a half of it remains."""
    calls = []

    def full(path, data):
        calls.append(path)
        if len(calls) == 10:
            raise OSError(28, 'No space left on device')
        return len(data)

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(UserError, match=r'cannot write .*No space left on device'):
        generate(tmp_path / 'data', TINY)
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(UserError, match='1 MB free'):
        generate(tmp_path / 'data', TINY)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'scenes': 1}, '2 to 10'),
        ({'scenes': 11}, '2 to 10'),
        ({'samples': 1}, '2 to 40'),
        ({'seed': -1}, '--seed -1'),
        ({'quality': 101}, '10 to 95'),
    ],
)
def test_wrong_numbers(arguments, words):
    with pytest.raises(UserError, match=words):
        Settings(**arguments)


def test_scene_names_are_the_official_splits():
    splits = create_splits_scenes()
    assert list(MINI_TRAIN) == splits['mini_train']
    assert list(MINI_VAL) == splits['mini_val']
    for count in range(2, 11):
        names = scene_names(count)
        assert len(set(names)) == count
        assert set(names) & set(MINI_TRAIN) and set(names) & set(MINI_VAL)


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('make_synthetic_nuscenes', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_reuses_a_dataset(tool, tiny, capsys):
    assert run(tool.main, ['--out', str(tiny), '--scenes', '2', '--samples', '2', '--seed', '3']) == 0
    assert 'reused' in capsys.readouterr().out


def test_command_says_mistakes_in_one_line(tool, tiny, tmp_path, capsys):
    blocked = tmp_path / 'file'
    blocked.write_text('')
    for arguments, words in (
        (['--out', str(blocked / 'data')], 'is a file, not a folder'),
        (['--out', str(tmp_path)], 'not written by this tool'),
        (['--out', str(tiny), '--scenes', '3'], '--overwrite'),
        (['--out', str(tmp_path / 'new'), '--scenes', '11'], '2 to 10'),
    ):
        assert run(tool.main, arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1 and lines[0].startswith('error: ') and words in lines[0]


def test_interrupt_leaves_nothing(tmp_path):
    """Ctrl-C in the middle of the work, as a terminal sends it: to the whole process group."""
    process = subprocess.Popen(
        [sys.executable, str(TOOL), '--out', str(tmp_path / 'data'), '--workers', '2'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY / 'projects')},
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not list(tmp_path.glob('.data.partial-*')):
        time.sleep(0.1)
    assert list(tmp_path.glob('.data.partial-*'))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'interrupted' in errors and 'Traceback' not in errors
    assert list(tmp_path.iterdir()) == []


def test_killed_run_is_cleaned_up(tmp_path):
    """What a killed run left behind goes away, what a living one writes stays."""
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    dead, living = tmp_path / f'.data.partial-{gone.pid}', tmp_path / f'.data.partial-{os.getppid()}'
    for folder in (dead, living):
        folder.mkdir()
        (folder / 'x').write_text('')
    remove_leftovers(tmp_path / 'data')
    assert not dead.exists() and living.exists()


def _commands(scene):
    """VAD's command per sample with six future samples: lidar's lateral offset after 3 s, two metres either way."""
    result = []
    for k in range(scene.samples - 6):
        (x0, y0, yaw), (x1, y1, yaw1) = scene.drive.pose(k / 2), scene.drive.pose(k / 2 + 3)
        ahead = LIDAR_TRANSLATION[0]
        dx = x1 + ahead * np.cos(yaw1) - x0 - ahead * np.cos(yaw)
        dy = y1 + ahead * np.sin(yaw1) - y0 - ahead * np.sin(yaw)
        right = np.sin(yaw) * dx - np.cos(yaw) * dy
        result.append('R' if right >= 2 else 'L' if right <= -2 else 'S')
    return result


@pytest.mark.parametrize('seed', [0, 1])
def test_all_commands_occur_and_plans_differ(monkeypatch, seed):
    """In train and val every command is frequent, and no single plan per command fits."""
    # The ego does not react to the background, which takes most of the time.
    monkeypatch.setattr('vadslim.nuscenes_data.synthetic.population._Builder._populate', lambda _: None)
    scenes = {name: simulate(name, Settings(seed=seed)) for name in (*MINI_VAL, *MINI_TRAIN)}
    for names in (MINI_VAL, MINI_TRAIN):
        commands = [(c, scenes[n], k) for n in names for k, c in enumerate(_commands(scenes[n]))]
        for wanted in 'RLS':
            way = [
                s.drive.s[np.searchsorted(s.drive.times, k / 2 + 3)] - s.drive.s[np.searchsorted(s.drive.times, k / 2)]
                for c, s, k in commands
                if c == wanted
            ]
            assert len(way) >= 0.1 * len(commands)
            assert np.std(way) > 1.0  # metres after 3 s
    # Behind the stopped car the ego stops, and drives on.
    speed = scenes['scene-0553'].drive.speed
    assert speed.min() < 1.0 < 7.0 < speed[-1]
