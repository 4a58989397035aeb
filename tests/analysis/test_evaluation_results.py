"""Rows of the table from files of all ages and qualities."""

import json
import math
import statistics
from pathlib import Path

import pytest
from evaluations import DENSE_LAYER, GUIDE, TASKS, comparison, evaluation, write, write_guide

from vadslim.analysis.evaluation_results import AVERAGE, COLUMNS, SIZE, STD, VAR, read_results
from vadslim.analysis.structure_text import pruning_comparison
from vadslim.cli import UserError

HEADINGS = [
    *('模型名称', '模型大小 (GB)', '参数量 (B)', 'PPL (WikiText-2)', 'PPL (PTB)'),
    *('ZS-BoolQ (%)', 'ZS-PIQA (%)', 'ZS-HellaSwag (%)', 'ZS-WinoGrande (%)', 'ZS-ARC-e (%)', 'ZS-ARC-c (%)'),
    *('ZS-OBQA (%)', 'ZS-平均 (%)', '吞吐量-BS1 (tokens/s)', '延迟-BS1 (ms/token)', '吞吐量-BS4 (tokens/s)'),
    *('延迟-BS4 (ms/token)', '显存占用 (MB)', '剪枝标准差', '剪枝方差'),
    *('保留<5%的层', '保留<10%的层', '保留<15%的层', '保留<20%的层'),
]
ARC_E, ARC_C = HEADINGS[9:11]
LISTS = HEADINGS[20:]


def row_of(tmp_path, results=None, kept=None, name='pruning_comparison.json'):
    """The row of one model, and the lines on it."""
    write(tmp_path / 'models' / 'x', evaluation() if results is None else results, kept, name)
    found = read_results(tmp_path / 'models')
    (row,) = found.rows
    assert found.problems == []
    return row.values, found.notes


def test_the_columns():
    assert [column.name for column in COLUMNS] == HEADINGS and len(HEADINGS) == 24
    places = [None, 3, 3, 2, 2, *[2] * 8, 1, 3, 1, 3, 1, 4, 4, *[None] * 4]
    assert [column.places for column in COLUMNS] == places


def test_the_rows_of_the_guide(tmp_path):
    found = read_results(write_guide(tmp_path))
    assert (found.notes, found.problems) == ([], [])
    shown = [
        (row.name, *(round(row.values[name], places) for name, places in numbers), row.values[LISTS[0]])
        for numbers in [[(SIZE, 3), (HEADINGS[3], 2), (AVERAGE, 2), (STD, 4)]]
        for row in found.rows
    ]
    assert shown == [
        ('HGSP_2000', 11.966, 39.87, 51.41, 0.3644, '[11, 12, 25]'),
        ('taylor_only_2000', 11.966, 37.32, 62.05, 0.1524, '[]'),
        ('HGSP_5000', 7.479, 315.21, 36.96, 0.3379, '[9, 10, 11, 12, 25, 26]'),
    ]


def test_every_column_of_a_row(tmp_path):
    kept = [0.0, 0.05, 0.07, 0.12, 0.19, 0.2, 1.0]
    values, notes = row_of(tmp_path, evaluation(1_000_000_000, 12.5, 0.5), kept)
    accuracies = [47, 48, 49, 50, 51, 52, 53, 50]
    expected = [2e9 / 1024**3, 1.0, 12.5, 63.66, *accuracies, 29.14, 34.3166, 109.72, 9.1141, 12_262.37]
    assert list(values) == HEADINGS[1:18] + LISTS + [STD, VAR] and notes == []
    assert [values[name] for name in HEADINGS[1:18]] == pytest.approx(expected)
    parts = [round(part * DENSE_LAYER) / DENSE_LAYER for part in kept]
    mean = sum(parts) / 7
    variance = sum((part - mean) ** 2 for part in parts) / 6
    assert (values[VAR], values[STD]) == pytest.approx((variance, math.sqrt(variance)))
    assert [values[name] for name in LISTS] == ['[0]', '[0, 1, 2]', '[0, 1, 2, 3]', '[0, 1, 2, 3, 4]']  # strictly below


