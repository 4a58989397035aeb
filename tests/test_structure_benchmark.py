"""tools/benchmarks/structure.py in small: every command runs and is measured; what is above its limit is said."""

import importlib
import json
import os
from pathlib import Path

import pytest

from vadslim import cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools' / 'benchmarks')
    cores = os.sched_getaffinity(0)
    yield importlib.import_module('structure')
    os.sched_setaffinity(0, cores)


def test_small_run(tool, tmp_path, monkeypatch, capsys):
    limits = dict.fromkeys(tool.LIMITS, (100.0, 200.0))  # seconds, for a machine that does something else
    monkeypatch.setattr(tool, 'LIMITS', {**limits, 'python -c pass': (100.0, 1.0)})
    output = tmp_path / 'numbers.json'
    arguments = ['--runs', '1', '--models', '2', '--results', '2', '--output', str(output)]
    assert cli.run(tool.main, arguments) == 1  # no Python in one megabyte
    printed = capsys.readouterr().out
    rows = json.loads(output.read_text())['rows']
    assert [row['case'] for row in rows] == list(tool.LIMITS)
    assert '100 s: pass, 1 MB: FAIL' in printed and printed.count('FAIL') == 1
    for row in rows:
        assert len(row['seconds']) == 1 and row['cpu'][0] > 0 and 5 < row['megabytes'][0] < 100, row


def test_a_command_that_fails(tool, tmp_path, capsys):
    with pytest.raises(cli.UserError, match='exit code 3: what is wrong'):
        tool.measure([tool.sys.executable, '-c', 'print("what is wrong"); exit(3)'], tmp_path)
    with pytest.raises(SystemExit):
        tool.main(['--runs', '0'])


def test_models_are_different(tool, tmp_path):
    from vadslim.analysis.headers import read_headers

    counts = []
    for number in range(3):
        tool.write_pruned(tmp_path / str(number), number)
        counts.append(sum(entry.count for entry in read_headers(tmp_path / str(number)).tensors.values()))
    mlp = 4096 * 14336
    expected = [31 * 218_112_000, 30 * 218_112_000 - 3 * mlp // 2, 29 * 218_112_000 - 3 * mlp // 2 - 3 * mlp]
    assert counts == [count + 2 * 525_336_576 + 4096 for count in expected]
