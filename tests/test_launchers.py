"""Launchers other than torchrun: what they set in the environment is what MMEngine needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vadslim.cli import UserError
from vadslim.launch import init_distributed
from vadslim.testing import write_toy_config

ROOT = Path(__file__).parents[1]


def test_mpi_trains(tmp_path: Path) -> None:
    mpirun = dict.fromkeys(('OMPI_COMM_WORLD_LOCAL_SIZE', 'OMPI_COMM_WORLD_SIZE'), '1')
    mpirun |= dict.fromkeys(('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK'), '0')
    clean = {name: value for name, value in os.environ.items() if not name.startswith(('OMPI', 'MASTER'))}
    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'work', epochs=1)
    command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--launcher', 'mpi']
    environment = {**clean, **mpirun, 'MASTER_PORT': '29517'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


@pytest.mark.parametrize(
    ('launcher', 'environment', 'words'),
    [
        ('slurm', {}, 'srun did not start this process'),
        ('mpi', {}, 'mpirun did not start this process'),
        (
            'mpi',
            {'OMPI_COMM_WORLD_LOCAL_RANK': '0', 'OMPI_COMM_WORLD_LOCAL_SIZE': '1', 'OMPI_COMM_WORLD_SIZE': '2'},
            'MASTER_ADDR',
        ),
    ],
)
def test_nothing_was_launched(
    monkeypatch: pytest.MonkeyPatch, launcher: str, environment: dict[str, str], words: str
) -> None:
    for name in ('SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MASTER_ADDR', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')  # restored afterwards
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        init_distributed(launcher)
