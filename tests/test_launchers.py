"""Launchers other than torchrun: what they set in the environment is what MMEngine needs."""

import os
from pathlib import Path

import pytest

from processes import Forked, free_port
from vadslim import cli
from vadslim.cli import UserError
from vadslim.launch import init_distributed
from vadslim.testing import write_toy_config
from vadslim.train import main


def forget() -> None:
    """Where another launcher's first process would be."""
    os.environ.pop('MASTER_ADDR', None)


def test_mpi_trains(tmp_path: Path) -> None:
    mpirun = dict.fromkeys(('OMPI_COMM_WORLD_LOCAL_SIZE', 'OMPI_COMM_WORLD_SIZE'), '1')
    mpirun |= dict.fromkeys(('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK'), '0')
    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'work', epochs=1)
    environment = {**mpirun, 'MASTER_PORT': free_port()}
    process = Forked(lambda argv: cli.run(main, argv), [config, '--launcher', 'mpi'], env=environment, before=forget)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
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
