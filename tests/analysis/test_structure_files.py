"""What analysing wrote, read: exact numbers, and what is no such file is an error of one line."""

import copy
import json

import pytest
from structure_dicts import ATTENTION, DENSE, FULL, LAYER, MLP, NORM, SHORT, comparison, layer, structure

from vadslim.analysis import structure_files
from vadslim.analysis.structure_files import one_line, printable, read_comparison, read_json, read_structure


def test_llama_3_8b():
    found = read_structure(DENSE)
    assert found['params'] == {
        'total': 8_030_261_248,
        'embedding': 525_336_576,
        'lm_head': 525_336_576,
        'layers': 6_979_584_000,
        'num_layers': 32,
    }
    assert found['zero_layers'] == [] and found['about'] == {'model_name': 'Llama-3-8B'}
    first = found['layers'][0]
    assert [first[key] for key in ('attention', 'mlp', 'norm', 'other', 'total')] == [ATTENTION, MLP, NORM, 0, LAYER]
    assert first['sparsity'] is None


def test_short_gpt_against_llama():
    found = read_comparison(comparison(DENSE, SHORT))
    assert found['pruning']['pruned_params'] == 6_503_477_248
    assert found['pruning']['reduction_ratio'] == pytest.approx(0.19012880812318, abs=1e-14)
    assert found['pruning']['layer_reduction_ratio'] == 0.21875
    assert found['removed_layers'] == 7 and found['num_layers'] == 25  # which the file does not say
    assert (found['heavy_layers'], found['light_layers']) == ([], list(range(25)))


def test_heavy_light_and_zero_layers():
    """An Identity is a zero layer, whatever the file says of it."""
    left = [FULL, (0.5, 0.5), (0.1, 0.1), (0, 0), (0, 0, 0), (0.9, 0.9), (0, 1.0)]
    before, after = structure(left=[FULL] * 7), structure(left=left)
    assert [one['is_zero_layer'] for one in after['layers'][3:5]] == [True, False]
    found = read_comparison(comparison(before, after))
    assert (found['heavy_layers'], found['light_layers']) == ([2, 3, 4], [0, 5, 6])
    assert [row['is_zero'] for row in found['layer_pruning']] == [False, False, False, True, True, False, False]
    assert found['layer_pruning'][6]['attention_reduction_ratio'] == 1.0
    assert read_structure(after)['zero_layers'] == [3, 4]


def test_limits():
    """80 % is not heavy, 20 % is not light; a layer without attention and MLP is empty when nothing is left."""
    nothing = {'original': 0, 'pruned': 0}
    rows = [
        {'layer_idx': index, 'total': {'original': 100, 'pruned': left}, 'attention': nothing, 'mlp': nothing}
        for index, left in enumerate((20, 19, 80, 81, 0))
    ]
    found = read_comparison({**comparison(DENSE, SHORT), 'layers': rows})
    assert (found['heavy_layers'], found['light_layers']) == ([1, 4], [3])
    assert [row['is_zero'] for row in found['layer_pruning']] == [False] * 4 + [True]
    assert found['layer_pruning'][0]['mlp_reduction_ratio'] is None


def test_layers_that_are_not_listed():
    """They are as many as fit in what is not listed, if all are of one size; else nothing tells."""
    assert read_comparison(comparison(DENSE, DENSE))['removed_layers'] == 0
    uneven = structure(left=[FULL, (1.0, 0.5), FULL])
    assert read_comparison(comparison(uneven, structure(left=[FULL, FULL])))['removed_layers'] is None
    told = {**comparison(DENSE, SHORT), 'removed_layers': 6, 'num_zero_layers': 8}
    assert [read_comparison(told)[key] for key in ('removed_layers', 'num_zero_layers')] == [6, 8]


def test_ours_tell_more():
    data = copy.deepcopy(SHORT)
    counts = {'elements': 200, 'zeros': 50, 'units': 10, 'zero_units': 1, 'nonfinite': {'a.weight': 2}}
    data |= {'path': 'a/b', 'size_bytes': 7, 'tied': ['x'], 'zeros': counts}
    data['stacks'] = [{'name': 'encoder', 'num_layers': 3}, {'name': 'decoder', 'num_layers': 22}]
    data['layers'][3] |= {'name': 'encoder.3', 'zeros': {'elements': 0, 'zeros': 0, 'units': 0, 'zero_units': 0}}
    data['layers'][4] |= {'conv': 5, 'total': LAYER + 7, 'zeros': counts}
    found = read_structure(data)
    assert (found['size_bytes'], found['sparsity'], found['unit_sparsity']) == (7, 0.25, 0.1)
    assert found['about'] == {
        'model_name': 'ShortGPT_remove_7',
        'path': 'a/b',
        'stacks': 'encoder (3), decoder (22)',
        'tied': 'x',
        'values_not_finite': 'a.weight',
    }
    assert found['layers'][3]['name'] == 'encoder.3' and found['layers'][3]['sparsity'] is None
    assert [found['layers'][4][key] for key in ('conv', 'other', 'unit_sparsity')] == [5, 2, 0.1]


