"""Mistakes and dead ends of slim_masked.py: one line, exit code 2, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from masked_toys import toy_masks, trained_toy, write_masked

import vadslim
from vadslim.checkpoint import save_checkpoint
from vadslim.slimming.masked import main, parse

ROOT = Path(vadslim.__file__).parents[2]


@pytest.fixture
def refused(folder, capfd, monkeypatch):
    """refused(*args): the one line that says why; checks that nothing was written."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')

    def run(*args):
        before = sorted(folder.rglob('*'))
        capfd.readouterr()
        assert main([str(arg) for arg in args]) == 2
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith('error: ')
        assert sorted(path for path in folder.rglob('*') if '__pycache__' not in path.parts) == before
        return lines[0]

    return run


def test_arguments(refused, folder):
    write_masked(folder / 'masked.pth', {})
    assert 'checkpoint' in refused('toy.py', '--output-dir', 'out')
    assert '--output-dir' in refused('toy.py', 'masked.pth')
    assert 'no.pth does not exist' in refused('toy.py', 'no.pth', '--output-dir', 'out')
    assert 'config no.py does not exist' in refused('no.py', 'masked.pth', '--output-dir', 'out')
    assert '--latency' in refused('toy.py', 'masked.pth', '--output-dir', 'out', '--latency', '0')
    assert parse(['toy.py', 'masked.pth', '--output-dir', 'out', '--latency']).latency == 20
    assert parse(['toy.py', 'masked.pth', '--output-dir', 'out']).latency == 0


def test_nothing_can_go(refused, folder):
    write_masked(folder / 'dense.pth', {})
    line = refused('toy.py', 'dense.pth', '--output-dir', 'out')
    assert 'dense.pth: nothing can be removed exactly' in line and 'no unit is dead' in line
    assert 'gamma' not in line
    masks = toy_masks(trained_toy(), companions=False)
    write_masked(folder / 'betas.pth', {'conv1.weight': masks['conv1.weight']})
    line = refused('toy.py', 'betas.pth', '--output-dir', 'out')
    assert '2 units only have biases or batch norms left (gamma, beta), which must be zero, too' in line


def test_masks_that_do_not_fit(refused, folder):
    write_masked(folder / 'other.pth', {}, masks={'conv9.weight': torch.ones(1).bool()})
    assert 'conv9.weight, which is no parameter of ToyNet' in refused('toy.py', 'other.pth', '--output-dir', 'out')
    write_masked(folder / 'shape.pth', {}, masks={'conv1.weight': torch.ones(1).bool()})
    assert 'the mask of conv1.weight is (1,), the weight (8, 3, 3, 3)' in refused(
        'toy.py', 'shape.pth', '--output-dir', 'out'
    )
    write_masked(folder / 'text.pth', {}, masks={'conv1.weight': 'all'})
    assert 'text.pth: its masks are not {parameter: tensor}' in refused('toy.py', 'text.pth', '--output-dir', 'out')
    save_checkpoint({'masks': {}}, folder / 'alone.pth')
    assert 'has no state_dict' in refused('toy.py', 'alone.pth', '--output-dir', 'out')


def test_a_folder_that_is_not_ours(refused, folder):
    write_masked(folder / 'masked.pth', toy_masks(trained_toy()))
    (folder / 'mine').mkdir()
    (folder / 'mine' / 'thesis.tex').write_text('x')
    assert 'not of vadslim' in refused('toy.py', 'masked.pth', '--output-dir', 'mine')
    assert 'not of vadslim' in refused('toy.py', 'masked.pth', '--output-dir', 'mine', '--overwrite')


def test_the_door_is_light():
    tool = ROOT / 'tools' / 'analysis_tools' / 'slim_masked.py'
    code = f'import runpy, sys; sys.argv = ["x", "--help"]\ntry: runpy.run_path({str(tool)!r}, run_name="__main__")\n'
    code += 'except SystemExit as end: print(end.code, "torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT / 'projects')
    assert done.stdout.splitlines()[-1] == '0 False' and '--output-dir' in done.stdout, done.stderr
