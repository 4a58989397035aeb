"""model_analysis: its files, roles of the two models, and what a user can get wrong."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from llm_files import SHORTGPT_7, TINY, write_llama, write_pickled, write_safetensors

from vadslim.model_analysis import main

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def pair(tmp_path):
    return write_llama(tmp_path / 'pruned', TINY, layers=[0, 2]), write_llama(tmp_path / 'original', TINY)


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def test_one_model(pair, capsys):
    pruned, _ = pair
    assert main(['--model_path', str(pruned)]) == 0
    assert sorted(file.name for file in (pruned / 'analysis').iterdir()) == [
        'model_structure.json',
        'structure.html',
        'structure_summary.txt',
    ]
    data = read(pruned / 'analysis' / 'model_structure.json')
    assert data['model_name'] == 'pruned' and data['layer_summary']['num_layers'] == 2
    out = capsys.readouterr().out
    assert 'model.layers.0-1' in out and f'{data["total_params"]:,} parameters' in out


@pytest.mark.parametrize('flags', [('--model_path', '--compare_with'), ('--pruned', '--original')])
def test_two_models(pair, tmp_path, capsys, flags):
    out = tmp_path / 'a' / 'b'
    assert main([flags[0], str(pair[0]), flags[1], str(pair[1]), '--output_dir', str(out), '--verbose']) == 0
    assert {file.name for file in out.iterdir()} == {
        'original_model_analysis.json',
        'pruned_model_analysis.json',
        'pruning_comparison.json',
        'pruning_comparison.txt',
        'pruning_summary_by_layer.txt',
        'structure.html',
        'structure_summary.txt',
    }
    found = read(out / 'pruning_comparison.json')
    assert (found['original_name'], found['pruned_name'], found['removed_layers']) == ('original', 'pruned', 1)
    assert found['total_params']['pruned'] == read(out / 'pruned_model_analysis.json')['total_params']
    assert 'nothing in the files tells which' in capsys.readouterr().out
    assert not (pair[1] / 'analysis').exists()  # the original's folder stays as it is


def test_swapped_roles_are_seen(pair, capsys):
    assert main(['--model_path', str(pair[1]), '--compare_with', str(pair[0])]) == 0
    assert 'taken as the pruned one' in capsys.readouterr().err
    found = read(pair[0] / 'analysis' / 'pruning_comparison.json')
    assert found['original_name'] == 'original' and found['total_params']['reduced'] > 0
    assert not (pair[1] / 'analysis').exists()


def test_roles_that_are_named_stay(pair, tmp_path, capsys):
    assert main(['--pruned', str(pair[1]), '--original', str(pair[0]), '--output_dir', str(tmp_path / 'o')]) == 0
    assert 'as you say' in capsys.readouterr().err
    assert read(tmp_path / 'o' / 'pruning_comparison.json')['total_params']['reduction_ratio'] < 0


def test_names_quiet_and_parts(pair, tmp_path, capsys):
    words = [
        '--model_name',
        'Small',
        '--compare_name',
        'Große',
        '--quiet',
        '--part',
        '*.o_proj.*=other',
        '--device',
        'cuda',
    ]
    options = [*words, '--device', 'cuda', '--output_dir', str(tmp_path / 'o')]
    assert main(['--model_path', str(pair[0]), '--compare_with', str(pair[1]), *options]) == 0
    assert capsys.readouterr().out == ''
    text = (tmp_path / 'o' / 'pruning_comparison.json').read_text(encoding='utf-8')
    assert json.loads(text)['pruned_name'] == 'Small' and 'Große' in text
    layer = read(tmp_path / 'o' / 'pruned_model_analysis.json')['layers'][0]
    assert layer['other'] == 256 and layer['attention']['o_proj'] == 0


def test_count_zeros_and_check(tmp_path, capsys):
    torch.manual_seed(0)
    state = {f'layers.{n}.{part}.weight': torch.rand(4, 6) + 1 for n in range(2) for part in ('attn.q_proj', 'mlp.fc1')}
    state['layers.1.mlp.fc1.weight'][1:3] = 0
    state['layers.0.attn.q_proj.weight'][0, 0] = -0.0
    torch.save({'module.' + name: value for name, value in state.items()}, tmp_path / 'masked.pth')
    assert main(['--model_path', str(tmp_path / 'masked.pth'), '--count-zeros']) == 0
    first, second = read(tmp_path / 'analysis' / 'model_structure.json')['layers']
    assert first['zeros'] == {'elements': 48, 'zeros': 1, 'sparsity': 1 / 48, 'units': 8, 'zero_units': 0}
    assert second['zeros'] == {'elements': 48, 'zeros': 12, 'sparsity': 0.25, 'units': 8, 'zero_units': 2}
    assert 'zeros: 13 of 96 values (13.54%); 2 of 16 rows of weights' in capsys.readouterr().out
    state['layers.0.mlp.fc1.weight'][2] = float('nan')
    torch.save(state, tmp_path / 'broken.pth')
    options = ['--check', '--output_dir', str(tmp_path / 'o')]
    assert main(['--model_path', str(tmp_path / 'broken.pth'), *options]) == 1
    assert 'not finite: values in 1 tensors (layers.0.mlp.fc1.weight)' in capsys.readouterr().out
    assert read(tmp_path / 'o' / 'model_structure.json')['zeros']['nonfinite'] == {'layers.0.mlp.fc1.weight': 6}


def test_classes_of_a_pickle_are_named(tmp_path, capsys):
    path = write_pickled(tmp_path / 'pruned_model.bin')
    assert main(['--model_path', str(path)]) == 0
    assert 'none of it was imported or built' in capsys.readouterr().out
    assert 'pruning_tool.layers.Tokenizer' in read(tmp_path / 'analysis' / 'model_structure.json')['classes']


def test_without_layers(tmp_path, capsys):
    write_safetensors(tmp_path / 'x.safetensors', {'fc.weight': (3, 4), 'fc.bias': (3,)})
    assert main(['--model_path', str(tmp_path / 'x.safetensors')]) == 0
    assert '15 parameters' in capsys.readouterr().out


def test_all_files_or_none(pair, tmp_path, capsys):
    out = tmp_path / 'o'
    assert main(['--model_path', str(pair[1]), '--output_dir', str(out)]) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before['model_structure.json']), hard))  # the page is longer
    try:
        assert 'cannot be written' in complaint(['--model_path', str(pair[0]), '--output_dir', str(out)], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def complaint(argv, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1
    return err


def test_what_can_go_wrong(pair, tmp_path, capsys):
    model = str(pair[0])
    assert '--model_path' in complaint([], capsys)
    assert '--latency goes with --config' in complaint(['--model_path', model, '--latency'], capsys)
    assert '--count-zeros goes without' in complaint(['--model_path', model, '--config', 'x', '--count-zeros'], capsys)
    assert 'unrecognized arguments: --modle' in complaint(['--model_path', model, '--modle'], capsys)
    assert 'no such file' in complaint(['--model_path', str(tmp_path / 'none')], capsys)
    assert 'PATTERN=PART with one of attention, mlp' in complaint(['--model_path', model, '--part', 'x=y'], capsys)
    empty = tmp_path / 'empty.safetensors'
    empty.touch()
    assert 'empty (0 bytes)' in complaint(['--model_path', str(empty)], capsys)
    file = tmp_path / 'file'
    file.touch()
    assert 'is a file; a folder' in complaint(['--model_path', model, '--output_dir', str(file)], capsys)
    hollow = write_llama(tmp_path / 'hollow', TINY, shards=0)
    assert 'no weights' in complaint(['--model_path', str(hollow), '--count-zeros'], capsys)


HEAVY = ('torch', 'mmengine', 'pandas', 'matplotlib', 'numpy', 'mmcv')


def test_header_path_is_light(tmp_path):
    """Comparing two models, in a process of its own: what it has imported when it ends."""
    big, short = write_llama(tmp_path / 'big'), write_llama(tmp_path / 'short', layers=SHORTGPT_7)
    lines = (
        'import sys',
        'from vadslim import model_analysis',
        'from vadslim.analysis import batch_command',
        f'assert model_analysis.main(["--model_path", {str(short)!r}, "--compare_with", {str(big)!r}]) == 0',
        f'words = ["--models_dir", {str(tmp_path)!r}, "--base_model", {str(big)!r}, "--output_dir", {str(tmp_path)!r}]',
        'assert batch_command.main([*words, "--merge_results"]) == 0',
        f'found = [name for name in {HEAVY!r} if name in sys.modules]',
        'assert not found, found',
    )
    env = {**os.environ, 'PYTHONPATH': str(ROOT / 'projects')}
    done = subprocess.run([sys.executable, '-c', '\n'.join(lines)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
