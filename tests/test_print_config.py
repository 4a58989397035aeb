"""tools/misc/print_config.py."""

import json
import runpy
from pathlib import Path

import pytest
from mmengine.config import Config

from vadslim import cli

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'VAD' / 'VAD_nano_synthetic.py'


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(ROOT / 'tools' / 'misc' / 'print_config.py'))['main']


def run(main, *arguments) -> int:
    return cli.run(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize('suffix', ['.py', '.json'])
def test_a_config_is_printed_and_written_whole(main, suffix, tmp_path, capsys):
    file = tmp_path / f'whole{suffix}'
    assert run(main, CONFIG, '--save-path', file, '--cfg-options', 'train_cfg.max_epochs=9') == 0
    printed = capsys.readouterr().out
    assert printed.startswith('Config:\n') and 'max_epochs=9' in printed
    whole, wanted = Config.fromfile(file), Config.fromfile(CONFIG)
    wanted.train_cfg.max_epochs = 9
    assert json.dumps(whole.to_dict(), sort_keys=True) == json.dumps(wanted.to_dict(), sort_keys=True)


def test_mistakes(main, tmp_path, capsys):
    assert run(main, tmp_path / 'none.py') == 2
    assert run(main, CONFIG, '--save-path', 'a.txt') == 2
    assert run(main, CONFIG, '--save-path', tmp_path / 'none' / 'a.py') == 2
    assert run(main, CONFIG, '--cfg-options', 'no_such=1') == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert [line.split()[1] for line in errors[1:3]] == ['--save-path', f'{tmp_path}/none/a.py:'] and len(errors) == 4
