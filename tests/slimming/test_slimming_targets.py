"""The costs behind --target-params, --target-macs and --target-latency."""

import io
import json

import pytest
from rich.console import Console

from vadslim.analysis import Example, LayerTimes, Macs, Params, count
from vadslim.cli import UserError, is_user_error
from vadslim.pruning import RuleError, StructuredPruner, TargetError, find_groups
from vadslim.slimming.targets import default_table, find_cost, outcome
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


def test_outcome(model, example):
    groups, cost = find_groups(model, toy_frames()), find_cost('macs', model, example, CONSOLE)
    found = StructuredPruner().search(model, groups, cost, 0.6)
    data = outcome(found, cost)
    assert data['counted'] == data['predicted'] <= data['goal'] == 0.6 * data['before'] and 0 < data['ratio'] < 1
    assert data['line'] == (
        f'target MACs: 87.9 k of 147 k; a ratio of {found.ratio:g} is predicted to leave 73.3 k, counted 73.3 k'
    )
    found = StructuredPruner().search(model, groups, Params(model), '1M')
    assert outcome(found, Params(model))['line'].endswith('a ratio of 0 is predicted to leave 3.69 k')
