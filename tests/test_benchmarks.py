"""The benchmarks in small: every column is there; both sides of one, and what the masks of the other are."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from vadslim import cli

FOLDER = Path(__file__).resolve().parents[1] / 'tools' / 'benchmarks'
COLUMNS = {
    *('network', 'ratio', 'tool', 'seconds', 'check_seconds', 'macs', 'params', 'loss', 'accuracy'),
    'same_as_vadslim',
}


@pytest.fixture(scope='module')
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # as if they were run as scripts: they import their neighbours
        yield importlib.import_module


@pytest.fixture(scope='module')
def tool(scripts):
    return scripts('compare_torch_pruning')


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif not isinstance(value, str):
        yield value


@pytest.mark.slow
def test_quick_run(tool, tmp_path, capsys):
    path = tmp_path / 'numbers.json'
    assert cli.run(tool.main, ['--quick', '--output', str(path)]) == 0
    printed, result = capsys.readouterr().out, json.loads(path.read_text())
    rows = result['rows']
    tools = ('vadslim', 'Torch-Pruning')
    assert [(row['network'], row['tool']) for row in rows] == [
        (task.network, by) for task in tool.TASKS for by in tools
    ]
    for ours, theirs in zip(rows[::2], rows[1::2]):
        assert set(ours) == set(theirs) == COLUMNS
        assert all(math.isfinite(number) for number in numbers([ours, theirs]))
        assert 0 < ours['check_seconds'] < ours['seconds'] and theirs['seconds'] > 0
        # half of an even width: both remove the same number of units everywhere, so one counter says the same
        assert ours['macs'] == theirs['macs'] and ours['params'] == theirs['params']
        assert ours['macs'][1] < 0.3 * ours['macs'][0]
        equal, count = theirs['same_as_vadslim']
        assert ours['same_as_vadslim'] == [count, count]
        if ours['network'] != 'ViTS':  # there vadslim counts the class token and the positions, too
            assert equal == count and ours['loss'] == theirs['loss']
        assert f'| {ours["network"]} | 0.5 | vadslim |' in printed

    fails = [case['torch_pruning'] for case in result['vad']]
    assert all('TypeError' in line for line in fails[:3])
    assert all('pruned without an error' in line and 'the forward: RuntimeError' in line for line in fails[3:6])
    assert 'value_proj.weight [64, 64] -> [54, 64]' in fails[3] and 'attention_weights.weight [32, 64]' in fails[3]
    assert '42 of 53 convolutions' in fails[6] and '84 of 117 frozen parameters train now' in fails[6]
    slim = [case['vadslim'] for case in result['vad']]
    assert all('the detector runs' in slim[number] for number in (0, 1, 3, 4, 5))
    assert '8 of 37 Groups are protected as frozen' in slim[6] and ' 0 parameters' in slim[6]
    assert all(case['what'] in printed for case in result['vad'])


@pytest.mark.parametrize('options', [['--output', 'no/such/folder/file.json'], ['--repeats', '0']])
def test_mistakes_are_one_line(tool, options, capsys):
    assert cli.run(tool.main, options) == 2
    error = capsys.readouterr().err
    assert options[0] in error and error.count('\n') == 1


# --- the penalty --------------------------------------------------------------------------------------------


def test_penalty(scripts, tmp_path, capsys):
    path = tmp_path / 'numbers.json'
    options = ['--networks', 'resnet20', '--remaining', '0.5', '--batch', '2', '--repeats', '6', '--warmup', '0']
    assert cli.run(scripts('penalty').main, [*options, '--output', str(path)]) == 0
    rows = json.loads(path.read_text())['rows']
    assert [row['optimizer'] for row in rows] == ['SGD', 'AdamW']
    for row in rows:
        assert all(math.isfinite(number) for number in numbers(row))
        # half of the weights are left, a few more once they fill whole channels; the others are one or the other
        assert 0.47 < row['penalised'] + row['masked'] < 0.5 and row['penalised'] > 0.1 < row['masked']
        assert row['interval'][0] <= row['percent'] <= row['interval'][1]
        assert 0 < row['hooks_percent'] * row['plain_ms'] / 100 < row['sparse_ms']
    assert capsys.readouterr().out.count('| resnet20 |') == 2


def test_steps_of_the_penalty_benchmark(scripts):
    """In a sparse step what is removed stays zero and what is penalised shrinks; a plain one knows of neither."""
    penalty = scripts('penalty')
    torch.manual_seed(0)
    model = penalty.NETWORKS['resnet20']()
    weights = penalty.weights_of('resnet20', model)
    case = penalty.rsst_cases(weights, 0.5)
    training = penalty.Training(model, 'SGD', weights, case)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    inputs, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    seconds = training.step(inputs, labels, progress=1.0)
    assert 0 < training.inside < seconds
    for name, weight in weights.items():
        assert not weight[case.removed[name]].any()
        assert (weight != before[name])[case.kept[name]].any()
        penalised = case.penalised[name]
        if penalised.any():
            assert weight[penalised].abs().sum() < before[name][penalised].abs().sum()
    training.step(inputs, labels)
    assert training.inside == 0 and any(weights[name][removed].any() for name, removed in case.removed.items())
