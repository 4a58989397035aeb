"""Means over seeds, counted by hand; tables as text, CSV and Markdown."""

import csv
import io

import pytest
from sparse_runs import level, write_predecessor, write_run

from vadslim.analysis.sparse_results import collect
from vadslim.analysis.sparse_summary import (
    Rows,
    Spread,
    by_level,
    cell_text,
    dense_methods,
    experiments,
    layers_of,
    levels_of,
    means,
    methods,
    remarks,
    to_csv,
    to_markdown,
)


@pytest.fixture
def runs(tmp_path):
    """IMP and RSST with two seeds, which share their dense networks; RSST's second seed is one level behind."""
    for seed, dense in ((0, 90.0), (1, 94.0)):
        write_run(
            tmp_path / f'imp{seed}', [dense, dense - 1, dense - 3], struct='imp', seed=seed, pruning_times=3 + seed
        )
    write_run(tmp_path / 'rsst0', [90.0, 88.0, 87.0], seed=0)
    write_run(tmp_path / 'rsst1', [94.0, 91.0], seed=1)
    return collect([tmp_path])


def test_spread():
    found = Spread.of([1.0, None, 3.0])
    assert (found.mean, found.n) == (2.0, 2) and found.std == pytest.approx(2**0.5)  # sample deviation
    assert str(found) == '2.00 ± 1.41 (2)' and str(Spread.of([5.0])) == '5.00' and Spread.of([None]) is None


def test_runs_of_the_same_settings_are_one_method(runs):
    imp, rsst = methods(runs)
    assert [(one.panel, one.label, len(one.runs)) for one in (imp, rsst)] == [
        ('res20s, digits', 'imp', 2),
        ('res20s, digits', 'rsst', 2),
    ]
    assert (imp.levels, imp.last, rsst.levels, rsst.last) == ([0, 1, 2], 2, [0, 1, 2], 1)
    assert imp.at(1, 'test') == Spread(91.0, pytest.approx(8**0.5), 2)
    assert rsst.at(2, 'test') == Spread(87.0, None, 1)


def test_a_dense_network_that_runs_share_counts_once(runs):
    (dense,) = dense_methods(methods(runs))
    assert (dense.label, dense.at(0, 'test')) == ('dense', Spread(92.0, pytest.approx(8**0.5), 2))


def test_dense_networks_that_were_trained_otherwise_are_no_seeds(runs, tmp_path):
    write_run(tmp_path / 'other', [60.0], epochs=2)
    write_run(tmp_path / 'again', [91.0], exponents=2)  # of seed 0 and the settings of the first, not the same
    found = dense_methods(methods([*runs, *collect([tmp_path / 'other', tmp_path / 'again'])]))
    assert [(one.label, one.at(0, 'test').n) for one in found] == [('dense', 3), ('dense, epochs 2', 1)]


def test_other_settings_are_other_methods_named_by_them(tmp_path):
    for name, settings in (('a', {}), ('b', {'criteria': 'l1'}), ('c', {'arch': 'vit_tiny'}), ('d', {'struct': 'imp'})):
        write_run(tmp_path / name, [90.0], **settings)
    write_run(tmp_path / 'e', [90.0], struct='imp', rate=0.5, criteria='l2', epochs=3, batch_size=4)
    found = [(one.panel, one.label) for one in methods(collect([tmp_path]))]
    assert found == [
        ('res20s, digits', 'rsst'),
        ('res20s, digits', 'rsst, criteria l1'),
        ('res20s, digits', 'd'),  # by more settings than a label holds
        ('res20s, digits', 'e'),
        ('vit_tiny, digits', 'rsst'),
    ]


def test_methods_that_were_trained_for_longer_say_so(tmp_path):
    for name, settings in (('a', {'struct': 'imp', 'epochs': 2}), ('b', {'epochs': 4, 'exponents': 6})):
        write_run(tmp_path / name, [90.0], **settings)
    write_predecessor(tmp_path / 'res20s_digits_refill', 1)  # what it was made with is not known
    found = [one.label for one in methods(collect([tmp_path]))]
    assert found == ['imp, epochs 2', 'rsst, epochs 4', 'refill']


