"""analyze_results.py and visualize_pruning.py: what is printed, what is written, how a user's mistakes end."""

import builtins
import csv
from pathlib import Path

import pytest
from sparse_runs import level, write_predecessor, write_run

from vadslim.analysis.sparse_command import analyze, visualize

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Files go where the command runs, unless an option says otherwise."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'here'


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_both_formats_side_by_side(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / 'runs' / f's{seed}', [90.0 + seed, 88.0], seed=seed)
    write_predecessor(tmp_path / 'runs' / 'cifar10_refill_old', 2)
    out = tmp_path / 'new' / 'out'
    assert analyze([str(tmp_path / 'runs'), '--by-level', '--output-dir', str(out)]) == 0
    said = capsys.readouterr()
    assert [title in said.out for title in ('Runs at', 'Mean ±', 'Test accuracy over')] == [True] * 3
    assert 'cifar10_refill_old' in said.out and '88.00 ± 0.00 (2)' in said.out
    pictures = ['accuracy_over_weights.png', 'experiment_comparison.png']
    assert files(out) == [pictures[0], 'by_level.csv', pictures[1], 'experiments.csv', 'means.csv']
    assert all((out / name).read_bytes()[:4] == b'\x89PNG' for name in pictures)
    rows = list(csv.DictReader((out / 'experiments.csv').open()))
    assert [row['test %'] for row in rows] == ['68.0', '88.0', '88.0'] and rows[2]['difference'] == '-3.0'
    assert said.err.splitlines() == [
        f'written to {out}: experiments.csv, means.csv, by_level.csv, {", ".join(pictures[::-1])}'
    ]


def test_markdown(tmp_path, capsys):
    write_run(tmp_path / 'run', [90.0, 88.0])
    assert analyze([str(tmp_path / 'run'), '--markdown', '--by-level']) == 0
    out = capsys.readouterr().out
    assert '| res20s, digits | rsst | 1 | 80.00 | 76.00 | 88.00 |' in out.splitlines()
    assert out.count('**') == 4  # nothing to average: no table of means


def test_one_run(tmp_path, here, capsys):
    write_run(tmp_path / 'run', [level(k, 90.0, reg_lambda=0.5) for k in range(2)])
    assert visualize([str(tmp_path / 'run'), '--layers']) == 0
    assert files(here) == ['lambda.png', 'layer_density.png', 'sparsity_evolution.png']
    out = capsys.readouterr().out
    assert 'layer2.0.downsample.0' in out and '80.00' in out


def test_one_run_of_the_predecessor(tmp_path, here, capsys):
    write_predecessor(tmp_path / 'run')
    assert visualize([str(tmp_path / 'run')]) == 0
    assert files(here) == ['layer_density.png', 'sparsity_evolution.png']
    said = capsys.readouterr()
    assert 'zeros of plain weights' in said.out and 'lambda.png: not drawn' in said.err


def test_what_cannot_be_read_is_said_and_the_rest_shown(tmp_path, here, capsys):
    write_run(tmp_path / 'runs' / 'a', [90.0, 88.0])
    write_run(tmp_path / 'runs' / 'b', [])
    write_run(tmp_path / 'runs' / 'c', [90.0])
    (tmp_path / 'runs' / 'c' / 'results.json').write_text('{"format"')
    assert analyze([str(tmp_path / 'runs')]) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith('error')]
    assert len(errors) == 1 and 'c/results.json: is truncated' in errors[0]
    assert 'b: no level is done yet' in said.err and '88.00' in said.out
    assert 'experiment_comparison.png' in files(here)


@pytest.mark.parametrize('command', [analyze, visualize])
@pytest.mark.parametrize(
    ('arguments', 'why'),
    [
        (['nowhere'], 'nowhere: no such file or folder'),
        (['empty'], 'empty: holds no run'),
        (['begun'], 'begun: no level is done yet'),
        (['damaged'], 'results.json: is truncated'),
        (['run', '--colour', 'red'], 'unrecognized arguments: --colour red'),
        ([], 'the following arguments are required'),
    ],
)
def test_mistakes_are_one_line(here, capsys, command, arguments, why):
    (here / 'empty').mkdir()
    write_run(here / 'begun', [])
    write_run(here / 'run', [90.0])
    write_run(here / 'damaged', [90.0])
    (here / 'damaged' / 'results.json').write_text('{')
    before = files(here)
    assert command(arguments) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and why in said.err and said.out == ''
    assert files(here) == before


def test_one_of_several_runs_has_to_be_named(tmp_path, capsys):
    for name in 'ab':
        write_run(tmp_path / 'runs' / name, [90.0])
    assert visualize([str(tmp_path / 'runs')]) == 2
    assert 'holds 2 runs' in capsys.readouterr().err


def test_the_table_is_printed_where_nothing_can_be_written(tmp_path, capsys):
    write_run(tmp_path / 'run', [90.0])
    (tmp_path / 'file').write_text('')
    assert analyze([str(tmp_path / 'run'), '--output-dir', str(tmp_path / 'file' / 'out')]) == 2
    said = capsys.readouterr()
    assert '90.00' in said.out and 'cannot be written to: Not a directory' in said.err


def test_the_table_is_printed_without_matplotlib(tmp_path, here, capsys, monkeypatch):
    write_run(tmp_path / 'run', [90.0])
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith('matplotlib'):
            raise ModuleNotFoundError(f'No module named {name!r}', name='matplotlib')
        return real(name, *arguments)

    monkeypatch.setattr(builtins, '__import__', without)
    assert visualize([str(tmp_path / 'run')]) == 2
    said = capsys.readouterr()
    assert '90.00' in said.out and 'matplotlib is not installed' in said.err and files(here) == []


def test_the_doors_are_there():
    for name, function in (('analyze_results', 'analyze'), ('visualize_pruning', 'visualize')):
        text = (TOOLS / f'{name}.py').read_text()
        assert f'import {function}' in text and f'sys.exit({function}())' in text
