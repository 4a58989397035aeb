"""What says which device a staged run is on, before anything looks for one."""

import subprocess
import sys

import pytest
import torch

from vadslim.checkpoint import save_checkpoint
from vadslim.cli import UserError
from vadslim.staged import cli
from vadslim.staged.settings import resolve

STAGES = 'stages:\n  - name: a\n  - name: b\n    device: {type: cpu}\n'


@pytest.fixture
def asked(monkeypatch):
    """The device that the machine is chosen by; nothing is run."""
    asked = []

    def choose(gpus, ids, launcher, device):
        asked.append(device)
        raise UserError('enough')

    monkeypatch.setattr('vadslim.launch.choose_machine', choose)
    return asked


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / 'c.yaml').write_text(text)
        return 'c.yaml'

    return write


def test_the_file_says_it(config, asked, capsys):
    held = resolve(config(f'device: {{type: cpu}}\n{STAGES}')).stages[0].settings
    save_checkpoint({'state_dict': {}, 'config': held, 'metadata': {'stage': 'a'}}, 'a.pth')
    for argv, device in [
        (['c.yaml', '--run-all-stages'], 'cpu'),
        (['c.yaml', '--stage', 'a', '--set', 'stages.b.device.type=cuda'], 'cpu'),
        (['c.yaml', '--stage', 'b', '--set', 'stages.b.device.type=cuda'], 'cuda'),
        (['c.yaml', '--stage', 'a', '--device', 'cuda'], 'cuda'),
        (['--resume', 'a.pth'], 'cpu'),
        (['c.yaml', '--resume', 'a.pth'], 'cpu'),
        (['--resume', 'a.pth', '--device', 'cuda'], 'cuda'),
        (['gone.py', '--resume', 'a.pth'], None),
    ]:
        assert cli.main(argv) == 2
        assert (asked.pop(), asked, capsys.readouterr().err) == (device, [], 'error: enough\n'), argv
    config(STAGES)
    assert cli.main(['c.yaml', '--run-all-stages']) == 2
    assert 'c.yaml: device.type differs between stages (a: null, b: cpu): run them' in capsys.readouterr().err
    assert not asked


@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_a_device_that_is_not_there(config, capsys):
    config(f'device:\n  type: cuda\n{STAGES.replace("cpu", "cuda")}')
    for stage, where in [('a', 'c.yaml:2'), ('b', 'c.yaml:6')]:
        assert cli.main(['c.yaml', '--stage', stage]) == 2
        assert capsys.readouterr().err.startswith(f'error: {where}: device.type cuda: no CUDA device is visible')
    for text, words in [('xpu', "'xpu'; one of cuda, cpu, or null is needed"), ('cuda:1', "'cuda:1'; one of cuda")]:
        config(f'device:\n  type: {text}\n')
        assert cli.main(['c.yaml']) == 2
        assert capsys.readouterr().err.startswith(f'error: c.yaml:2: device.type is {words}')


def test_it_is_known_before_mmengine_looks(config):
    resolve(config('device: {type: cpu}\n'))
    code = """
import sys
from vadslim import launch
from vadslim.staged import cli
def choose(*asked):
    sys.exit('mmengine.device' in sys.modules or asked[-1] != 'cpu')
launch.choose_machine = choose
cli._run(['c.yaml'])
"""
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