def test_runs_of_the_predecessor_are_seeds_only_if_their_folders_say_so(tmp_path):
    for name in ('cifar10_rsst_seed1', 'cifar10_rsst_seed2', 'cifar10_rsst_E2'):
        write_predecessor(tmp_path / name, 2)
    found = methods(collect([tmp_path]))
    assert sorted((one.label, len(one.runs)) for one in found) == [
        ('cifar10_rsst_E2', 1),
        ('cifar10_rsst_seed1 and 1 more', 2),
    ]


def test_remarks(tmp_path):
    write_run(tmp_path / 'a', [90.0])
    write_run(tmp_path / 'b', [91.0])
    write_run(tmp_path / 'c', [], seed=1)
    write_predecessor(tmp_path / 'd', 1)
    runs = collect([tmp_path])
    assert [line.removeprefix(f'{tmp_path}/') for line in remarks(runs, methods(runs))] == [
        'c: no level is done yet',
        f'b: has the settings and the seed (0) of {tmp_path / "a"}; both count in the mean',
    ]


def test_the_table_of_runs(runs):
    table = experiments(runs)
    rows = [dict(zip(table.columns, row)) for row in table.rows]
    assert [row['name'] for row in rows] == ['imp0', 'imp1', 'rsst0', 'rsst1']
    last = rows[3]
    assert (last['level'], last['weights left %'], last['val %'], last['test %']) == (1, 80.0, 92.0, 91.0)
    assert (last['dense test %'], last['difference'], last['seconds'], last['seed']) == (94.0, -3.0, 20, '1')


def test_a_run_without_a_level_has_a_row(tmp_path):
    write_run(tmp_path, [])
    (row,) = experiments(collect([tmp_path])).rows
    assert row[5:] == [None] * 7


def test_means_are_of_a_level_that_all_runs_have(runs):
    imp, rsst = means(methods(runs)).rows
    assert imp[2] == 2 and rsst[2] == 1
    assert imp[-1] == Spread(-3.0, 0.0, 2) and rsst[-1] == Spread(-2.5, pytest.approx(0.5**0.5), 2)


def test_by_level(runs):
    rows = by_level(methods(runs)).rows
    assert [(row[1], row[2], row[5].mean, row[5].n) for row in rows] == [
        ('dense', 0, 92.0, 2),
        ('imp', 1, 91.0, 2),
        ('imp', 2, 89.0, 2),
        ('rsst', 1, 89.5, 2),
        ('rsst', 2, 87.0, 1),
    ]
    assert rows[2][3].mean == pytest.approx(64.0) and rows[2][4].mean == pytest.approx(60.8)


def test_levels_and_layers_of_a_run(tmp_path):
    write_run(tmp_path, [level(0), level(1, size={'params': 1000, 'params_slim': 800.0})])
    (run,) = collect([tmp_path])
    table = levels_of(run)
    assert 'params slim' in table.columns and 'heads left %' not in table.columns
    assert [row[table.columns.index('params slim')] for row in table.rows] == [None, 800]
    assert layers_of(run).columns == ('layer', '0', '1')
    assert layers_of(run).rows[1] == ['layer2.0.downsample.0', 100.0, 80.0]


TABLE = Rows('T', ('name', 'test %', 'difference'), [['a|b', Spread(1.0, 0.5, 3), 0.25], ['c', None, -1.0]])


def test_csv_is_unrounded():
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows == [
        ['name', 'test %', 'test % std', 'test % n', 'difference'],
        ['a|b', '1.0', '0.5', '3', '0.25'],
        ['c', '', '', '', '-1.0'],
    ]


def test_markdown():
    assert to_markdown(TABLE).splitlines() == [
        '**T**',
        '',
        '| name | test % | difference |',
        '| --- | ---: | ---: |',
        '| a\\|b | 1.00 ± 0.50 (3) | +0.25 |',
        '| c | - | -1.00 |',
    ]
    assert cell_text(1234567) == '1,234,567' and cell_text(Spread(0.5, 0.1, 2), 'difference') == '+0.50 ± 0.10 (2)'