def test_which_folders_are_models(tmp_path, monkeypatch):
    for name in ('b', 'a', '.hidden', 'deep/er'):
        write(tmp_path / name, evaluation())
    write(tmp_path / 'old', evaluation(params=1), inner='.')
    write(tmp_path / 'both', evaluation(params=3))
    write(tmp_path / 'both', evaluation(params=9), inner='.')
    (tmp_path / 'file').touch()
    found = read_results(tmp_path)
    assert [row.name for row in found.rows] == ['a', 'b', 'both', 'old']
    assert found.rows[2].values['参数量 (B)'] == 3e-9
    assert found.notes == [f'{tmp_path / "deep"}: left out, it has no evaluation/evaluation_results.json']
    assert [row.name for row in read_results(tmp_path / 'a').rows] == ['a']  # a model's own folder
    assert [row.name for row in read_results(tmp_path / '.hidden').rows] == ['.hidden']
    monkeypatch.chdir(tmp_path / 'old')
    assert [row.name for row in read_results('.').rows] == ['old']
    with pytest.raises(UserError, match='none: cannot be read: No such file'):
        read_results(tmp_path / 'none')


def test_models_of_unknown_size_are_last(tmp_path):
    for name, params in (('a', None), ('b', 5), ('c', 7), ('d', 5)):
        results = evaluation(params or 1)
        if params is None:
            results['metrics']['model_info'] = results['metrics']['efficiency'] = None
        write(tmp_path / name, results)
    found = read_results(tmp_path)
    assert [row.name for row in found.rows] == ['c', 'b', 'd', 'a'] and found.rows[-1].values[SIZE] is None


def test_sizes_are_found_where_they_are(tmp_path):
    results = evaluation()
    results['metrics']['model_info'] = {'model_size_mb': 2048, 'total_params': 3_000_000_000}
    values, _ = row_of(tmp_path, results)
    assert (values[SIZE], values['参数量 (B)']) == (2, 3)
    del results['metrics']['model_info']
    assert row_of(tmp_path, results)[0]['参数量 (B)'] == 6.424219648


def test_names_of_texts_and_tasks(tmp_path):
    ppl = {'wikitext-103': 1, 'wikitext-2048': 2, 'WikiText-2-raw-v1': 3, 'penn_treebank': 4}
    tasks = {
        'arc_challenge': 0.1,
        'ARC-Easy': 0.2,
        'obqa': {'accuracy': 0.3},
        'siqa': 0.9,
        'arc_clever': 0.9,
        'boolq': 0.4,
        'boolq_hard': 0.5,
    }
    results = evaluation(ppl=ppl, zeroshot=tasks, avg_zeroshot_acc=None)
    values, notes = row_of(tmp_path, results)
    assert (values['PPL (WikiText-2)'], values['PPL (PTB)']) == (3, 4)
    assert (values[ARC_C], values[ARC_E], values['ZS-OBQA (%)'], values['ZS-BoolQ (%)']) == pytest.approx(
        (10, 20, 30, 40)
    )
    assert values['ZS-PIQA (%)'] is None and values[AVERAGE] == pytest.approx(25)
    assert [line.partition('json: ')[2] for line in notes] == [
        'metrics.zeroshot: of boolq, boolq_hard the first is taken',
        'metrics.zeroshot: the average is that of 4 of 7 tasks',
    ]


def test_of_several_texts_the_plain_one_whatever_the_order(tmp_path):
    names = {
        'wikitext2 (wikitext-2-raw-v1)': 2.0,
        'a train of wikitext2': 3.0,
        'wikitext2': 1.0,
        'ptb_b': 5.0,
        'ptb_a': 4.0,
    }
    for order in (names, dict(reversed(names.items()))):
        values, notes = row_of(tmp_path, evaluation(ppl=order))
        assert (values['PPL (WikiText-2)'], values['PPL (PTB)']) == (1, 4) and len(notes) == 2


