"""The text files: their layout is what readers of earlier tools' files expect."""

import pytest
from llm_files import SHORTGPT_7, TINY, write_llama

from vadslim.analysis.headers import read_headers
from vadslim.analysis.model_comparison import compare_structures
from vadslim.analysis.model_structure import analyse
from vadslim.analysis.structure_text import pruning_comparison, pruning_summary_by_layer, structure_summary


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('llm')
    paths = [
        write_llama(folder / 'Llama-3-8B-Instruct'),
        write_llama(folder / 'ShortGPT_remove_7', layers=SHORTGPT_7),
        write_llama(folder / 'gaps', layers=SHORTGPT_7, renumber=False),
    ]
    return [{**analyse(read_headers(path)).to_dict(), 'path': f'models/{path.name}'} for path in paths]


def test_structure_summary(models):
    base, short, _ = models
    text = structure_summary(short, compare_structures(base, short))
    assert text.splitlines() == [
        '=' * 80,
        '模型结构分析摘要',
        '=' * 80,
        '',
        '模型名称: ShortGPT_remove_7',
        '模型路径: models/ShortGPT_remove_7',
        '',
        '总参数量: 6,503,477,248',
        '  - Embedding: 525,336,576',
        '  - LM Head: 525,336,576',
        '  - Decoder Layers: 5,452,800,000',
        '  - 层数: 25',
        '  - 其他: 4,096',
        '',
        '剪枝统计:',
        '  原始参数: 8,030,261,248',
        '  剪枝后参数: 6,503,477,248',
        '  减少参数: 1,526,784,000',
        '  剪枝比例: 19.01%',
        '  移除的层数: 7',
    ]
    assert '剪枝统计' not in structure_summary(base)


def test_comparison(models):
    base, _, gaps = models
    lines = pruning_comparison(compare_structures(base, gaps)).splitlines()
    assert lines[:4] == ['=' * 100, '模型剪枝对比分析报告', '=' * 100, '']
    assert lines[4:6] == ['原始模型: Llama-3-8B-Instruct', '剪枝模型: gaps']
    total = next(line for line in lines if line.startswith('总参数量'))
    assert total == f'{"总参数量":<20} {"8,030,261,248":>20} {"6,503,477,248":>20} {"1,526,784,000":>20} {"19.01":>14}%'
    first = next(line for line in lines if line.startswith('0 '))
    assert first == (
        f'{0:<6} {"218,112,000":>12} {"218,112,000":>16} {"100.00":>11}% {"0.00":>11}% {"0.00":>11}% {"0.00":>11}%'
    )
    assert next(line for line in lines if line.startswith('22 ')).endswith('     100.00% [完全剪空]')
    assert '完全剪空的层 (7): [22, 23, 24, 25, 26, 27, 28]' in lines
    assert '保留比例 < 5% 的层 (7): [22, 23, 24, 25, 26, 27, 28]' in lines
    assert '  Attention: 41,943,040 -> 0 (100.00%), num_heads: 32 -> 0, num_kv_heads: 8 -> 0' in lines


def test_statuses_and_limits(tmp_path):
    base = analyse(read_headers(write_llama(tmp_path / 'a', TINY))).to_dict()
    changes = {'model.layers.2.mlp.up_proj.weight': (2, 16), 'model.layers.2.mlp.gate_proj.weight': (2, 16),
               'model.layers.2.mlp.down_proj.weight': (16, 2)}  # fmt: skip
    path = write_llama(tmp_path / 'b', TINY, changes=changes, empty=['*.0.self_attn.*', '*.1.mlp.*', '*.2.self_attn.*'])
    found = compare_structures(base, analyse(read_headers(path)).to_dict())
    lines = pruning_comparison(found).splitlines()
    rows = {line[0]: line for line in lines if line[:2] in ('0 ', '1 ', '2 ')}
    assert rows['0'].endswith('[Attn剪空]') and rows['1'].endswith('[MLP剪空]') and rows['2'].endswith('[Attn剪空]')
    kept = found['layers'][2]['total']['pruned'] / found['layers'][2]['total']['original']
    assert 0.04 < kept < 0.05
    assert '保留比例 < 5% 的层 (1): [2]' in lines and '剪枝率 > 80% 的层 (heavy, 1): [2]' in lines


def test_summary_by_layer(tmp_path):
    base = analyse(read_headers(write_llama(tmp_path / 'a', TINY))).to_dict()
    changes = {f'model.layers.1.mlp.{name}_proj.weight': (30, 16) for name in ('up', 'gate')}
    changes['model.layers.1.mlp.down_proj.weight'] = (16, 30)
    path = write_llama(tmp_path / 'b', TINY, changes=changes, drop=['model.layers.2.self_attn.*'])
    text = pruning_summary_by_layer(compare_structures(base, analyse(read_headers(path)).to_dict()))
    assert text.splitlines() == [
        '=' * 80,
        '各层剪枝统计摘要',
        '=' * 80,
        '',
        'Layer   Attention           MLP                 Total',
        '1       0 groups (0 params)  10 channels (480 params) 480 params',
        '2       1 groups (768 params) 0 channels (0 params) 768 params',
        '',
        '总计: 1 groups, 1,248 params',
    ]
