"""The costs behind --target-params, --target-macs and --target-latency."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from vadslim.analysis import Example, LayerTimes, Macs, Params, count
from vadslim.cli import UserError, is_user_error
from vadslim.pruning import RuleError, StructuredPruner, TargetError, find_groups
from vadslim.slimming.targets import Search, default_table, find_cost
from vadslim.testing import ToyNet, toy_frames

CONSOLE = Console(file=io.StringIO())


@pytest.fixture
def model():
    return ToyNet().eval()


@pytest.fixture
def example():
    images = toy_frames()
    return Example(lambda m: m(images), '2 x 8 x 8')


def test_costs(model, example, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr('vadslim.analysis.latency_table.FRACTIONS', (0.5, 1))
    monkeypatch.setattr('vadslim.analysis.layer_times.COVERED', 1.0)  # which layers are small, depends on the machine
    assert isinstance(find_cost('params', model, None, CONSOLE), Params)
    counted = count(model, example.run)
    macs = find_cost('macs', model, example, CONSOLE, counted=counted)
    assert isinstance(macs, Macs) and macs.counted is counted
    assert default_table() == tmp_path / 'vadslim' / 'latency.json'
    times = find_cost('latency', model, example, CONSOLE)
    assert isinstance(times, LayerTimes) and json.loads(default_table().read_text())['tables']
    assert times.table.measured > 5
    assert find_cost('latency', model, example, CONSOLE).table.measured == 0


@pytest.mark.parametrize('kind', ['macs', 'latency'])
def test_a_network_that_cannot_be_run(model, kind):
    with pytest.raises(UserError, match=f'--target-{kind}: the config has neither data nor'):
        find_cost(kind, model, None, CONSOLE)


def test_mistakes_are_one_line(model, example, tmp_path):
    (tmp_path / 'table.json').write_text('{}')
    with pytest.raises(UserError, match='--target-latency: latency table .*table.json: not a table of this version'):
        find_cost('latency', model, example, CONSOLE, tmp_path / 'table.json')
    with pytest.raises(UserError, match="--target-latency: backend 'trt' is not known"):
        find_cost('latency', model, example, CONSOLE, tmp_path / 'new.json', 'trt')
    with pytest.raises(UserError, match='table.json.*: cannot be written: '):
        find_cost('latency', model, example, CONSOLE, tmp_path / 'table.json' / 'below.json')
    assert is_user_error(TargetError('')) and is_user_error(RuleError(''))


def test_what_was_found(model, example):
    groups, cost = find_groups(model, toy_frames()), find_cost('macs', model, example, CONSOLE)
    found = Search.of(StructuredPruner(), model, groups, cost, 'macs', '60%')
    data = found.outcome
    assert data['counted'] == data['predicted'] <= data['goal'] == 0.6 * data['before'] and 0 < data['ratio'] < 1
    assert found.line == (
        f'target MACs: 87.9 k of 147 k; a ratio of {data["ratio"]:g} is predicted to leave 84.5 k, 84.5 k by a trial'
    )
    assert found.counted is cost.counted
    missed = replace(found, solution=replace(found.solution, counted=1.05 * found.solution.goal))
    assert missed.line.endswith('by a trial: 5.0% over the target')
    found = Search.of(StructuredPruner(), model, groups, Params(model), 'params', '1M')
    assert found.line.endswith('a ratio of 0 is predicted to leave 3.69 k') and found.counted is None


def report(folder):
    return json.loads((folder / 'out' / 'report.json').read_text())


@pytest.mark.parametrize(('kind', 'key'), [('params', 'params'), ('macs', 'macs')])
def test_the_command_reaches_a_target(command, folder, kind, key):
    wide = ('--cfg-options', 'model.channels=16', 'model.embed_dims=32', 'model.hidden=64')
    code, out, _ = command(
        'toy.py', 'random', f'--target-{kind}', '60%', '--protect', 'kind:head', '--output-dir', 'out', *wide
    )
    assert code == 0 and '60%' not in out and 'is predicted to leave' in out
    data = report(folder)
    left = data['after'][key] / data['before'][key]
    assert 0.5 < left <= 0.6 and data['target']['predicted'] == data['after'][key]
    saved = {row['name']: row[f'{key}_saved'] for row in data['groups']}
    assert saved['conv1.channels'] > 0 and saved['attention.heads'] > 0 and saved['classifier.neurons'] is None
    percent = round(100 * data['target']['ratio'])
    assert f'toy.py without {percent}% of its units' in (folder / 'out' / 'toy_slim.py').read_text()
    code, out, _ = command(
        'toy.py', 'random', f'--target-{kind}', '60%', '--protect', 'kind:head', '--output-dir', 'out', *wide
    )
    assert code == 0 and 'reused' in out
    code, _, err = command('toy.py', 'random', f'--target-{kind}', '50%', '--output-dir', 'out')
    assert code == 2 and '--overwrite' in err


def test_the_command_predicts_a_latency(command, folder, monkeypatch):
    monkeypatch.setattr('vadslim.analysis.layer_times.TOLERANCE', 1e9)  # the machine may be busy
    code, out, _ = command(
        'toy.py', 'random', '--target-latency', '99%', '--latency-table', 'times.json', '--output-dir', 'out'
    )
    target = report(folder)['target']
    assert code == 0 and target['cost'] == 'latency' and 0 < target['predicted'] <= target['goal']
    assert target['goal'] == pytest.approx(0.99 * target['before'])
    assert 'latency (ms), predicted' in out and json.loads((folder / 'times.json').read_text())['tables']


def test_the_command_takes_rules(command, folder):
    (folder / 'rules.yaml').write_text('- pattern: conv1.*\n  ratio: 0.75\n- {kind: head, ratio: 0}\n')
    code, _, _ = command(
        'toy.py', 'random', '--rules', 'rules.yaml', '--pruning-ratio', '0.5', '--latency', 0, '--output-dir', 'out'
    )
    assert code == 0
    kept = {row['name']: row['kept'] / row['num_units'] for row in report(folder)['groups']}
    assert (kept['conv1.channels'], kept['ffn.0.neurons'], kept['attention.heads']) == (0.25, 0.5, 1)


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (('--target-macs', '0.5', '--target-params', '0.5'), ['--target-params and --target-macs', 'one of them']),
        (('--target-macs', '0.5', '--pruning-ratio', '0.5'), ['--target-macs and --pruning-ratio']),
        (('--target-macs', 'half'), ["--target-macs: 'half' is no target", 'a fraction']),
        (('--target-macs', '0.00001'), ['--target-macs: 0.00001 cannot be reached', 'ratios from 0 to 0.9999 give']),
        (('--rules', 'no.yaml'), ['rules no.yaml does not exist']),
        (('--rules', 'bad.yaml'), ['rules bad.yaml: rule 1 has the key', 'ratio']),
        (('--rules', 'gone.yaml'), ['--rules', 'conv9', 'nearest is conv']),
        (('--rules', 'gone.yaml', '--allocation', 'global'), ['--rules and --allocation']),
        (('--target-latency', '33ms', '--latency-table', 'bad.yaml'), ['bad.yaml: not a table']),
        (('--target-latency', '33ms', '--latency-backend', 'trt'), ['--latency-backend', 'onnxruntime']),
    ],
)
def test_mistakes_of_the_command(command, folder, args, words):
    (folder / 'bad.yaml').write_text('- pattern: conv1.*\n  ration: 0.75\n')
    (folder / 'gone.yaml').write_text('- pattern: conv9.channels\n  ratio: 0.75\n')
    code, _, err = command('toy.py', 'random', *args, '--output-dir', 'out')
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1 and not (folder / 'out').exists(), err
    assert [word for word in words if word not in lines[0]] == []
