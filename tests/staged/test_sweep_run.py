"""Points of a sweep as processes; these are small scripts in place of trainings."""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from processes import Forked
from vadslim.checkpoint import save_checkpoint
from vadslim.checkpoint_format import label
from vadslim.cli import UserError
from vadslim.staged.sweep_run import LOG, Run, collect, environment_of, run_points

# what each script begins with: done() leaves what a stage leaves
HEAD = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
def done(value, stage='train'):
    (folder / stage).mkdir(exist_ok=True)
    entry = {'result': {'checkpoint': None, 'metrics': {'accuracy': value}}, 'seconds': 1.5}
    (folder / stage / 'done.json').write_text(json.dumps(entry))
with open(folder / 'calls', 'a') as file:
    file.write('x')
"""


@pytest.fixture
def point(tmp_path):
    def point(name, script='done(0.5)', recipe=0):
        folder = tmp_path / name
        command = [sys.executable, '-S', '-c', f'{HEAD}\n{script}', str(folder)]
        return Run(name, {'a': name}, folder, command, ['train'], recipe)

    return point


def calls(run):
    path = run.folder / 'calls'
    return len(path.read_text()) if path.exists() else 0


def ended(pid):
    """Whether a process is gone, or will be in a moment: it was killed."""
    for _ in range(500):
        try:
            if ') Z ' in Path(f'/proc/{pid}/stat').read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_what_is_finished_is_not_run_again(point, capsys):
    runs = [point('a'), point('b', 'done(0.25)')]
    first = run_points(runs, 1)
    assert [outcome.problem for outcome in first] == [None, None]
    assert first[1].result == {'seconds': 1.5, 'stage': 'train', 'metrics': {'accuracy': 0.25}}
    assert '✓ a' in capsys.readouterr().err
    again = run_points([*runs, point('c')], 1)
    assert again[:2] == first and [calls(run) for run in runs] == [1, 1]
    assert '2 of 3 points are done already' in capsys.readouterr().err
    (runs[0].folder / 'train' / 'done.json').unlink()
    run_points(runs, 1)
    assert [calls(run) for run in runs] == [2, 1]


def test_one_that_fails_does_not_stop_the_others(point):
    runs = [
        point('said', "print('error: no such file', file=sys.stderr); print('more'); sys.exit(2)"),
        point('killed', 'os.kill(os.getpid(), 9)'),
        point('nothing', 'pass'),
        point('good'),
    ]
    outcomes = run_points(runs, 2)
    log = runs[0].folder / LOG
    assert outcomes[0].problem == f'said: failed (exit code 2): no such file; its log is {log}'
    assert 'more' in log.read_text()
    assert 'ended by SIGKILL' in outcomes[1].problem and 'left no results' in outcomes[2].problem
    assert outcomes[3].problem is None
    run_points([point('said'), *runs[1:]], 1)
    assert [calls(run) for run in runs] == [2, 2, 2, 1]


def test_a_command_that_is_not_there(point):
    run = point('a')
    (outcome,) = run_points([Run(**{**vars(run), 'command': ['/no/such/program']})], 1)
    assert outcome.problem == 'a: cannot be run: No such file or directory: /no/such/program'


def test_some_at_once(point):
    """Two wait for each other; a third finds that both have ended."""
    wait = """
(folder / 'here').touch()
for _ in range(1000):
    if (folder.parent / {!r} / 'here').exists():
        break
    time.sleep(0.01)
else:
    sys.exit('alone')
done(1.0)
"""
    last = "done(float(all((folder.parent / name / 'train/done.json').exists() for name in 'ab')))"
    outcomes = run_points([point('a', wait.format('b')), point('b', wait.format('a'))], 2)
    assert [outcome.problem for outcome in outcomes] == [None, None]
    assert run_points([point('c', last)], 2)[0].result['metrics'] == {'accuracy': 1.0}
    outcomes = run_points([point('d', wait.replace('1000', '3').format('e')), point('e')], 1)
    assert 'alone' in outcomes[0].problem and outcomes[1].problem is None


def test_an_interrupt_ends_all(point, capsys):
    sleep = """
