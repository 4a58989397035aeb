"""sweep.py: which commands it runs, and what it says."""

import csv
import shlex
import sys

import pytest

from vadslim.staged.flags import parse_args
from vadslim.staged.sweep_cli import main, srun
from vadslim.testing import write_toy_config

YAML = """
training: {epochs: 2}
stages:
  - {name: structural, model: {full_heads: false}}
  - {name: dense, init_from: best_structural.pth, logging: {tensorboard_dir: null}}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'c.yaml').write_text(YAML)
    return 'c.yaml'


def dry_run(capsys, *argv):
    assert main([*argv, '--dry-run']) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_commands(config, capsys):
    commands = dry_run(capsys, '--config', config, '--set', 'training.lr=1e-3,5e-4', '--epochs', '7')
    assert [command[:3] for command in commands] == [[sys.executable, '-m', 'vadslim.staged']] * 2
    options = parse_args(commands[1][3:])
    assert options.run_all_stages and options.epochs == '7'
    assert options.save_dir == 'work_dirs/sweep_c/lr=0.0005'
    assert options.set == [
        'training.lr=5e-4',
        'stages.structural.logging.tensorboard_dir=work_dirs/sweep_c/tensorboard',
    ]


def test_commands_of_a_python_config(tmp_path, capsys):
    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'work')
    (command,) = dry_run(capsys, str(config), '--set', 'model.hidden=8', '--save-dir', str(tmp_path / 'out'))
    options = parse_args(command[3:])
    assert (options.config, options.set) == (str(config), ['model.hidden=8'])
    assert options.save_dir == str(tmp_path / 'out' / 'hidden=8')


def test_what_another_run_left_is_where_all_points_start(config, tmp_path, capsys):
    argv = ('--config', config, '--stage', 'dense', '--set', 'training.lr=1,2')
    assert main([*argv, '--dry-run']) == 2
    assert 'init_from best_structural.pth: no such file' in capsys.readouterr().err
    best = tmp_path / 'checkpoints' / 'structural' / 'checkpoint_best.pth'
    best.parent.mkdir(parents=True)
    best.touch()
    for command in dry_run(capsys, *argv):
        assert 'stages.dense.init_from=checkpoints/structural/checkpoint_best.pth' in command


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], '--set KEY=A,B is needed'),
        (['--set', 'training.lr=1,x', '--stage', 'structural'], 'training.lr|--lr'),
        (['--set', 'training.lt=1', '--stage', 'structural'], 'the nearest is training.lr'),
        (['--set', 'training.lr=1', '--lr', '2', '--stage', 'structural'], '--set training.lr: another option'),
        (['--set', 'training.save_dir=a,b', '--stage', 'structural'], 'the folders of a sweep are under --save_dir'),
        (['--set', 'stages.dense.seed=1,2', '--stage', 'structural'], 'only stage structural is run'),
        (
            ['--set', 'logging.tensorboard_dir=a', '--stage', 'structural'],
            'the folders of a sweep are under --save_dir',
        ),
        (['--set', 'training.lr=1', '--import', 'no.such'], '--import no.such: no such module'),
        (['--set', 'training.lr=1', '--resume'], 'every point of a sweep goes on by itself'),
        (['--set', 'training.lr=1', '--launcher', 'slurm'], '--partition P go together'),
        (['--set', 'training.lr=1', '--partition', 'P'], '--partition P go together'),
        (['--set', 'training.lr=1', '--jobs', '0'], '--jobs'),
        (['--set', 'training.lr=1', '--lrr', '1'], 'unrecognized arguments: --lrr'),
    ],
)
def test_errors(config, tmp_path, capsys, argv, message):
    assert main(['--config', config, *argv]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and any(text in said for text in message.split('|'))
    assert [path.name for path in tmp_path.iterdir()] == ['c.yaml']


@pytest.fixture
def started(monkeypatch):
    """What a sweep would have started, and what it would have been compared by."""
    calls = []

    def points(runs, jobs, overwrite, local, spread):
        calls.append((runs, jobs, overwrite, local, spread))
        return []

    monkeypatch.setattr('vadslim.staged.sweep_run.run_points', points)
    monkeypatch.setattr('vadslim.staged.sweep_report.report', lambda runs, found, folder, metric: calls.append(metric))
    return calls


@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        ([], (1, False, True, True)),
        (['--jobs', '9'], (3, False, True, True)),
        (['--jobs', '2', '--overwrite'], (2, True, True, True)),
        (['--gpus', '1'], (1, False, True, False)),
        (['--gpu-ids', '0'], (1, False, True, False)),
        (['--launcher', 'slurm', '--partition', 'P'], (3, False, False, False)),
        (['--launcher', 'slurm', '--partition', 'P', '--jobs', '2'], (2, False, False, False)),
    ],
    ids=str,
)
def test_how_many_at_once(config, started, argv, expected):
    sweep = ['--config', config, '--stage', 'structural', '--set', 'training.lr=1,2,3', '--metric', 'f1', *argv]
    assert main(sweep) == 0
    assert started[0][1:] == expected and started[1] == 'f1'


def test_what_the_results_of_a_point_depend_on(config, started, tmp_path):
    def recipe(*argv):
        started.clear()
        assert main(['--config', config, '--stage', 'dense', '--set', 'training.lr=1', *argv]) == 0
        (run,) = started[0][0]
        return run.recipe, run.inputs, run.command

    best = tmp_path / 'checkpoints' / 'structural' / 'checkpoint_best.pth'
    best.parent.mkdir(parents=True)
    best.touch()
    base, inputs, _ = recipe()
    assert inputs == {'init_from': best.relative_to(tmp_path)} and [stage['name'] for stage in base] == ['dense']
    for key in ('logging.log_interval', 'training.save_interval', 'training.keep_last_n'):
        assert recipe('--set', f'{key}=7')[0] == base
    assert recipe('--device', 'cpu')[0] == base
    for key in ('training.epochs', 'data.curriculum_stage', 'model.num_layers'):
        assert recipe('--set', f'{key}=7')[0] != base
    (tmp_path / 'other.pth').touch()
    _, inputs, command = recipe('--init_from', 'other.pth')
    assert [str(path) for path in inputs.values()] == ['other.pth']
    assert not any('stages.dense.init_from' in word for word in command)
    (tmp_path / 'p.yaml').write_text('stages: [{name: p, kind: prune, options: {pruning_ratio: 0.5}}]')
    started.clear()
    argv = ['--config', str(tmp_path / 'p.yaml'), '--init_from', 'other.pth', '--run-all-stages', '--set', 'seed=1']
    assert main(argv) == 0
    assert started[0][0][0].recipe[0]['options'] == {'pruning_ratio': 0.5}


def test_srun_is_that_of_slurm_train(monkeypatch):
    for name in ('GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS', 'PYTHON'):
        monkeypatch.delenv(name, raising=False)
    line = 'srun -p gpu --job-name=j --gres=gpu:1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=5'
    assert srun('gpu', 'j', ['x']) == shlex.split(f'{line} --kill-on-bad-exit=1 python -u x')
    for name, value in {'GPUS': '16', 'SRUN_ARGS': '--qos "a b"', 'CPUS_PER_TASK': '2', 'PYTHON': '/p'}.items():
        monkeypatch.setenv(name, value)
    line = 'srun -p gpu --job-name=j --gres=gpu:8 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=2'
    assert srun('gpu', 'j', ['x']) == shlex.split(f'{line} --kill-on-bad-exit=1 --qos "a b" /p -u x --launcher slurm')
    monkeypatch.setenv('GPUS', '$N')  # whatever Slurm makes of it
    assert {'--gres=gpu:8', '--ntasks-per-node=8'} <= set(srun('gpu', 'j', ['x']))


SRUN = """#!/bin/sh
echo "$@" >>srun_calls
while [ "$1" != -u ]; do shift; done
shift
while [ "$1" != --save_dir ]; do shift; done
case $2 in *0.5) echo 'error: out of memory'; exit 3 ;; esac
mkdir "$2/structural"
echo '{"result": {"metrics": {"f1": 0.25}}, "seconds": 3}' >"$2/structural/done.json"
"""


def test_slurm(config, tmp_path, monkeypatch, capsys):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'srun').write_text(SRUN)
    (tmp_path / 'bin' / 'srun').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=':')
    argv = ['--config', config, '--stage', 'structural', '--set', 'training.lr=0.25,0.5,1', '--save_dir', 'out']
    argv += ['--launcher', 'slurm', '--partition', 'gpu']
    assert main(argv) == 2
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last == 'error: lr=0.5: failed (exit code 3): out of memory; its log is out/lr=0.5/sweep.log'
    assert 'curves: tensorboard --logdir out/tensorboard\n' in said.err
    with (tmp_path / 'out' / 'sweep.csv').open(newline='') as file:
        assert [row['state'] for row in csv.DictReader(file)] == ['done', 'failed', 'done']
    lines = (tmp_path / 'srun_calls').read_text().splitlines()
    assert len(lines) == 3 and all('-p gpu --job-name=c_lr=' in line for line in lines)
    assert main(argv) == 2
    assert len((tmp_path / 'srun_calls').read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_training(tmp_path, capfd):
    """What is trained once is not trained again."""
    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'work', epochs=1, size=4)
    save_dir = tmp_path / 'out'
    argv = ['--config', str(config), '--set', 'model.hidden=8', '--save_dir', str(save_dir), '--device', 'cpu']
    assert main(argv) == 0, (save_dir / 'hidden=8' / 'sweep.log').read_text()
    assert 'train: ' in capfd.readouterr().out
    assert (save_dir / 'sweep.png').is_file()
    kept = (save_dir / 'hidden=8' / 'train' / 'done.json').stat()
    assert main(argv) == 0
    assert '1 of 1 points are done already' in capfd.readouterr().err
    assert (save_dir / 'hidden=8' / 'train' / 'done.json').stat() == kept
