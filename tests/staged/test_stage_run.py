"""train_stages.py: what is reused, what goes on, what is refused, and what a stage's files are good for."""

import json
import math
import resource
import shutil
import signal
import sys
import time

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop
from stage_toys import write_stages

from processes import Forked
from vadslim import evaluate, train
from vadslim.checkpoint import load_checkpoint
from vadslim.cli import run as run_command
from vadslim.slimming import main as analysis_struct
from vadslim.staged import cli
from vadslim.testing import ToyNet

ALL = ('toy.py', '--run-all-stages')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder with a run of all stages."""
    folder = tmp_path_factory.mktemp('whole')
    write_stages(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.chdir(folder)
        assert cli.main(ALL) == 0
    return folder


@pytest.fixture
def copied(whole, tmp_path, monkeypatch):
    """A copy of it, as the current folder."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    folder = tmp_path / 'copied'
    shutil.copytree(whole, folder)
    write_stages(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the config alone, as the current one."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    write_stages(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder):
    files = [path for path in folder.rglob('*') if path.is_file() and '__pycache__' not in path.parts]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def says_one_line(capsys, argv, *words, main=cli.main):
    assert main([str(word) for word in argv]) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert last.startswith('error: ') and err.count('error') == 1, err
    assert all(word in last for word in words), last


def test_what_is_done_is_reused(copied, capsys):
    before = everything(copied)
    latest = copied / 'out' / 'two' / 'checkpoint_latest.pth'
    for argv in (
        ALL,
        ['toy.py', '--stage', 'two', '--init_from', 'out/one/checkpoint_best.pth'],
        ['toy.py', '--stage', 'one', '--resume'],
        ['toy.py', '--resume', str(latest)],
        ['--resume', str(latest)],
    ):
        assert cli.main(argv) == 0
        out, err = capsys.readouterr()
        assert err.count('done already, reused') == (2 if argv is ALL else 1)
        assert 'toy/accuracy 0.' in out
    assert everything(copied) == before


def test_other_settings(copied, capsys):
    before = everything(copied)
    changed = 'out/one: holds a run with other settings (optim_wrapper.optimizer.lr 0.002 -> 0.0001); --resume goes on'
    says_one_line(capsys, ['toy.py', '--stage', 'one', '--lr', '1e-4'], changed, '--overwrite')
    says_one_line(capsys, ['toy.py', '--stage', 'two', '--init_from', 'random'], 'inputs differ', '--overwrite')
    says_one_line(capsys, ['toy.py', '--stage', 'two', '--init_from', 'toy.py', '--overwrite'], 'toy.py: ')
    wider = ['--init_from', 'out/two/checkpoint_best.pth', '--overwrite', '--set', 'model.hidden=24']
    says_one_line(capsys, ['toy.py', '--stage', 'one', *wider], 'ffn.', '(24,')
    says_one_line(capsys, ['toy.py', '--stage', 'two', '--resume', '--overwrite'], 'choose one')
    assert everything(copied) == before
    mine = copied / 'out' / 'two' / 'mine.txt'
    mine.touch()
    assert cli.main(['toy.py', '--stage', 'two', '--init_from', 'random', '--epochs', '1', '--overwrite']) == 0
    assert mine.is_file()
    assert json.loads((copied / 'out' / 'two' / 'done.json').read_text())['result']['epochs'] == 1
    assert not (copied / 'out' / 'two' / 'checkpoint_epoch3.pth').exists()


def test_files_of_a_stage_are_good_for_the_others(copied, capsys):
    stage = copied / 'out' / 'two'
    argv = [stage / 'config.py', stage / 'checkpoint_best.pth', '--out', 'metrics.json', '--work-dir', 'test']
    assert run_command(evaluate.main, [str(word) for word in argv]) == 0
    argv = [*argv[:2], '--dry-run', '--latency', '0']
    assert analysis_struct([str(word) for word in argv]) == 0
    assert 'nothing was written' in capsys.readouterr().out
    argv = [
        stage / 'config.py',
        '--load-from',
        argv[1],
        '--work-dir',
        'more',
        '--cfg-options',
        'train_cfg.max_epochs=1',
    ]
    assert run_command(train.main, [str(word) for word in argv]) == 0
    assert load_checkpoint(copied / 'more' / 'checkpoint_latest.pth')['epoch'] == 1
    argv = ['stages.yaml', stage / 'checkpoint_best.pth']
    (copied / 'stages.yaml').write_text('stages: [{name: two}]\n')
    says_one_line(
        capsys, argv, 'a stage of it has a config of its own', main=lambda words: run_command(evaluate.main, words)
    )
    held = load_checkpoint(stage / 'checkpoint_best.pth')
    assert json.loads((copied / 'metrics.json').read_text()) == {'toy/accuracy': held['metric']}
    (entry,) = held['config']['stages']
    assert entry['name'] == held['metadata']['stage'] == 'two' and entry['init_from'].endswith('checkpoint_best.pth')


def test_a_checkpoint_of_an_old_script(folder, capsys):
    torch.manual_seed(3)
    moments = {'state': {0: {'step': 8}}, 'param_groups': []}
    old = {'epoch': 4, 'model_state_dict': ToyNet().state_dict(), 'optimizer_state_dict': moments, 'loss': 0.5}
    torch.save(old, 'old.pth')
    says_one_line(capsys, ['toy.py', '--stage', 'one', '--resume', 'old.pth'], 'old.pth is of stage structural')
    assert cli.main(['toy.py', '--stage', 'one', '--init_from', 'old.pth', '--epochs', '1']) == 0
    assert 'of old.pth 25 tensors loaded\n' in capsys.readouterr().err
    now = load_checkpoint(folder / 'out' / 'one' / 'checkpoint_latest.pth')
    assert (now['epoch'], now['version']) == (1, 2)
    assert (now['state_dict']['norm.weight'] - old['model_state_dict']['norm.weight']).abs().max() < 0.05


def test_mistakes_are_told_before_anything_is_trained(folder, capsys, monkeypatch):
    torch.save({'state_dict': ToyNet(hidden=48).state_dict()}, 'wide.pth')
    torch.save({'state_dict': {}, 'meta': {'epoch': 1, 'iter': 2}, 'message_hub': {}}, 'other.pth')
    (folder / 'theirs' / 'one').mkdir(parents=True)
    (folder / 'theirs' / 'one' / 'thesis.txt').touch()
    for argv, words in [
        ([*ALL, '--init_from', 'gone.pth'], ['--init_from gone.pth: no such file']),
        (['toy.py', '--stage', 'two', '--init_from', 'one'], ['stage one has left no', 'run it first']),
        (['toy.py', '--stage', 'three'], ['no such stage; the stages are one, two']),
        (['toy.py', '--stage', 'one', '--resume', 'gone.pth'], ['gone.pth: no such file']),
        (['toy.py', '--stage', 'one', '--resume', 'wide.pth'], ['holds weights', '--init_from wide.pth']),
        (['toy.py', '--stage', 'one', '--resume', 'other.pth'], ['does not say which stage']),
        (
            ['toy.py', '--stage', 'one', '--init_from', 'wide.pth'],
            ['wide.pth is not one of', 'ffn.0.weight is (48, 16)'],
        ),
        ([*ALL, '--save_dir', 'toy.py'], ['toy.py is a file']),
        ([*ALL, '--save_dir', '/proc/no'], ['/proc/no/one: cannot be written']),
        ([*ALL, '--save_dir', 'theirs'], ['holds files that are not of vadslim']),
        ([*ALL, '--device', 'xpu'], ['--device xpu']),
    ]:
        says_one_line(capsys, argv, *words)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10, 9, 10_000))
        says_one_line(capsys, ALL, '0.0 MB are free', 'two checkpoints of this network take about 0.1 MB')
    assert not list(folder.rglob('checkpoint_*'))
    assert cli.main(['toy.py', '--stage', 'one', '--epochs', '1']) == 0  # what failed to start is in nobody's way


