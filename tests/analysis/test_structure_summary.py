"""Models side by side: files under all their names, lines told, JSON and text as earlier tools wrote them."""

import json
from datetime import datetime

import pytest
from structure_dicts import DENSE, FULL, SHORT, comparison, structure, write

from vadslim.analysis.model_comparison import compare_structures
from vadslim.analysis.structure_summary import collect, layers_of, ranges, summarize, to_json, to_text

SHORT_COMPARISON = comparison(DENSE, SHORT)
EMPTY = structure('Emptied', [FULL] * 30 + [(0, 0), (0, 0, 0)])  # the last is an Identity
NOW = datetime(2026, 1, 2, 3, 4, 5, 60)


def read(*folders):
    lines = []
    return collect(folders, lines.append), lines


@pytest.fixture
def folders(tmp_path):
    """Two folders, with the files that the predecessor read and those that its other commands wrote."""
    baselines, results = tmp_path / 'baselines', tmp_path / 'results'
    write(baselines / 'ShortGPT' / 'analysis', pruned_model_analysis=SHORT, model_comparison=SHORT_COMPARISON)
    write(baselines / 'Emptied' / 'analysis', model_structure=EMPTY, pruning_comparison=comparison(DENSE, EMPTY))
    write(baselines / 'nothing', config={})
    write(results / 'base', model_structure=DENSE)
    write(results / 'compared' / 'analysis', model_comparison=SHORT_COMPARISON)
    return baselines, results


def test_what_is_told(folders):
    models, lines = read(folders[0], folders[1], folders[0].parent / 'nowhere')
    assert lines == [
        '✓ Emptied                        [对比✓, 结构✓]',
        '✓ ShortGPT                       [对比✓, 结构✓]',
        '⊘ nothing                        [无分析结果]',
        '✓ base                           [结构✓]',
        '✓ compared                       [对比✓]',
        f'⊘ 跳过不存在的目录: {folders[0].parent}/nowhere',
    ]
    assert [model['name'] for model in models] == [
        'baselines/Emptied',
        'baselines/ShortGPT',
        'results/base',
        'results/compared',
    ]


def test_json(folders):
    models, _ = read(*folders)
    data = json.loads(json.dumps(to_json(models, NOW)))
    assert (data['timestamp'], data['total_models']) == ('2026-01-02T03:04:05.000060', 4)
    emptied, short, base, compared = data['models']
    assert short['params'] == {
        'total': 6_503_477_248,
        'embedding': 525_336_576,
        'lm_head': 525_336_576,
        'layers': 5_452_800_000,
        'num_layers': 25,
    }
    assert short['pruning'] == {
        'original_params': 8_030_261_248,
        'pruned_params': 6_503_477_248,
        'reduction_ratio': pytest.approx(0.19012880812318, abs=1e-14),
        'layer_reduction_ratio': 0.21875,
    }
    assert (short['zero_layers'], short['removed_layers'], short['num_zero_layers']) == ([], 7, 7)
    first = short['layer_pruning'][0]
    assert {key: first[key] for key in ('layer_idx', 'reduction_ratio', 'is_zero')} == {
        'layer_idx': 0,
        'reduction_ratio': 0.0,
        'is_zero': False,
    }
    assert (emptied['zero_layers'], emptied['removed_layers'], emptied['num_zero_layers']) == ([30, 31], 0, 2)
    assert emptied['heavy_layers'] == [30, 31] and emptied['layer_pruning'][31]['is_zero']
    assert (base['has_structure'], base['has_comparison'], 'pruning' in base) == (True, False, False)
    assert (compared['has_structure'], compared['has_comparison'], 'params' in compared) == (False, True, False)
    assert emptied['parts']['mlp'] == 30 * 176_160_768 and 'layers' not in short and 'about' not in short


