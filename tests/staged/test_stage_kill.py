"""A staged run that is killed, wherever, and started again ends as one that was not."""

import importlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop
from stage_toys import write_stages

from processes import Forked
from vadslim.checkpoint import load_checkpoint
from vadslim.hooks import checkpoint_hook
from vadslim.hooks.stage_checkpoint_hook import METRICS, VALIDATED
from vadslim.staged import cli, stage_folder, training
from vadslim.stages import Step
from vadslim.testing import ToyAccuracy

COMMAND = ('toy.py', '--run-all-stages')
STAGES = {'one': 2, 'two': 3}  # epochs


@pytest.fixture(scope='module', autouse=True)
def no_environment_report():
    """Nor is each fork to import for seconds."""
    importlib.import_module('matplotlib.pyplot')
    importlib.import_module('torch._dynamo')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        yield


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run that nothing interrupted: what it left, and how many seconds it took."""
    folder = tmp_path_factory.mktemp('whole')
    write_stages(folder)
    begun = time.monotonic()
    finish(folder)
    return left(folder), time.monotonic() - begun


def start(folder, before=None):
    if not (folder / 'toy.py').exists():
        folder.mkdir(exist_ok=True)
        write_stages(folder)
    return Forked(cli.main, COMMAND, folder, before=before)


def finish(folder):
    process = start(folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def flat(item, path=''):
    if isinstance(item, dict | list | tuple):
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        return {name: value for key, part in pairs for name, value in flat(part, f'{path}/{key}').items()}
    return {path: item.numpy().tobytes() if isinstance(item, torch.Tensor) else item}


def left(folder):
    """All that does not depend on time and place."""
    found = {}
    for stage, epochs in STAGES.items():
        here = folder / 'out' / stage
        names = sorted(path.name for path in here.iterdir() if not path.is_dir())
        found[stage] = json.loads((here / 'done.json').read_text())['result'], names
        assert names == sorted(
            [*(f'checkpoint_{name}.pth' for name in ('best', f'epoch{epochs - 1}', f'epoch{epochs}', 'latest')),
             'config.py', 'done.json', 'last_checkpoint', 'step.json']
        )  # fmt: skip
        for name in names:
            if not name.endswith('.pth'):
                continue
            held = load_checkpoint(here / name)
            told = {key: held[key] for key in ('state_dict', 'optimizer', 'param_schedulers', 'random_state')}
            told |= {'epoch': held['epoch'], 'metric': held['metric'], 'iter': held['meta']['iter']}
            told['config'] = str(held['config']).replace(str(folder), '')
            hub = held['message_hub']
            told['info'] = {key: hub['runtime_info'][key] for key in ('best_score', METRICS, VALIDATED)
                            if key in hub['runtime_info']}  # fmt: skip
            told['history'] = {key: buffer.data[0].tolist() for key, buffer in hub['log_scalars'].items()
                               if 'time' not in key}  # fmt: skip
            found[stage, name] = flat(told)
    assert any('loss_scaler' in key for key in found['two', 'checkpoint_latest.pth'])
    assert found['two'][0]['metrics'] and found['one'][0]['epochs'] == 2
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for part, told in one.items():
        wrong = told != other[part]
        if wrong and isinstance(told, dict):
            wrong = sorted(key for key in {**told, **other[part]} if told.get(key) != other[part].get(key))[:5]
        assert not wrong, (part, wrong, told if isinstance(told, tuple) else '')


def test_killed_at_ten_random_moments(whole, tmp_path):
    expected, seconds = whole
    moments = random.Random(7)
    killed, folders = 0, [tmp_path / '0']
    while killed < 10:
        process, begun = start(folders[-1]), time.monotonic()
        try:
            _, err = process.communicate(timeout=moments.uniform(0.05, 0.6) * seconds)
        except TimeoutError:  # it is killed then
            process.wait(20)
            assert process.returncode in (-signal.SIGKILL, 0)
            killed += process.returncode != 0
            continue
        assert process.returncode == 0, err
        seconds = max(seconds / 2, time.monotonic() - begun)  # the machine may be faster by now
        folders.append(tmp_path / str(len(folders)))
    finish(folders[-1])
    for folder in folders:
        assert_same(left(folder), expected)
        shutil.rmtree(folder)


# --- the worst moments --------------------------------------------------------------------------------------


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def instead(owner, name, when):
    """``before`` of a process: it dies at a call whose arguments fulfil a condition."""

    def patch():
        original = getattr(owner, name)

        def call(*args, **kwargs):
            if when(*args):
                die()
            return original(*args, **kwargs)

        setattr(owner, name, call)

    return patch


def amid_writing(file, when):
    """It dies when half of a file is written."""

    def patch():
        original = checkpoint_hook.atomic_write

        def write(path, mode='w'):
            writer = original(path, mode)
            if str(path).endswith(file) and when(Path(path).parent):
                with writer as stream:
                    stream.write(b'half of it')
                    stream.flush()
                    die()
            return writer

        checkpoint_hook.atomic_write = write

    return patch


def iteration(stage, number):
    when = lambda loop, *_: loop.runner.work_dir.endswith(stage) and loop.runner.iter == number  # noqa: E731
    return instead(EpochBasedTrainLoop, 'run_iter', when)


def before_renaming(name):
    """It dies when a file is whole, but not yet under its name."""
    return instead(Path, 'replace', lambda path, *_: path.name.startswith(f'.{name}.'))


KILLS = {
    'amid the first step.json': before_renaming('step.json'),
    'amid the first epoch': iteration('one', 1),
    'amid the first checkpoint': amid_writing('one/checkpoint_latest.pth', lambda _: True),
    'amid the second': amid_writing('one/checkpoint_latest.pth', lambda folder: list(folder.glob('*_epoch1.pth'))),
    'amid the validation': instead(ToyAccuracy, 'compute_metrics', lambda *_: True),
    'before done.json': instead(Step, 'finish', lambda *_: True),
    'amid done.json': before_renaming('done.json'),
    'after done.json': instead(stage_folder, 'open_step', lambda folder, *_: folder.name == 'two'),
    'after step.json': instead(training, 'compare_architecture', lambda *_: True),
    'amid the best': amid_writing('two/checkpoint_best.pth', lambda _: True),
    'amid the second stage': iteration('two', 3),
    'after all': instead(cli, '_print', lambda *_: True),
}


def test_killed_at_the_worst_moments(whole, tmp_path):
    folder = tmp_path / 'run'
    for when, before in KILLS.items():
        process = start(folder, before)
        _, err = process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL, (when, err)
        assert 'Traceback' not in err
    assert finish(folder).count('done already, reused') == 2
    assert_same(left(folder), whole[0])
    assert not list(folder.rglob('*.tmp'))