@pytest.mark.parametrize('how', ['loss', 'gradient'])
def test_a_training_that_diverges(copied, capsys, monkeypatch, how):
    """Amid an epoch, or so that only the weights show it, which are about to be written."""
    forward, calls = ToyNet.forward, iter([False, True])

    def diverge(net, inputs, labels=None, mode='tensor'):
        found = forward(net, inputs, labels, mode)
        if mode == 'loss' and how == 'loss':
            found['loss'] = found['loss'] * math.nan
        elif mode == 'loss' and next(calls):  # the epoch's last iteration
            found['loss'] = found['loss'] + (net.conv1.weight * 0).sum().sqrt()
        return found

    stage = copied / 'out' / 'one'
    before = {path: path.read_bytes() for path in stage.glob('checkpoint_*.pth')}
    argv = ['toy.py', '--stage', 'one', '--resume', '--epochs', '3', '--lr']
    with monkeypatch.context() as patch:
        patch.setattr(ToyNet, 'forward', diverge)
        where = 'iteration 5: the loss is nan, ' if how == 'loss' else 'iteration 6: '
        words = [f'epoch 3, {where}conv1.weight is no longer finite', 'go on with a lower learning rate']
        says_one_line(capsys, [*argv, '1'], *words)
    assert {path: path.read_bytes() for path in stage.glob('checkpoint_*.pth')} == before
    assert cli.main([*argv, '1e-4']) == 0
    held = load_checkpoint(stage / 'checkpoint_latest.pth')
    assert held['epoch'] == 3 and all(value.isfinite().all() for value in held['state_dict'].values())


def test_a_disk_that_is_full_when_a_stage_is_resumed(copied, capsys, monkeypatch):
    before = set(everything(copied))
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10, 9, 10_000))
    says_one_line(capsys, ['toy.py', '--stage', 'one', '--resume', '--epochs', '3'], '0.0 MB are free')
    assert set(everything(copied)) == before  # not even a log was begun


def at_iteration(number, what):
    """``before`` of a process: something happens at an iteration of the first stage."""

    def patch():
        original = EpochBasedTrainLoop.run_iter

        def run_iter(loop, *args):
            if loop.runner.iter == number:
                what()
            return original(loop, *args)

        EpochBasedTrainLoop.run_iter = run_iter

    return patch


def test_ctrl_c_says_how_to_go_on(folder):
    def wait():
        print('TRAINS', flush=True)
        time.sleep(60)

    process = Forked(cli.main, ALL, folder, before=at_iteration(2, wait))
    assert any('TRAINS' in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and 'Traceback' not in err
    kept, again, last = err.splitlines()[-3:]
    assert kept.endswith('one/checkpoint_latest.pth is kept') and last == 'interrupted'
    assert again.startswith('to go on: ') and again.endswith(' toy.py --run-all-stages')


def test_a_disk_that_fills_up(folder):
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        sys.dont_write_bytecode = True

    process = Forked(cli.main, ALL, folder, before=at_iteration(2, fill))
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and 'Traceback' not in err
    assert 'cannot be written: File too large' in err.splitlines()[-1]
    stage = folder / 'out' / 'one'
    assert load_checkpoint(stage / 'checkpoint_latest.pth')['epoch'] == 1
    assert not list(stage.glob('.*')) and not (stage / 'done.json').exists()
