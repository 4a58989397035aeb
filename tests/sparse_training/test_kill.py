"""What a kill, Ctrl-C, a full disk or a second command leaves of a run."""

import json
import os
import resource
import shutil
import signal
import sys
import time

import pytest
import torch

from processes import Forked
from sparse_toys import write_recipe
from vadslim.checkpoint import load_checkpoint
from vadslim.hooks import SparseHook
from vadslim.sparse_training import level, run
from vadslim.sparse_training.cli import main

COMMAND = ('toy.py', '--pruning_times', '2', '--save_dir')


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def instead(owner, name, when, what=die):
    """``before`` of a process: it dies at a call whose arguments fulfil a condition."""

    def patch():
        original = getattr(owner, name)

        def call(*args, **kwargs):
            if when(*args):
                what(*args)
            return original(*args, **kwargs)

        setattr(owner, name, call)

    return patch


def iteration(number, iters, what=die):
    """At an iteration of a level's training."""
    when = lambda hook, runner, *_: f'level_{number}' in hook.masks and runner.iter == iters  # noqa: E731
    return instead(SparseHook, 'before_train_iter', when, what)


KILLS = {
    'amid the dense level': iteration(0, 13),
    'amid the masks': instead(level, 'save_masks', lambda path, *_: path.parent.name == 'level_1'),
    'amid a level': iteration(1, 13),
    'amid the results': instead(level, '_save', lambda model, path, *_: str(path).endswith('level_1/best.pth')),
    'before the level is told of': instead(run, '_write', lambda run, levels, *_: len(levels) == 2),
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder with a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    write_recipe(folder / 'toy.py')
    process = Forked(main, [*COMMAND, 'out'], folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return folder


@pytest.fixture
def copied(whole, tmp_path, monkeypatch):
    """A copy of it, as the current folder."""
    shutil.copytree(whole, tmp_path / 'copied')
    monkeypatch.chdir(tmp_path / 'copied')
    return tmp_path / 'copied'


def everything(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob('*') if path.is_file()}


def results(folder):
    found = json.loads((folder / 'results.json').read_text())
    for one in found['levels']:
        one.pop('seconds')
    return found


def tensors(content):
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield key, value
        elif isinstance(value, dict):
            yield from tensors(value)


def says_one_line(outcome, *words):
    code, _, err = outcome
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith('error: ') and 'Traceback' not in err
    assert all(word in last for word in words), last


def test_killed_again_and_again(whole, folder, command):
    for when, before in KILLS.items():
        process = Forked(main, [*COMMAND, 'out'], before=before)
        _, err = process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL, (when, err)
        assert 'Traceback' not in err
    code, _, err = command(*COMMAND, 'out')
    assert code == 0 and err.count('done already, reused') == 2  # the last kill came when all was done
    assert results(folder / 'out') == results(whole / 'out')
    for number in (0, 1):
        for name in ('masks.pth', 'model.pth', 'best.pth'):
            one, two = (
                dict(tensors(load_checkpoint(place / 'out' / f'level_{number}' / name))) for place in (whole, folder)
            )
            assert one.keys() == two.keys()
            assert all(torch.equal(value, two[key]) for key, value in one.items()), (number, name)


def test_another_level_later(copied, command):
    """More levels are added to a run; what is there is not trained again."""
    before = everything(copied / 'out' / 'level_1')
    code, _, err = command('toy.py', '--pruning_times', '3', '--save_dir', 'out')
    assert code == 0 and err.count('reused') == 2
    assert everything(copied / 'out' / 'level_1') == before
    assert len(results(copied / 'out')['levels']) == 3


@pytest.mark.parametrize('flags', [['--rate', '0.3'], ['--lr', '0.01'], ['--seed', '1'], ['--struct', 'imp'],
                                   ['--cfg-options', 'model.depth=14']], ids=str)  # fmt: skip
def test_other_settings(flags, whole, command, monkeypatch):
    monkeypatch.chdir(whole)
    before = everything(whole)
    says_one_line(command(*COMMAND, 'out', *flags), 'config, flags or inputs differ', '--overwrite')
    assert everything(whole) == before


def test_overwritten(copied, command):
    before = everything(copied / 'out' / 'level_0')
    assert command(*COMMAND, 'out', '--rate', '0.3', '--overwrite')[0] == 0
    assert everything(copied / 'out' / 'level_0') == before  # does not depend on it
    assert results(copied / 'out')['levels'][1]['remain_weight_element'] == pytest.approx(70, abs=0.01)


def test_folders_of_others(folder, command):
    (folder / 'out').mkdir()
    (folder / 'out' / 'config.py').write_text('mine = True\n')
    before = everything(folder)
    says_one_line(command(*COMMAND, 'out'), 'out: its config.py is not of a run', 'choose a new or empty folder')
    (folder / 'out' / 'config.py').rename(folder / 'out' / 'other.py')
    (folder / 'out' / 'level_0').mkdir()
    (folder / 'out' / 'level_0' / 'mine.txt').touch()
    says_one_line(command(*COMMAND, 'out'), 'level_0: holds files that are not of vadslim')
    assert {path.name for path in before} <= {path.name for path in folder.rglob('*')} | {'config.py'}
    assert not (folder / 'out' / 'results.json').exists()


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['out', '--resume'], ['out holds no run to go on with']),
        (['out', '--resume', '--checkpoint', 'toy.py'], ['is no file of a run']),
        (['toy.py'], ['--save_dir toy.py: cannot be created: File exists']),
        (['/proc/no/such'], ['cannot be created']),
        (['out', '--init', '/proc/no/such.pth'], ['--init /proc/no/such.pth: its folder cannot be created']),
        (['out', '--init', 'toy.py'], ['toy.py: is not a checkpoint']),
        (['out', '--pretrained', 'no.pth'], ['no.pth: no such file']),
        (['out', '--file_name', 'results.json'], ["--file_name 'results.json'"]),
        (['out', '--vit_structured'], ['none of 6 prunable weights is of an attention']),
        (['out', '--scope', 'layer-wise', '--layer_rates', 'layer9.*=1'], ['the nearest is layer']),
        (['out', '--reg_granularity_prune', '500', '--reg_ceiling', '500'], ['SGD diverges from']),
        (['out', '--cfg-options', 'model.depth=9'], ['depth 9: 6 n + 2 is needed']),
    ],
)
def test_mistakes_are_seen_before_anything_is_trained(flags, words, folder, command):
    says_one_line(command(*COMMAND, *flags), *words)
    assert not list(folder.rglob('model.pth')) and not list(folder.rglob('config.py'))


def test_resume_by_one_of_its_files(copied, command):
    code, _, err = command('toy.py', '--pruning_times', '2', '--resume', '--checkpoint', 'out/level_1/best.pth')
    assert code == 0 and err.count('reused') == 2


def test_ctrl_c(folder):
    def wait(*_):
        print('TRAINS', flush=True)
        time.sleep(60)

    process = Forked(main, [*COMMAND, 'out'], folder, before=iteration(0, 5, wait))
    for line in process.stdout:
        if 'TRAINS' in line:
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == 'interrupted' and 'Traceback' not in err


@pytest.mark.parametrize('limit', [50_000, 450_000], ids=['the start', 'a checkpoint'])
def test_a_full_disk(limit, folder):
    """A network is 0.3 MB, with its momenta 0.6."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.dont_write_bytecode = True

    process = Forked(main, [*COMMAND, 'out'], folder, before=small_files)
    _, err = process.communicate(timeout=120)
    says_one_line((process.returncode, '', err), 'cannot be written', 'File too large')
    assert not [path for path in folder.rglob('*') if path.name.endswith('.tmp')]
