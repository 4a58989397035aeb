"""Which command lines of tools/train.py are of a staged run, and that they run as one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vadslim import train
from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.cli import run
from vadslim.staged.handover import is_staged
from vadslim.testing import write_toy_config

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {'state_dict': {'w': torch.zeros(1)}}


def test_by_flags_and_kind_of_config():
    for argv in (['--stage', 'x'], ['--stage=x', 'a.py'], ['a.py', '--run-all-stages'], ['--run_all_stages']):
        assert is_staged(argv)
    for argv in (['c.yaml'], ['--config', 'c.yml'], ['--config=C.YAML', '--resume', 'x.pth']):
        assert is_staged(argv)
    for argv in ([], ['a.py'], ['--config', 'a.py'], ['--resume'], ['--resume', 'latest'], ['--resume', 'gone.pth']):
        assert not is_staged(argv)
    assert not is_staged(['a.py', '--cfg-options', 'x=b.yaml'])
    assert is_staged([str(ROOT / 'configs' / 'staged' / 'vad_pipeline.py')])
    for config in (ROOT / 'configs' / 'VAD').glob('*.py'):
        assert not is_staged([str(config)])


@pytest.mark.parametrize(
    ('text', 'staged'),
    [
        ("stages = [dict(name='a')]", True),
        ("stages = [{'name': 'a'}]", True),
        ('stages = [*_base_.stages]', True),
        ("extends = 'other.py'", True),
        ("_base_ = ['plain.py', 'middle.py']", True),
        ("_base_ = 'plain.py'", False),
        ('stages = (3, 4, 6, 3)', False),
        ('stages = [3, 4, 6, 3]', False),
        ("model = dict(stages=[dict(name='a')])", False),
        ("_base_ = 'mmdet3d::_base_/default_runtime.py'", False),
        ("_base_ = 'config.py'", False),
        ('stages = [', False),
        ('with read_base():\n    from .lazy.middle import *', True),
        ('with config.read_base():\n    from .plain import *\n    from .whole import stages, model', True),
        ('with read_base():\n    from .whole import model', False),
        ('with read_base():\n    from mmdet.configs.whole import *', False),
        ('with open(name):\n    from .whole import *', False),
        ('with read_base():\n    from .config import *', False),
    ],
)
def test_by_what_a_python_config_says(tmp_path, text, staged):
    (tmp_path / 'plain.py').write_text('model = dict()\n')
    (tmp_path / 'middle.py').write_text("_base_ = './whole.py'\n")
    (tmp_path / 'lazy').mkdir()
    (tmp_path / 'lazy' / 'middle.py').write_text('with read_base():\n    from ..whole import *\n')
    (tmp_path / 'whole.py').write_text("stages = [dict(name='a')]\n")
    file = tmp_path / 'config.py'
    file.write_text(f'{text}\n')
    assert is_staged([str(file)]) is staged


@pytest.mark.parametrize(
    ('name', 'content', 'staged'),
    [
        ('a.pth', {'metadata': {'stage': 'dense'}}, True),
        ('a.pth', {'metadata': {'stage': None}, 'meta': {'epoch': 1}}, False),
        ('a.pth', {'metadata': {'stage': 'prune'}}, True),
        ('a.pth', {'metadata': {'stage': 'prune', 'command': True}}, False),
        ('a.pth', {'metadata': {'stage': 'sparse', 'command': True}}, False),
        ('structural_epoch5.pth', {'epoch': 4}, True),
        ('structural_epoch5.pth', {'meta': {'epoch': 5}}, False),
        ('a.pth', {}, False),
    ],
)
def test_by_the_checkpoint_that_is_resumed(tmp_path, name, content, staged):
    save_checkpoint({**WEIGHTS, **content}, tmp_path / name)
    assert is_staged(['--resume', str(tmp_path / name)]) is staged
    assert is_staged([f'--resume={tmp_path / name}', '--lr', '1e-2']) is staged
    assert not is_staged(['plain.py', '--resume', str(tmp_path / name)])


def test_telling_needs_neither_torch_nor_mmengine():
    code = (
        'import sys; from vadslim.staged.handover import is_staged; is_staged(["--resume", "x.pth"]);'
        'sys.exit(any(name in sys.modules for name in ("torch", "mmengine")))'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder with toy.py of two stages, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    write_toy_config('base.py', 'out', log_level='ERROR')
    Path('toy.py').write_text("_base_ = 'base.py'\nstages = [dict(name='one', epochs=2), dict(name='two', epochs=1)]\n")
    return tmp_path


def command(*argv):
    return run(train.main, [str(word) for word in argv])


def test_the_documented_commands(toy, capsys):
    assert command('--config', 'toy.py', '--stage', 'one', '--epochs', '1') == 0
    first = toy / 'out' / 'one' / 'checkpoint_latest.pth'
    assert load_checkpoint(first)['epoch'] == 1
    # the checkpoint holds the config and tells the stage; the run goes on in its folder
    assert command('--resume', first, '--epochs', '2', '--lr', '1e-2') == 0
    went_on = load_checkpoint(first)
    assert went_on['epoch'] == 2 and went_on['metadata']['stage'] == 'one'
    assert went_on['config']['optim_wrapper']['optimizer']['lr'] == 1e-2
    assert not (toy / 'out' / 'one' / 'one').exists()
    argv = ['--init_from', first, '--batch_size', '8', '--save_dir', 'elsewhere']
    assert command('--config', 'toy.py', '--stage', 'two', *argv) == 0
    assert load_checkpoint(toy / 'elsewhere' / 'two' / 'checkpoint_latest.pth')['meta']['iter'] == 2  # 16 images
    assert f'of {first} 25 tensors loaded' in capsys.readouterr().err


def test_a_stage_that_is_called_like_a_kind(toy):
    text = Path('toy.py').read_text()
    for name in ('prune', 'test'):
        Path(f'{name}.py').write_text(text.replace("'one'", repr(name)))
        assert command(f'{name}.py', '--stage', name, '--epochs', '1') == 0
        latest = toy / 'out' / name / 'checkpoint_latest.pth'
        assert command('--resume', latest, '--epochs', '2') == 0
        assert load_checkpoint(latest)['epoch'] == 2


def test_a_mistake_is_one_line(toy, capsys):
    for argv, words in [
        (['toy.py'], 'give --stage NAME or --run-all-stages; the stages are one, two'),
        (['toy.py', '--stage', 'tow'], 'has no such stage'),
        (['base.py', '--stage', 'one'], 'has no such stage'),
        (['toy.py', '--run-all-stages', '--work-dir', 'x'], 'unrecognized arguments: --work-dir x'),
        (['gone.yaml'], 'gone.yaml: no such config'),
    ]:
        capsys.readouterr()
        assert command(*argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('error: ') and words in line
    assert not (toy / 'out').exists()


def test_a_config_in_a_checkpoint_names_only_what_belongs_here(toy, capsys):
    marker = toy / 'ran'
    config = {'model': {'type': 'subprocess.getoutput', 'cmd': f'touch {marker}'}}
    state = {'meta': {'epoch': 1, 'iter': 2}, 'message_hub': {}}
    save_checkpoint({**WEIGHTS, **state, 'config': config, 'metadata': {'stage': 'one'}}, toy / 'forged.pth')
    assert command('--resume', 'forged.pth') == 2
    assert 'which is not taken; give the CONFIG' in capsys.readouterr().err
    assert not marker.exists()