def test_percent_is_percent(tmp_path):
    values, notes = row_of(tmp_path, evaluation(zeroshot={'piqa': 78.84, 'boolq': 0.5}, avg_zeroshot_acc=69.7))
    assert (values['ZS-PIQA (%)'], values['ZS-BoolQ (%)'], values[AVERAGE]) == (78.84, 0.5, 69.7)
    assert len(notes) == 1 and 'taken as percent' in notes[0]
    values, _ = row_of(tmp_path, evaluation(zeroshot={'piqa': 1.0, 'boolq': 0}, avg_zeroshot_acc=1))
    assert (values['ZS-PIQA (%)'], values['ZS-BoolQ (%)'], values[AVERAGE]) == (100, 0, 100)


def test_accuracies_that_cannot_be(tmp_path):
    values, notes = row_of(tmp_path, evaluation(zeroshot={'piqa': -0.1, 'boolq': 0.5}, avg_zeroshot_acc=math.inf))
    assert (values['ZS-PIQA (%)'], values['ZS-BoolQ (%)'], values[AVERAGE]) == (None, 50, 50)
    assert [line.count('not an accuracy') for line in notes] == [1, 1, 0]


@pytest.mark.parametrize('part', ['model_info', 'ppl', 'zeroshot', 'efficiency'])
def test_a_part_that_is_missing(tmp_path, part):
    for absent in (None, {}):
        results = evaluation(avg_zeroshot_acc=None)
        results['metrics'][part] = absent
        values, notes = row_of(tmp_path, results)
        names = {'ppl': HEADINGS[3:5], 'zeroshot': HEADINGS[5:13], 'efficiency': HEADINGS[13:18]}.get(part, [])
        assert {name for name in HEADINGS[1:18] if values.get(name) is None} == set(names) and notes == []


def test_other_settings_are_not_mixed_in(tmp_path):
    results = evaluation(ppl={}, ppl_quick_128={'wikitext2': 35.98}, ppl_standard_2048_512={'wikitext2': 16.52})
    values, notes = row_of(tmp_path, results)
    assert values['PPL (WikiText-2)'] is None
    assert 'has ppl_quick_128, ppl_standard_2048_512 but no ppl: other settings are not shown' in notes[0]


def test_numbers_of_the_wrong_type(tmp_path):
    results = evaluation(
        ppl={'wikitext2': '39.87', 'ptb': 'failed\nout of memory'},
        zeroshot={'piqa': True, 'boolq': [1], 'hellaswag': {'accuracy': '0.5'}},
        avg_zeroshot_acc={},
        efficiency=['none'],
    )
    values, notes = row_of(tmp_path, results)
    assert (values['PPL (WikiText-2)'], values['PPL (PTB)']) == (39.87, None)
    assert (values['ZS-PIQA (%)'], values['ZS-BoolQ (%)'], values['ZS-HellaSwag (%)']) == (None, None, 50)
    assert [line.partition('json: ')[2] for line in notes] == [
        r"metrics.ppl.ptb is 'failed\nout of memory', not a number; taken as missing",
        'metrics.zeroshot.boolq is a list, not a number; taken as missing',
        'metrics.zeroshot.piqa is True, not a number; taken as missing',
        'metrics.avg_zeroshot_acc is a dict, not a number; taken as missing',
        'metrics.zeroshot: the average is that of 1 of 7 tasks',
        'metrics.efficiency is a list, not an object; taken as missing',
    ]


def test_numbers_that_are_not_finite(tmp_path):
    text = json.dumps(evaluation(ppl={'wikitext2': math.inf, 'ptb': math.nan}, avg_zeroshot_acc=math.nan))
    assert 'NaN' in text and 'Infinity' in text
    values, notes = row_of(tmp_path, text.replace('29.14', '1' + '0' * 400))
    assert (values['PPL (WikiText-2)'], values['PPL (PTB)'], values[AVERAGE]) == (math.inf, None, pytest.approx(51.41))
    assert values['吞吐量-BS1 (tokens/s)'] is None and len(notes) == 1 and 'not a number' in notes[0]