GOLDEN = f"""{'=' * 120}
模型结构分析汇总表
{'=' * 120}

模型名称                                                 总参数       剪枝比例     层数       完全剪空的层
{'-' * 120}
results/base                               8,030,261,248        N/A     32            0
baselines/Emptied                          7,594,045,440      5.43%     32            2
baselines/ShortGPT                         6,503,477,248     19.01%     25            7
results/compared                           6,503,477,248     19.01%     25            7

{'=' * 80}
统计信息
{'=' * 80}

总模型数: 4

参数量统计:
  最小: 6,503,477,248
  最大: 8,030,261,248
  平均: 7,157,815,296

剪枝比例统计:
  最小: 5.43%
  最大: 19.01%
  平均: 14.49%

完全剪空的层统计:
  有剪空层的模型数: 3
  总剪空层数: 16

各模型中移除的层、剪空的层、重度 (> 80%) 和轻度 (< 20%) 剪枝的层:
  baselines/Emptied: 剪空 2 [30-31]; 重度 2 [30-31]; 轻度 30 [0-29]
  baselines/ShortGPT: 移除 7; 轻度 25 [0-24]
  results/compared: 移除 7; 轻度 25 [0-24]
"""


def test_text(folders):
    """A model of which there is only a comparison stands where its size puts it."""
    assert to_text(read(*folders)[0]) == GOLDEN


def test_text_of_one_model_that_was_not_compared():
    text = to_text([summarize('a/Llama-3-8B', DENSE)])
    assert '剪枝比例统计' not in text and '完全剪空的层统计' not in text and text.endswith('平均: 8,030,261,248\n')


def test_broken_files_are_told_and_not_there(tmp_path):
    write(tmp_path / 'm' / 'a' / 'analysis', pruned_model_analysis='{"a"', model_comparison=SHORT_COMPARISON)
    write(tmp_path / 'm' / 'b' / 'analysis', model_structure=SHORT, model_comparison='[]')
    write(tmp_path / 'm' / 'c' / 'analysis', model_structure={**SHORT, 'total_params': '8 b'}, model_comparison='')
    write(tmp_path / 'm' / 'd' / 'analysis', pruned_model_analysis='{}', model_structure=SHORT)  # the other one does
    models, lines = read(tmp_path / 'm')
    assert lines == [
        "⚠ 无法加载 a/pruned_model_analysis.json: Expecting ':' delimiter: line 1 column 5 (char 4)",
        '✓ a                              [对比✓]',
        '⚠ 无法加载 b/model_comparison.json: is [], not a JSON object',
        '✓ b                              [结构✓]',
        '⚠ 无法加载 c/model_comparison.json: Expecting value: line 1 column 1 (char 0)',
        "⚠ 无法加载 c/model_structure.json: total_params is '8 b', not a whole number",
        '⊘ c                              [无分析结果]',
        '⚠ 无法加载 d/pruned_model_analysis.json: has no layer_summary',
        '✓ d                              [结构✓]',
    ]
    assert len(models) == 3


def test_the_original_is_taken_for_the_model_only_where_it_is_alone(tmp_path):
    write(tmp_path / 'm' / 'alone' / 'analysis', original_model_analysis=DENSE)
    write(tmp_path / 'm' / 'pruned' / 'analysis', original_model_analysis=DENSE, pruned_model_analysis='broken')
    models, lines = read(tmp_path / 'm')
    assert [model['name'] for model in models] == ['m/alone'] and models[0]['params']['num_layers'] == 32
    assert lines[-1] == '⊘ pruned                         [无分析结果]'


def test_the_original_tells_how_many_layers_are_gone(tmp_path):
    """What nothing else tells: layers of different sizes, and no number in the file."""
    left = [(1.0, 0.5 + place / 100) for place in range(32)]
    before, after = structure(left=left), structure(left=left[:20])
    files = {'pruned_model_analysis': after, 'model_comparison': comparison(before, after)}
    write(tmp_path / 'm' / 'a', **files)
    write(tmp_path / 'm' / 'b', **files, original_model_analysis=before)
    write(tmp_path / 'm' / 'c', **files, original_model_analysis='broken')
    models, lines = read(tmp_path / 'm')
    assert [model['removed_layers'] for model in models] == [None, 12, None]
    assert [model['num_zero_layers'] for model in models] == [0, 12, 0] and len(lines) == 3


