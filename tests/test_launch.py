"""Who starts which processes, on which devices; what is left of them when one fails or Ctrl-C comes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from processes import Forked
from vadslim import cli, train
from vadslim.cli import UserError
from vadslim.launch import choose_machine, torchrun
from vadslim.testing import write_toy_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher's environment; the visible GPUs are put back."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')


@pytest.mark.parametrize(
    'gpus, ids, launcher, torchrun, expected',
    [
        (None, None, None, None, ('none', 0)),
        (1, [7], None, None, ('none', 0)),
        (3, None, None, None, ('pytorch', 3)),
        (None, [1, 5], None, None, ('pytorch', 2)),
        (4, [1], None, None, ('none', 0)),  # ids count
        (None, None, 'pytorch', None, ('pytorch', 1)),
        (3, None, 'none', None, ('none', 0)),
        (3, None, 'slurm', None, ('slurm', 0)),
        (3, None, None, (1, 3), ('pytorch', 0)),
        (3, None, 'pytorch', (2, 3), ('pytorch', 0)),
        (None, None, 'none', (0, 1), ('none', 0)),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_who_starts_what(monkeypatch, gpus, ids, launcher, torchrun, expected):
    if torchrun:
        monkeypatch.setenv('RANK', str(torchrun[0]))
        monkeypatch.setenv('WORLD_SIZE', str(torchrun[1]))
    assert choose_machine(gpus, ids, launcher) == ('cpu', *expected)


def test_launcher_none_warns(capsys):
    choose_machine(3, None, 'none', 'cpu')
    assert 'one process does the work, not 3' in capsys.readouterr().err


def test_launcher_none_among_several_is_refused(monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UserError, match='use --launcher pytorch'):
        choose_machine(None, None, 'none')


@pytest.mark.parametrize(
    'gpus, ids, launcher, device, visible, expected',
    [
        (None, None, None, None, None, None),
        (None, None, None, None, '4,5,6,7', '4,5,6,7'),
        (1, None, None, None, None, '0'),
        (2, None, None, None, '4,5,6,7', '4,5'),
        (None, [3], None, None, None, '3'),
        (None, [2, 0], None, None, '4,5,6,7', '6,4'),
        (8, None, 'slurm', None, '4,5,6,7', '4,5,6,7'),  # of all machines; slurm has chosen
        (None, None, None, 'cpu', None, ''),
        (None, [4], None, None, None, '--gpu-ids 4: this machine shows 4 GPUs, ids 0 to 3'),
        (5, None, None, None, None, '--gpus 5: this machine shows 4 GPUs'),
        (None, [1, 1], None, None, None, '--gpu-ids 1 1: an id is given twice'),
    ],
)
def test_which_gpus_are_visible(monkeypatch, gpus, ids, launcher, device, visible, expected):
    """On a machine with four GPUs."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    if visible is None:
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    else:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    if expected and expected.startswith('--'):
        with pytest.raises(UserError, match=expected):
            choose_machine(gpus, ids, launcher, device)
        return
    assert choose_machine(gpus, ids, launcher, device).device == ('cpu' if expected == '' else 'cuda')
    assert os.environ.get('CUDA_VISIBLE_DEVICES') == expected


# --- real processes -----------------------------------------------------------------------------------------


def environment(folder):
    """Processes find this vadslim and what is in the folder."""
    return {'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(ROOT / 'projects'), str(folder)])}


def start_workers(folder, worker):
    """Two processes of a module that imports this of vadslim: they end as a rank does."""
    (folder / 'worker.py').write_text(f'import os, sys, time\nfrom vadslim import cli\n{worker}')
    return Forked(lambda _: cli.run(lambda argv: torchrun('worker', argv, 2), []), [], folder, environment(folder))


@pytest.mark.parametrize(
    'rank, end, code, words',
    [
        (1, "raise cli.UserError('no such data')", 2, 'error: process 1: no such data'),
        (1, 'os.kill(os.getpid(), 9)', 137, 'error: process 1 was ended by SIGKILL'),
    ],
)
def test_one_process_fails_while_the_other_waits(tmp_path, rank, end, code, words):
    worker = f"""
def main(argv):
    if os.environ['RANK'] == '{rank}':
        {end}
    time.sleep(60)

sys.exit(cli.run(main))
"""
    process = start_workers(tmp_path, worker)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.strip().splitlines() == [words]


def test_what_all_processes_find_is_said_once(tmp_path):
    worker = """
def main(argv):
    raise cli.UserError('no such data')

sys.exit(cli.run(main))
"""
    process = start_workers(tmp_path, worker)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.strip().splitlines() == ['error: no such data']


@pytest.mark.parametrize('processes', [1, 2])
def test_ctrl_c_in_training_leaves_one_line_and_no_process(tmp_path, processes):
    write_toy_config(tmp_path / 'toy.py', tmp_path / 'run', epochs=1000)
    argv = ['toy.py', '--gpus', str(processes), '--cfg-options', 'train_dataloader.num_workers=1']
    if processes == 1:
        process = Forked(lambda argv: cli.run(train.main, argv), argv, tmp_path)
    else:
        options = {'cwd': tmp_path, 'env': {**os.environ, **environment(tmp_path)}, 'text': True}
        command = [sys.executable, ROOT / 'tools' / 'train.py', *argv]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    while not (tmp_path / 'run' / 'epoch_2.pth').exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)  # to the end of all that hold its pipes
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == 'interrupted'
    assert 'Traceback' not in err
    assert not [name for name in commands() if str(tmp_path) in name]


def commands():
    """The command lines and working folders of all processes."""
    for folder in Path('/proc').iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                yield f'{(folder / "cmdline").read_text()} {(folder / "cwd").readlink()}'
            except OSError:
                continue