def changed(data, *keys, value=None):
    """A copy in which what is under the keys is another value; without one it is not there."""
    data = inner = copy.deepcopy(data)
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return data


@pytest.mark.parametrize(
    ('data', 'why'),
    [
        ([], 'is [], not a JSON object'),
        ('text', "is 'text', not a JSON object"),
        (None, 'is None, not a JSON object'),
        ({}, 'has no layer_summary'),
        (changed(SHORT, 'total_params', value='8030261248'), "total_params is '8030261248', not a whole number"),
        (changed(SHORT, 'total_params', value=float('nan')), 'total_params is nan'),
        (changed(SHORT, 'total_params', value=True), 'total_params is True'),
        (changed(SHORT, 'total_params', value=-1), 'total_params is -1'),
        (changed(SHORT, 'total_params', value=1e400), 'total_params is inf'),
        (changed(SHORT, 'lm_head_params'), 'has no lm_head_params'),
        (changed(SHORT, 'layers', value={}), 'layers is {}, not a list'),
        (changed(SHORT, 'layers', value=[{}] * 10_001), 'not a list of at most 10000'),
        (changed(SHORT, 'layers', 3, value=[]), 'layers[3] is [], not an object'),
        (changed(SHORT, 'layers', 3, 'attention', value=5), 'layers[3].attention is 5, not an object'),
        (changed(SHORT, 'layers', 3, 'mlp', 'total'), 'has no layers[3].mlp.total'),
        (changed(SHORT, 'layers', 3, 'norm', value=LAYER), 'layers[3].total is 218,112,000, less than its parts'),
        (changed(SHORT, 'layers', 3, 'layer_idx', value=4), 'layer_idx is there twice'),
        (changed(SHORT, 'layers', 3, 'layer_idx', value=10_000), 'not below 10000'),
        (changed(SHORT, 'layers', 3, 'zeros', value=[]), 'layers[3].zeros is [], not an object'),
        (changed(SHORT, 'layer_summary', 'num_layers', value=24), 'num_layers is 24, but there are 25 layers'),
    ],
)
def test_what_is_no_structure(data, why):
    with pytest.raises(ValueError) as raised:
        read_structure(data)
    assert why in str(raised.value) and len(str(raised.value)) < 120


@pytest.mark.parametrize(
    ('keys', 'value', 'why'),
    [
        (('total_params',), [1, 2], 'total_params is [1, 2], not an object'),
        (('total_params', 'pruned'), None, 'has no total_params.pruned'),
        (('layers', 0, 'total', 'original'), '1', "layers[0].total.original is '1'"),
        (('layers', 0, 'mlp'), None, 'has no layers[0].mlp'),
        (('layers', 0, 'total', 'pruned'), 5, 'less than its parts'),
        (('removed_layers',), 'seven', "removed_layers is 'seven'"),
    ],
)
def test_what_is_no_comparison(keys, value, why):
    with pytest.raises(ValueError) as raised:
        read_comparison(changed(comparison(DENSE, SHORT), *keys, value=value))
    assert why in str(raised.value)
    with pytest.raises(ValueError, match='has no total_params.original'):
        read_comparison({**SHORT, 'total_params': {}})


@pytest.mark.parametrize(
    ('content', 'why'),
    [
        (b'', 'Expecting value'),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b'\x80\x02}q\x00.', "can't decode"),
        (b'[' * 100_000, 'nested too deeply'),
        (b'1' * 5000, 'Exceeds the limit'),
        (b' ' * 2001, 'larger than 0 MiB'),
    ],
)
def test_what_is_no_json(tmp_path, monkeypatch, content, why):
    path = tmp_path / 'a.json'
    path.write_bytes(content)
    monkeypatch.setattr(structure_files, 'LARGEST_FILE', 2000 if b' ' in content[:1] else 200_000)
    with pytest.raises(ValueError) as raised:
        read_json(path)
    assert why in one_line(raised.value)


def test_json_with_a_mark_of_its_order(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(SHORT), encoding='utf-8-sig')
    assert read_json(tmp_path / 'a.json') == SHORT


def test_lines():
    assert one_line(FileNotFoundError(2, 'No such file')) == 'No such file'
    assert one_line(ValueError('a\n b\x1b[1m')) == 'a b\ufffd[1m' and one_line(ValueError()) == 'ValueError'
    assert printable('层 \ud800\n') == '层 \ufffd\ufffd' and printable(5) == ''


def test_numbers_written_as_floats_are_numbers():
    assert read_structure(changed(SHORT, 'total_params', value=6503477248.0))['params']['total'] == 6_503_477_248
    assert layer(0)['total'] == LAYER
