"""The table, the file and the picture at the end of a sweep."""

import csv

import pytest

from vadslim.cli import UserError
from vadslim.staged.sweep import grid
from vadslim.staged.sweep_report import metric_of, picture, report
from vadslim.staged.sweep_run import Outcome, Run


def result(value, best=None):
    found = {'seconds': 1.5, 'stage': 'dense', 'metrics': {'f1': value, 'loss': 2.0}}
    return found if best is None else {**found, 'best': best, 'best_name': 'f1'}


def test_what_is_compared():
    best = [result(0.5, 0.75), {}, result(0.25)]
    assert metric_of(best, None) == metric_of(best, 'f1') == ('dense: f1, best', [0.75, None, None])
    assert metric_of(best, 'loss') == ('dense: loss, last', [2.0, None, 2.0])
    assert metric_of([result(0.5), {}], None) == ('dense: f1, last', [0.5, None])
    assert metric_of([{}, {}], 'f1') == ('f1', [None, None]) and metric_of([{}], None) == ('metric', [None])
    with pytest.raises(UserError, match='--metric f2: the last stage has f1, loss'):
        metric_of(best, 'f2')


def runs_of(tmp_path, *texts):
    return [Run(point.name, point.overrides, tmp_path / point.name, [], ['dense'], 0) for point in grid(texts)]


def test_files(tmp_path, capsys):
    runs = runs_of(tmp_path, 'training.lr=1e-3,5e-4,1e-4')
    outcomes = [Outcome(result=result(0.5, 0.75)), Outcome('it failed'), Outcome(result=result(0.25, 0.625))]
    report(runs, outcomes, tmp_path, None)
    said = capsys.readouterr()
    assert '0.625' in said.out and 'failed' in said.out and 'sweep.csv' in said.err and 'tensorboard' not in said.err
    with (tmp_path / 'sweep.csv').open(newline='') as file:
        head, *rows = csv.reader(file)
    assert head == ['point', 'training.lr', 'state', 'dense: f1, best', 'f1', 'loss', 'seconds', 'folder']
    assert rows[0] == ['lr=0.001', '1e-3', 'done', '0.75', '0.5', '2.0', '1.5', str(tmp_path / 'lr=0.001')]
    assert rows[1][2:7] == ['failed', '', '', '', '']
    assert (tmp_path / 'sweep.png').read_bytes()[:4] == b'\x89PNG'


def test_no_picture_of_nothing(tmp_path):
    report(runs_of(tmp_path, 'a=1,2'), [Outcome('x'), Outcome('y')], tmp_path, None)
    assert (tmp_path / 'sweep.csv').is_file() and not (tmp_path / 'sweep.png').exists()


@pytest.fixture
def drawn(monkeypatch):
    """What a picture holds."""
    figures = []
    monkeypatch.setattr('vadslim.analysis.plots.to_png', lambda figure: figures.append(figure) or b'')

    def drawn(values, *texts):
        picture([point.overrides for point in grid(texts)], values, 'f1')
        (axes,) = figures.pop().axes
        return axes, {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}

    return drawn


def test_picture_of_numbers(drawn):
    axes, lines = drawn([0.3, 0.1, None, 0.2], 'training.lr=1e-2,1e-3,1e-4,1e-5')
    assert list(lines.values()) == [([1e-5, 1e-3, 1e-2], [0.2, 0.1, 0.3])]
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ('log', 'training.lr', 'f1')
    assert drawn([1, 2], 'a=0,100')[0].get_xscale() == 'linear'
    assert drawn([1, 2, 3], 'a=0,1e-4,1e-2')[0].get_xscale() == 'symlog'


def test_picture_of_words(drawn):
    axes, lines = drawn([0.3, 0.1], 'training.scheduler=cosine,constant')
    assert list(lines.values()) == [([0.0, 1.0], [0.3, 0.1])]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ['cosine', 'constant']
    assert [line.get_linestyle() for line in axes.get_lines()] == ['None']  # no words lie between them


def test_picture_of_a_grid(drawn):
    axes, lines = drawn([1, 2, 3, 4, 5, 6], 'model.kind=a,b', 'training.lr=1,2,3', 'seed=7')
    assert lines == {'kind a': ([1, 2, 3], [1, 2, 3]), 'kind b': ([1, 2, 3], [4, 5, 6])}
    assert axes.get_xlabel() == 'training.lr'
    same = 'stages.{}.training.lr=1,2'.format
    assert set(drawn([1, 2, 3, 4], same('one'), same('two'))[1]) == {'two.lr 1', 'two.lr 2'}
