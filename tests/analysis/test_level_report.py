"""The levels of an iterative pruning: which one counts, the table, the curves, what the page says."""

import csv
import io

import pytest
from test_pages import Page

from vadslim.analysis.level_report import level_report, levels_picture, metric_names, outcome, result, section, to_csv

MACS = [100, 60, 30]


def levels(holds=(None, True, True), **changes):
    rows = []
    for number, (held, macs) in enumerate(zip(holds, MACS)):
        metrics = {'EPA_car': 0.5, 'plan_obj_col_1s': 0.1 * number, 'plan_L2_1s': 1.0 + number, 'x': float('nan')}
        row = {'level': number, 'params': 2 * macs, 'macs': macs, 'latency_ms': None, 'metrics': metrics, **changes}
        rows.append({**row, 'holds': held, 'ratio': None, 'folder': f'level_{number}' if number else ''})
    return rows


@pytest.mark.parametrize(
    ('holds', 'expected', 'outcomes'),
    [
        ((None, True, True), 2, ['the network before', 'pruned on', 'the result']),
        ((None, None, None), 2, ['the network before', 'pruned on', 'the result']),
        ((True, True, False), 1, ['the network before', 'the result', 'rolled back']),
        ((True, False, True), 0, ['the result: nothing was pruned', 'rolled back', 'rolled back']),
        ((True, False, False), 0, ['the result: nothing was pruned', 'rolled back', 'rolled back']),
    ],
)
def test_the_level_that_counts(holds, expected, outcomes):
    rows = levels(holds)
    assert result(rows) == expected
    assert [outcome(rows, number) for number in range(3)] == outcomes


def test_the_table():
    rows = levels((None, True, False))
    rows[2]['why'] = 'L2 is 3 m, 2 m are allowed'
    found = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert list(found[0]) == [
        *('level', 'ratio', 'params', 'macs', 'latency_ms'),
        *('plan_L2_1s', 'plan_obj_col_1s', 'EPA_car'),  # L2 and collisions first; what has no value is left out
        *('outcome', 'why', 'folder'),
    ]
    assert [row['macs'] for row in found] == ['100', '60', '30'] and found[0]['latency_ms'] == ''
    assert found[2]['why'] == 'L2 is 3 m, 2 m are allowed' and found[2]['outcome'] == 'rolled back'


def test_the_page_tells_the_result_and_why_a_later_level_went():
    rows = levels((None, True, False))
    rows[2]['why'] = '<L2> is 3 m.'
    part = section(rows)
    page = Page(str(part))
    assert page.open == []
    assert 'The result is level 1 of 2. Level 2 was rolled back: <L2> is 3 m.' in ' '.join(page.text.split())
    assert page.rows[2] == ['1', 'the result', '120', '60%', '60', '60%', '2', '0.1', '0.5', '']
    assert page.text.count('<L2> is 3 m.') == 2 and part.count('<a href=') == 2
    assert '<a href="level_1/report.html">level_1</a>' in part
    assert 'Nothing was pruned' in section(levels((None, False, True)))


def test_many_metrics_are_cut_on_the_page_only():
    rows = levels(metrics={f'loss_{number}': 1.0 for number in range(30)})
    part = section(rows)
    assert len(metric_names(rows)) == 30 and 'loss_29' in to_csv(rows)
    assert 'loss_29' not in part and '24 more metrics' in part


def test_curves_end_where_the_numbers_say(monkeypatch):
    drawn = []
    monkeypatch.setattr('vadslim.analysis.level_report.to_png', drawn.append)
    levels_picture(levels(metrics={}))
    axes = drawn[0].axes[0]
    curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert curves['MACs'] == pytest.approx([100, 60, 30]) and curves['parameters'] == pytest.approx([100, 60, 30])
    assert axes.get_ylim()[0] == 0


def test_a_level_that_was_rolled_back_looks_so():
    held, lost = (levels_picture(levels(holds, metrics={})) for holds in ((None, True, True), (None, True, False)))
    assert held != lost


def test_one_metric_and_a_dense_network_of_no_known_cost():
    rows = [{'level': 0, 'params': 10, 'metrics': {'accuracy': 0.9}}, {'level': 1, 'params': 5}]
    found = level_report(rows)
    assert found.picture[:4] == b'\x89PNG' and '50%' in found.section
    with pytest.raises(ValueError, match='at least one is needed'):
        level_report([])
    with pytest.raises(ValueError, match='level and params of each'):
        level_report([{'level': 0}])