import subprocess
child = subprocess.Popen(['sleep', '60'])
(folder / 'pids.half').write_text(f'{os.getpid()} {child.pid}')
(folder / 'pids.half').rename(folder / 'pids')
time.sleep(60)
"""
    runs = [point('done'), point('a', sleep), point('b', sleep), point('never')]

    def interrupt():
        until = time.monotonic() + 100
        while time.monotonic() < until and not all((run.folder / 'pids').exists() for run in runs[1:3]):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_points(runs, 2)
    assert 'stopped: 1 of 4 points are done; the same command goes on' in capsys.readouterr().err
    for run in runs[1:3]:
        for pid in (run.folder / 'pids').read_text().split():
            assert ended(int(pid)), pid
    assert calls(runs[3]) == 0


def test_a_sweep_that_is_killed_leaves_nothing_running(point, monkeypatch):
    """Or what is left would hold the points that the same command is to go on with."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    run = point('a', "(folder / 'pid').write_text(str(os.getpid())); (folder / 'ready').touch(); time.sleep(60)")
    sweep = Forked(lambda _: run_points([run], 1) and None, [])
    until = time.monotonic() + 100
    while time.monotonic() < until and not (run.folder / 'ready').exists():
        time.sleep(0.02)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait(100)
    assert ended(int((run.folder / 'pid').read_text()))


def test_nothing_is_run_where_a_folder_is_not_ours(point):
    runs = [point('a'), point('b')]
    runs[1].folder.mkdir()
    (runs[1].folder / 'thesis.txt').touch()
    with pytest.raises(UserError, match=f'{runs[1].folder}: holds files that are not of vadslim'):
        run_points(runs, 1)
    assert calls(runs[0]) == 0


def test_other_settings(point):
    run_points([point('a')], 1)
    with pytest.raises(UserError, match='choose another folder or give --overwrite'):
        run_points([point('a', recipe=1)], 1)
    assert run_points([point('a', 'done(0.1)', recipe=1)], 1, overwrite=True)[0].result['metrics'] == {'accuracy': 0.1}


def test_a_point_belongs_to_one_process(point, tmp_path):
    run_points([point('a')], 1)
    (tmp_path / 'a' / 'done.json').unlink()
    with (tmp_path / 'a' / LOG).open('a') as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        (outcome,) = run_points([point('a')], 1)
    assert outcome.problem == 'a: cannot be run: another process is at it'
    assert run_points([point('a')], 1)[0].problem is None


def test_a_second_sweep_of_the_same_points(point, tmp_path):
    first = Forked(lambda _: run_points([point('a', 'time.sleep(60)'), point('b')], 1) and 0, [])
    while not (tmp_path / 'a' / 'calls').exists():
        time.sleep(0.02)
    with pytest.raises(UserError, match=f'{tmp_path / "b"}: another command is at work in it .process '):
        run_points([point('b'), point('c')], 1)
    first.send_signal(signal.SIGINT)  # it ends its processes
    first.wait(100)
    assert calls(point('b')) == calls(point('c')) == 0
    assert [outcome.problem for outcome in run_points([point('b'), point('c')], 1)] == [None, None]


def test_gpus_and_cores_are_shared(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
    monkeypatch.setattr(os, 'cpu_count', lambda: 8)
    assert [environment_of(slot, 3, ['3', '5'])['CUDA_VISIBLE_DEVICES'] for slot in range(3)] == ['3', '5', '3']
    assert environment_of(0, 1, [])['CUDA_VISIBLE_DEVICES'] == '3,5'
    assert environment_of(0, 3, [])['OMP_NUM_THREADS'] == '2' and 'OMP_NUM_THREADS' not in environment_of(0, 1, [])


def test_the_best_of_the_last_stage_that_was_validated(tmp_path):
    run = Run('x', {}, tmp_path, [], ['first', 'second', 'analysis'], 0)
    for stage in run.stages:
        metrics = {} if stage == 'analysis' else {'loss': 3.0, 'f1': 0.5}
        (tmp_path / stage).mkdir()
        text = json.dumps({'result': {'checkpoint': 'best.pth', 'metrics': metrics}, 'seconds': 2.25})
        (tmp_path / stage / 'done.json').write_text(text)
    content = {'state_dict': {'a': torch.ones(1)}, **label(3, metric=0.75, metric_name='f1', stage='second')}
    save_checkpoint(content, tmp_path / 'second' / 'best.pth')
    assert collect(run) == {
        'seconds': 6.75,
        'stage': 'second',
        'metrics': {'loss': 3.0, 'f1': 0.5},
        'best': 0.75,
        'best_name': 'f1',
    }
