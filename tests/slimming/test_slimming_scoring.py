"""The command with criteria that look at data: --importance Taylor --batches N."""

import json

import pytest

from vadslim.pruning import Structure, StructuredPruner, Taylor
from vadslim.slimming.batches import loss_batches
from vadslim.slimming.network import load_network
from vadslim.slimming.options import parse
from vadslim.slimming.scoring import find

TAYLOR = ('--pruning-ratio', '0.5', '--latency', '0', '--importance', 'Taylor', '--batches', '3', '--seed', '2')


def test_the_plan_is_that_of_the_criterion(command, folder):
    args = ('toy.py', 'random', *TAYLOR, '--output-dir', 'out')
    code, out, err = command(*args)
    assert code == 0, err
    assert 'scoring:' in out
    options = parse([str(arg) for arg in args])
    network = load_network(options.config, (), None, 2, 'cpu')
    groups, batches = find(options, network), loss_batches(network.cfg, 3, 2)
    kept = StructuredPruner(0.5, Taylor()).plan(network.model, groups, batches)
    structure = Structure.load(folder / 'out' / 'structure.json')
    assert len(structure.groups) == 4  # those that lose units
    assert {name: group['kept'] for name, group in structure.groups.items()} == {n: kept[n] for n in structure.groups}
    settings = json.loads((folder / 'out' / 'report.json').read_text())['settings']
    assert (settings['importance'], settings['batches']) == ('Taylor', 3)
    code, out, _ = command(*args)
    assert code == 0 and 'reused' in out
    code, _, err = command(*args, '--batches', '4')
    assert code == 2 and '--overwrite' in err


def test_the_number_of_batches_matters_only_to_who_looks_at_them(command, folder):
    args = ('toy.py', 'random', '--pruning-ratio', '0.5', '--latency', '0', '--output-dir', 'out')
    assert command(*args)[0] == 0
    code, out, _ = command(*args, '--batches', '4')
    assert code == 0 and 'reused' in out


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('--importance', 'PlanningTaylor'), "--importance: 'loss_plan*' matches no loss; the nearest is loss"),
        (('--importance', 'Taylor', '--batches', '0'), '0 is not a whole number of at least 1'),
        (('--importance', 'Tailor'), "importance 'Tailor' is not known; there are Activation, BNScale"),
        (('--importance', 'Fisher', '--cfg-options', 'train_dataloader=None'), 'has no train_dataloader'),
    ],
)
def test_mistakes_are_one_line(command, folder, args, message):
    code, _, err = command('toy.py', 'random', '--latency', '0', '--output-dir', 'out', *args)
    assert code == 2
    assert message in err and len(err.strip().splitlines()) == 1
    assert not (folder / 'out').exists()
