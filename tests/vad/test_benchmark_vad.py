"""The table of times per module, for a dense and a slim network."""

import importlib.util
from pathlib import Path

import pytest

from vadslim import cli
from vadslim.pruning import find_groups, make_structure
from vadslim.slimming.network import load_network

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / 'configs' / 'VAD' / 'VAD_nano_synthetic.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('benchmark_vad', ROOT / 'tools' / 'misc' / 'benchmark_vad.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_slim_network_has_fewer_parameters_in_the_table(tool, tmp_path, capsys):
    model = load_network(NANO, [], None, 0, 'cpu').model
    group = next(group for group in find_groups(model) if group.name.endswith('agent_fus_mlp.0'))
    structure = tmp_path / 'structure.json'
    make_structure(model, [group], {group.name: [0, 1]}).save(structure)
    totals = []
    for options in ([], ['--structure', str(structure)]):
        assert cli.run(tool.main, [str(NANO), '--repeats', '1', *options]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('│ all '))
        totals.append(int(row.split('│')[2].replace(',', '')))
    assert totals[1] < totals[0] == sum(p.numel() for p in model.parameters())


def test_a_structure_that_is_none_is_one_line(tool, tmp_path, capsys):
    path = tmp_path / 'structure.json'
    path.write_text('{"format": 9}')
    assert cli.run(tool.main, [str(NANO), '--structure', str(path)]) == 2
    assert 'structure.json: format is 9' in capsys.readouterr().err