@pytest.mark.parametrize(
    'text',
    ['', '{"metrics": {', '[]', 'null', '{"metrics": 3}', '{}', '{"a":' + '[' * 10**5, '1' * 5000, b'\xff\xfe\x00'],
)
def test_a_broken_evaluation_is_said_and_the_others_are_read(tmp_path, text):
    path = write(tmp_path / 'bad', '') / 'evaluation' / 'evaluation_results.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    write(tmp_path / 'good', evaluation())
    found = read_results(tmp_path)
    assert [row.name for row in found.rows] == ['good']
    assert len(found.problems) == 1 and found.problems[0].startswith(f'{path}: ')


def test_what_the_system_does_not_let_be_read(tmp_path, monkeypatch):
    models = tmp_path / 'models'
    for name in ('a', 'b'):
        write(models / name, evaluation(), [0.01, 1])
    refused = {
        models / 'a' / 'analysis' / 'pruning_comparison.json',
        models / 'b' / 'evaluation' / 'evaluation_results.json',
    }
    plain = Path.open

    def refuse(path, *arguments, **options):
        if path in refused:
            raise PermissionError(13, 'Permission denied', str(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(Path, 'open', refuse)
    found = read_results(models)
    assert [(row.name, STD in row.values) for row in found.rows] == [('a', False)]
    assert [line.partition('models/')[2] for line in found.problems] == [
        'a/analysis/pruning_comparison.json: cannot be read: Permission denied',
        'b/evaluation/evaluation_results.json: cannot be read: Permission denied',
    ]


def test_a_mark_of_byte_order_is_no_error(tmp_path):
    row_of(tmp_path, '\ufeff' + json.dumps(evaluation()))


# --- what each layer has kept -------------------------------------------------------------------------------


def test_all_names_of_a_comparison_say_the_same(tmp_path):
    kept = GUIDE['HGSP_2000'][1]
    rows = [
        row_of(tmp_path / str(number), kept=kept, name=name)[0]
        for number, name in enumerate(['pruning_comparison.json', 'model_comparison.json', 'pruning_comparison.txt'])
    ]
    assert rows[0] == rows[1] == rows[2] and rows[0][LISTS[0]] == '[11, 12, 25]'


def test_the_report_of_our_own_analysis(tmp_path):
    kept = GUIDE['HGSP_2000'][1]
    found = comparison(kept)
    part = {'original': 10, 'pruned': 5, 'reduced': 5, 'reduction_ratio': 0.5}
    for layer in found['layers']:
        layer.update(attention=part, mlp=part)
    empty = dict.fromkeys(('zero_layers', 'heavy_layers', 'light_layers'), [1])
    text = pruning_comparison({**found, **empty, 'removed_layers': 0, 'total_params': part, 'layer_params': part})
    values, _ = row_of(tmp_path / 'a', kept=kept)
    write(tmp_path / 'b' / 'models' / 'x', kept=kept, name='pruning_comparison.txt')
    (tmp_path / 'b' / 'models' / 'x' / 'analysis' / 'pruning_comparison.txt').write_text(text, encoding='utf-8')
    assert row_of(tmp_path / 'b')[0] == values


def test_which_comparison_comes_first(tmp_path):
    row_of(tmp_path, kept=[0.01, 1], name='pruning_comparison.txt')
    row_of(tmp_path, kept=[1, 0.01], name='model_comparison.json')
    assert row_of(tmp_path)[0][LISTS[0]] == '[1]'
    assert row_of(tmp_path, kept=[0.01, 0.01])[0][LISTS[0]] == '[0, 1]'


def test_one_layer_has_no_spread(tmp_path):
    values, notes = row_of(tmp_path, kept=[0.01])
    assert STD not in values and VAR not in values and values[LISTS[0]] == '[0]' and notes == []


def test_no_comparison(tmp_path):
    values, notes = row_of(tmp_path)
    assert not {STD, VAR, *LISTS} & set(values) and notes == []


def test_layers_of_a_comparison(tmp_path):
    """By their own numbers; from counts, else from the ratio; a layer that had nothing has lost nothing."""
    folder = write(tmp_path / 'x', evaluation()) / 'analysis'
    folder.mkdir()
    layers = [
        {'layer_idx': 7, 'total': {'original': 20, 'pruned': 1, 'reduction_ratio': 0.9500001}},
        {'layer_idx': 3, 'total': {'reduction_ratio': 0.96}},
        {'layer_idx': 5, 'total': {'original': 0, 'pruned': 0, 'reduction_ratio': 0.0}},
    ]
    (folder / 'model_comparison.json').write_text(json.dumps({'layers': layers}))
    (row,) = read_results(tmp_path).rows
    assert (row.values[LISTS[0]], row.values[LISTS[1]]) == ('[3]', '[3, 7]')  # 1 / 20 is not below 5 %
    assert row.values[STD] == pytest.approx(statistics.stdev([0.05, 0.04, 1]))


def test_layers_that_left_without_a_trace(tmp_path):
    path = write(tmp_path / 'x', evaluation(), [0.5, 1]) / 'analysis' / 'pruning_comparison.json'
    found = comparison([0.5, 1])
    for layers, notes in ((2, 0), (3, 1)):
        path.write_text(json.dumps({**found, 'layer_params': {'original': layers * DENSE_LAYER}}))
        results = read_results(tmp_path)
        assert len(results.notes) == notes and results.rows[0].values[STD] == pytest.approx(math.sqrt(0.125))
    assert 'layers with 218,112,000 of 654,336,000 parameters left without a trace' in results.notes[0]


def test_swapped_roles_are_noticed(tmp_path):
    _, notes = row_of(tmp_path, kept=[1.2, 1.0])
    assert len(notes) == 1 and 'swapped' in notes[0]


HUGE = '{"layers": [{"layer_idx": 0, "total": {"original": 1e-300, "pruned": 1e300}}]}'
TWICE = '{"layers": [{"layer_idx": 1, "total": {"reduction_ratio": 0.5}}, {"total": {"reduction_ratio": 0.5}}]}'


@pytest.mark.parametrize(
    'text', ['{', '{"layers": []}', '{"layers": [{"layer_idx": 0}]}', '{"layers": 3}', '[]', TWICE, HUGE]
)
def test_a_broken_comparison_is_said_and_the_next_is_read(tmp_path, text):
    folder = write(tmp_path / 'x', evaluation(), [0.01, 1], 'pruning_comparison.txt')
    path = folder / 'analysis' / 'pruning_comparison.json'
    path.write_text(text)
    found = read_results(tmp_path)
    assert found.rows[0].values[LISTS[0]] == '[0]'
    assert len(found.problems) == 1 and found.problems[0].startswith(f'{path}: ')


def test_rows_of_older_reports(tmp_path):
    folder = write(tmp_path / 'x', evaluation(), [1.0], 'pruning_comparison.txt')
    text = (
        '每层参数详细对比\nLayer  原始  剪枝  保留%\nLayer 0: 218,112,000 2,181,120 1.00\n'
        'Layer 1  1000 1000  12.5%  87.5%\n  2  100  50  50.00% 50.00% [MLP剪空]\n0 1 1 100%\n3 1.2.3 4\n'
    )
    path = folder / 'analysis' / 'pruning_comparison.txt'
    path.write_text(text, encoding='utf-8')
    (row,) = read_results(tmp_path).rows
    assert [row.values[name] for name in LISTS] == ['[0]', '[0]', '[0, 1]', '[0, 1]']
    assert row.values[STD] == pytest.approx(statistics.stdev([0.01, 0.125, 0.5]))
    path.write_text('nothing of this kind\n')
    found = read_results(tmp_path)
    assert found.problems == [f'{path}: has no rows of layers'] and STD not in found.rows[0].values


def test_the_helper_writes_what_the_specification_says():
    assert set(TASKS) == set(evaluation()['metrics']['zeroshot'])
    assert comparison([0.25])['layers'][0]['total']['reduction_ratio'] == 0.75
