"""tools/benchmarks/vad_rsst.py: which commands it gives, that it goes on where it was, and its table."""

import importlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from vadslim import cli

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = {f'plan_L2_at_{time}s': float(time) for time in (1, 2, 3)}
NUMBERS |= {f'plan_obj_box_col_{time}s': 0.01 * time for time in (1, 2, 3)}
NUMBERS |= {'pts_bbox_NuScenes/NDS': 0.25, 'NuscMap_chamfer/mAP': 0.125}


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools' / 'benchmarks')
    module = importlib.import_module('vad_rsst')
    monkeypatch.setattr(module, 'size', lambda *_: {'params': 1000, 'MACs': 2e9})
    return module


@pytest.fixture
def commands(tool, monkeypatch):
    """The commands that it gave; each leaves what the real one would."""
    given = []

    def run(command, **_):
        name = Path(command[1]).name
        given.append([name, *command[2:]])
        if name == 'train.py':
            folder = Path(command[command.index('--work-dir') + 1])
            epochs = next(part.rpartition('=')[2] for part in command if part.startswith('train_cfg.max_epochs='))
            (folder / f'epoch_{epochs}.pth').write_text(str(folder))
            (folder / 'slim.pth').write_text(str(folder))
        elif name == 'test.py':
            Path(command[command.index('--out') + 1]).write_text(json.dumps(NUMBERS))
        else:
            folder = Path(command[command.index('--output-dir') + 1])
            folder.mkdir()
            (folder / 'vad_structured_pruned.pth').write_text(str(folder))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(tool, 'subprocess', SimpleNamespace(run=run))
    return given


def test_every_network_gets_the_same_epochs_and_is_rated(tool, commands, tmp_path, capsys):
    start = tmp_path / 'dense.pth'
    start.write_text('weights')
    argv = [str(start), '--output-dir', str(tmp_path / 'out'), '--epochs', '5', '--rsst-epochs', '2']
    assert cli.run(tool.main, argv) == 0
    trained = [command for command in commands if command[0] == 'train.py']
    epochs = {Path(c[c.index('--work-dir') + 1]).name: int(c[-1].rpartition('=')[2]) for c in trained}
    assert epochs == {'rsst_0.3': 2, 'rsst_0.3_tuned': 3, 'one_shot_0.3_tuned': 5, 'dense_trained': 5}
    starts = {Path(c[c.index('--work-dir') + 1]).name: Path(c[c.index('--load-from') + 1]).parent.name for c in trained}
    assert starts['rsst_0.3_tuned'] == 'rsst_0.3' and starts['one_shot_0.3_tuned'] == 'pruned'
    assert 'custom_hooks.0.ratio=0.3' in next(c for c in trained if Path(c[3]).name == 'rsst_0.3')
    assert sum(command[0] == 'test.py' for command in commands) == 6
    lines = (tmp_path / 'out' / 'table.md').read_text().splitlines()
    assert len(lines) == 8 and capsys.readouterr().out.splitlines() == lines
    assert lines[2] == '| dense | 0 | 1.000 | 2.000 | 3.000 | 2.00 | 0.250 | 0.125 | 1,000 | 2.00 G |'
    assert '| RSST 0.3, fine-tuned | 5 |' in lines[5]
    count = len(commands)
    assert cli.run(tool.main, argv) == 0 and len(commands) == count  # all of it is there


def test_it_goes_on_inside_a_training(tool, commands, tmp_path):
    start = tmp_path / 'dense.pth'
    start.write_text('weights')
    argv = [str(start), '--output-dir', str(tmp_path / 'out')]
    assert cli.run(tool.main, argv) == 0
    folder = tmp_path / 'out' / 'dense_trained'
    (folder / 'done.json').unlink()
    (folder / 'last_checkpoint').write_text('epoch_1.pth')
    del commands[:]
    assert cli.run(tool.main, argv) == 0
    (again,) = commands
    assert again[0] == 'train.py' and again[-1] == '--resume' and '--load-from' not in again


def test_mistakes(tool, monkeypatch, tmp_path, capsys):
    start = tmp_path / 'dense.pth'
    start.write_text('weights')
    out = ['--output-dir', str(tmp_path / 'out')]
    assert cli.run(tool.main, [str(start), *out, '--epochs', '2']) == 2
    assert 'error: --rsst-epochs 2: fewer than --epochs 2 are needed' in capsys.readouterr().err
    assert cli.run(tool.main, [str(tmp_path / 'no.pth'), *out]) == 2

    def fails(command, stdout, **_):
        stdout.write('error: no such file\n')
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(tool, 'subprocess', SimpleNamespace(run=fails))
    assert cli.run(tool.main, [str(start), *out]) == 2
    assert 'dense_rated: test.py ended with 2 (error: no such file)' in capsys.readouterr().err