def test_files_of_two_models_are_not_mixed(tmp_path):
    write(tmp_path / 'm' / 'a', model_structure=EMPTY, model_comparison=SHORT_COMPARISON)
    (model,), lines = read(tmp_path / 'm')
    assert lines[0] == (
        '⚠ 无法加载 a/model_structure.json: is of a model of 7,594,045,440 parameters, '
        'the comparison of another one, of 6,503,477,248'
    )
    assert not model['has_structure'] and layers_of(model) == 25


def test_names(tmp_path):
    """Folders of one name are told by their paths, the same one counts once; hidden ones are not looked at."""
    for parent in ('a', 'b'):
        write(tmp_path / parent / 'm' / f'{parent}\n层', model_structure=DENSE)
    write(tmp_path / 'a' / 'm' / '.git', model_structure=DENSE)
    places = [tmp_path / 'a' / 'm', tmp_path / 'b' / 'm', tmp_path / 'a' / '..' / 'a' / 'm']
    models, lines = read(*places)
    assert [model['name'] for model in models] == [f'{tmp_path}/a/m/a\ufffd层', f'{tmp_path}/b/m/b\ufffd层']
    assert len(lines) == 2


def test_what_is_neither_folder_nor_file(tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'm' / 'a' / 'analysis' / 'model_structure.json').mkdir(parents=True)
    models, lines = read(tmp_path / 'file', tmp_path / 'm')
    assert (models, lines) == (
        [],
        [f'⊘ 跳过不存在的目录: {tmp_path}/file', '⊘ a                              [无分析结果]'],
    )


def named(data, stack):
    return {**data, 'layers': [{**one, 'name': f'{stack}.{one["layer_idx"]}'} for one in data['layers']]}


def test_ours_know_which_layers_are_gone():
    before, after = named(DENSE, 'model.layers'), named(SHORT, 'model.layers')
    for one in after['layers']:
        one['original_idx'] = one['layer_idx'] + 7 * (one['layer_idx'] > 20)
    for model in (before, after):
        model['zero_layers'] = []
    model = summarize('m', after, compare_structures(before, after))
    assert [layer['layer_idx'] for layer in model['layers'] if layer['is_zero']] == list(range(21, 28))
    assert (model['removed_layers'], model['num_zero_layers'], layers_of(model)) == (7, 7, 25)
    assert len(model['heavy_layers']) == 7 and model['layers'][31]['norm'] == 8_192


def test_stacks_in_another_order():
    """Of the same names, and of a name that only one of the two has."""

    def two(first, second, **more):
        data = structure(left=[FULL, FULL, (1.0, 0.5)])
        names = [f'{first}.0', f'{first}.1', f'{second}.0']
        return {**data, 'layers': [{**one, 'name': name, **more} for one, name in zip(data['layers'], names)]}

    before, after = two('a', 'b'), two('a', 'b')
    after['layers'] = [{**after['layers'][place], 'layer_idx': index} for index, place in enumerate((2, 0, 1))]
    after['layers'][0]['zeros'] = {'elements': 4, 'zeros': 1, 'units': 0, 'zero_units': 0}
    for model in (before, after):
        model['zero_layers'] = []
    model = summarize('m', after, compare_structures(before, after))
    assert [(layer['name'], layer['sparsity']) for layer in model['layers']] == [
        ('a.0', None),
        ('a.1', None),
        ('b.0', 0.25),
    ]
    renamed = two('a', 'c', zeros={'elements': 4, 'zeros': 3, 'units': 0, 'zero_units': 0})
    model = summarize('m', renamed, compare_structures(before, renamed))
    assert [layer['sparsity'] for layer in model['layers']] == [0.75] * 3
    longer = two('a', 'd')
    longer['layers'].append({**longer['layers'][2], 'layer_idx': 3, 'name': 'd.1'})
    longer['layer_summary'] = {**longer['layer_summary'], 'num_layers': 4}
    assert summarize('m', longer, compare_structures(before, longer))['layers'][0]['sparsity'] is None


def test_ranges():
    assert ranges([5, 0, 1, 2]) == '0-2, 5' and ranges([]) == ''
