"""What was removed: ratios, marks, and which layer of one belongs to which of the other."""

import json

import pytest
from llm_files import SHORTGPT_7, TINY, write_llama

from vadslim.analysis.headers import read_headers
from vadslim.analysis.model_comparison import compare_structures, mark_of
from vadslim.analysis.model_structure import analyse


def of(path):
    return analyse(read_headers(path)).to_dict()


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
    return of(write_llama(tmp_path_factory.mktemp('llm') / 'Llama-3-8B-Instruct'))


def test_shortgpt(tmp_path, llama):
    found = compare_structures(llama, of(write_llama(tmp_path / 'ShortGPT_remove_7', layers=SHORTGPT_7)))
    assert found['original_name'] == 'Llama-3-8B-Instruct' and found['pruned_name'] == 'ShortGPT_remove_7'
    assert found['total_params'] == {
        'original': 8_030_261_248,
        'pruned': 6_503_477_248,
        'reduced': 1_526_784_000,
        'reduction_ratio': pytest.approx(0.19012880812318, abs=1e-14),
    }
    assert found['layer_params']['reduction_ratio'] == 0.21875
    assert len(found['layers']) == 25 and found['removed_layers'] == found['num_zero_layers'] == 7
    assert found['zero_layers'] == found['heavy_layers'] == []  # nothing tells which
    assert found['light_layers'] == list(range(25))


def test_layers_with_their_numbers(tmp_path, llama):
    found = compare_structures(llama, of(write_llama(tmp_path, layers=SHORTGPT_7, renumber=False)))
    assert found['zero_layers'] == found['heavy_layers'] == list(range(22, 29)) and found['num_zero_layers'] == 7
    assert len(found['layers']) == 32 and found['layers'][29]['total']['reduction_ratio'] == 0.0
    gone = found['layers'][22]
    assert gone['total'] == {'original': 218_112_000, 'pruned': 0, 'reduced': 218_112_000, 'reduction_ratio': 1.0}
    assert gone['attention']['num_heads'] == {'original': 32, 'pruned': 0} and gone['is_zero_layer']


def test_narrower_layers_and_marks(tmp_path, llama):
    layer = 'model.layers.4'
    changes = {f'{layer}.mlp.{name}_proj.weight': (1000, 4096) for name in ('gate', 'up')}
    changes[f'{layer}.mlp.down_proj.weight'] = (4096, 1000)
    changes |= {f'{layer}.self_attn.{name}_proj.weight': (128, 4096) for name in 'kv'}
    changes |= {f'{layer}.self_attn.q_proj.weight': (512, 4096), f'{layer}.self_attn.o_proj.weight': (4096, 512)}
    found = compare_structures(llama, of(write_llama(tmp_path, changes=changes)))
    row = found['layers'][4]
    assert row['attention']['num_heads'] == {'original': 32, 'pruned': 4}
    assert row['attention']['num_kv_heads'] == {'original': 8, 'pruned': 1}
    assert row['mlp']['intermediate_size'] == {'original': 14336, 'pruned': 1000}
    assert found['heavy_layers'] == [4] and mark_of(row) == 'heavy'
    assert mark_of(found['layers'][5]) == 'light'


def layers(stack, totals, originals=None):
    rows = []
    for number, total in enumerate(totals):
        part = {'total': total // 2}
        rows.append({'name': f'{stack}.{number}', 'total': total, 'attention': part, 'mlp': part, 'norm': 0,
                     'is_zero_layer': not total})  # fmt: skip
        if originals:
            rows[-1]['original_idx'] = originals[number]
    return rows


def model(*stacks):
    rows = [row for stack in stacks for row in stack]
    rows = [{'layer_idx': index, **row} for index, row in enumerate(rows)]
    total = sum(row['total'] for row in rows)
    return {'model_name': 'm', 'total_params': total, 'embedding_params': 0, 'lm_head_params': 0, 'layers': rows,
            'layer_summary': {'num_layers': len(rows), 'total_layer_params': total}}  # fmt: skip


def test_stacks_are_compared_by_name():
    """As of VAD: encoder and decoder stand in any order, each with its own numbers."""
    ours = model(layers('encoder', [10, 10]), layers('decoder', [20, 20, 20]))
    theirs = model(layers('decoder', [20, 4], [0, 2]), layers('encoder', [10, 6]))
    found = compare_structures(ours, theirs)
    left = [(row['name'], row['total']['original'], row['total']['pruned']) for row in found['layers']]
    assert left == [
        ('encoder.0', 10, 10),
        ('encoder.1', 10, 6),
        ('decoder.0', 20, 20),
        ('decoder.1', 20, 0),
        ('decoder.2', 20, 4),
    ]
    assert found['zero_layers'] == [3] and found['removed_layers'] == found['num_zero_layers'] == 1


def test_one_stack_of_another_name():
    found = compare_structures(model(layers('layers', [4, 4])), model(layers('model.layers', [4, 2])))
    assert [row['total']['pruned'] for row in found['layers']] == [4, 2]


def test_a_stack_that_is_gone():
    found = compare_structures(model(layers('a', [4]), layers('b', [4, 4])), model(layers('a', [4])))
    assert found['zero_layers'] == [1, 2] and found['removed_layers'] == 2


def test_files_of_earlier_tools():
    """They have no names, call an Identity no zero layer, and know fewer keys."""
    plain = [{key: value for key, value in row.items() if key != 'name'} for row in layers('x', [8, 8, 8])]
    ours = model(plain)
    theirs = model([{**row, 'total': total, 'is_zero_layer': False} for row, total in zip(plain, [8, 0, 4])])
    found = compare_structures(ours, theirs)
    assert found['zero_layers'] == [1] and [row['total']['pruned'] for row in found['layers']] == [8, 0, 4]
    json.dumps(found)


def test_nothing_to_divide_by():
    found = compare_structures(model(layers('a', [0])), model(layers('a', [4])))
    assert found['total_params'] == {'original': 0, 'pruned': 4, 'reduced': -4, 'reduction_ratio': 0.0}


def test_the_same_model(tmp_path):
    same = of(write_llama(tmp_path, TINY, shards=1))
    found = compare_structures(same, same)
    assert found['total_params']['reduced'] == found['num_zero_layers'] == 0
    assert found['light_layers'] == [0, 1, 2]
