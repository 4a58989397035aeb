"""batch_model_analysis: each model of a folder, whatever its kind; one that is broken stops none."""

import json

import pytest
from llm_files import TINY, write_folder, write_llama, write_pickled, write_slicegpt

from vadslim.analysis.batch_command import kind_of, main


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / 'baselines'
    write_llama(folder / 'ShortGPT', TINY, layers=[0, 2])
    write_slicegpt(folder / 'SliceGPT')
    write_pickled(folder / 'GISP' / 'pruned_model.bin', identity=[1])
    write_llama(folder / 'GISP' / 'other', TINY)
    write_llama(folder / 'inner' / 'pruned_model', TINY, shards=1)
    write_folder(folder / 'config_only', {}, shards=0, config=TINY)
    (folder / 'notes').mkdir()
    (folder / 'notes' / 'readme.json').write_text('{"embedding": [1, 2')
    (folder / '.hidden').mkdir()
    write_llama(tmp_path / 'base', TINY)
    return folder


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def test_kinds(models):
    kinds = {path.name: kind_of(path) for path in models.iterdir()}
    assert kinds == {
        'ShortGPT': 'huggingface',
        'SliceGPT': 'slicegpt',
        'GISP': 'bin',
        'inner': 'huggingface',
        'config_only': 'huggingface',
        'notes': 'no_model',
        '.hidden': 'no_model',
    }


@pytest.mark.parametrize('workers', [[], ['--workers', '1'], ['--workers', '2']])
def test_all_of_a_folder(models, tmp_path, capsys, workers):
    out = tmp_path / 'deep' / 'out'
    argv = ['--models_dir', str(models), '--base_model', str(tmp_path / 'base'), '--output_dir', str(out), *workers]
    assert main([*argv, '--merge_results', '--device', 'cpu']) == 0
    said = capsys.readouterr().err
    assert '⊘ notes: holds no model, skipped' in said and '5 of 5 models analysed' in said
    names = ['GISP', 'ShortGPT', 'SliceGPT', 'config_only', 'inner']
    results = read(out / 'batch_analysis_results.json')
    assert list(results['results']) == names and results['base_model'] == str(tmp_path / 'base')
    assert all(result == {'status': 'success'} for result in results['results'].values())
    for name in names:
        folder = models / name / 'analysis'
        assert {file.name for file in folder.iterdir()} == {
            'model_structure.json',
            'model_comparison.json',
            'structure_summary.txt',
        }
        assert read(folder / 'model_structure.json')['model_name'] == name
        assert read(folder / 'model_comparison.json')['original_name'] == 'base'
    summary = read(out / 'models_summary.json')
    assert [row['name'] for row in summary['models']] == names
    short = summary['models'][1]
    assert short['num_layers'] == 2 and short['pruning']['reduction_ratio'] > 0
    assert read(models / 'GISP' / 'analysis' / 'model_comparison.json')['zero_layers'] == [1]
    heads = read(models / 'GISP' / 'analysis' / 'model_comparison.json')['layers'][0]['attention']
    assert heads['num_heads'] == {'original': 2, 'pruned': 2}  # the base's config tells how wide one is
    assert '<table' in (out / 'models.html').read_text(encoding='utf-8')


def test_one_that_is_broken(models, tmp_path, capsys):
    (models / 'ShortGPT' / 'model-00001-of-00004.safetensors').write_bytes(b'')
    out = tmp_path / 'out'
    assert main(['--models_dir', str(models), '--output_dir', str(out)]) == 2
    assert '4 of 5 models analysed' in capsys.readouterr().err
    results = read(out / 'batch_analysis_results.json')['results']
    assert results['ShortGPT']['status'] == 'error' and 'is empty (0 bytes)' in results['ShortGPT']['error']
    assert results['GISP'] == {'status': 'success'}
    assert not (models / 'GISP' / 'analysis' / 'model_comparison.json').exists()  # there is no base


@pytest.mark.parametrize('where', ['none', 'empty'])
def test_nothing_to_do(tmp_path, capsys, where):
    (tmp_path / 'empty').mkdir()
    assert main(['--models_dir', str(tmp_path / where), '--output_dir', str(tmp_path / 'out')]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and not (tmp_path / 'out').exists()
