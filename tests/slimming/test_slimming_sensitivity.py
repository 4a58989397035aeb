"""sensitivity.py on a network whose sensitivities are known: exact numbers, kill -9, rules that the pruning takes."""

import csv
import json
import signal
from base64 import b64encode
from pathlib import Path

import pytest
from sensitivity_toys import CONFIG

import vadslim
from processes import Forked
from vadslim.pruning import Structure
from vadslim.slimming.evaluation import end_of_scene
from vadslim.slimming.sensitivity import main

RATIOS = ('--ratios', '0.5', '0.1', '0.25', '0.3')
ROOT = Path(vadslim.__file__).parents[2]


@pytest.fixture
def sweep(folder, capfd, monkeypatch):
    """sweep(*args) -> (exit code, stdout, stderr, evaluations so far)."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setenv('LEDGER', str(folder / 'ledger'))
    (folder / 'net.py').write_text(CONFIG)

    def run(*args, output='out'):
        capfd.readouterr()
        code = main(['net.py', 'random', '--output-dir', output, *map(str, args)])
        ledger = folder / 'ledger'
        return code, *capfd.readouterr(), ledger.read_text().split() if ledger.exists() else []

    return run


def points(folder):
    data = json.loads((folder / 'out' / 'sensitivity.json').read_text())
    return {(p['group'].split('_')[0], p['ratio']): (p['removed'], p['metrics']['error']) for p in data['points']}


def test_known_sensitivities(sweep, folder):
    code, out, err, ledger = sweep(*RATIOS)
    assert code == 0, err
    assert points(folder) == {
        ('dead', 0.1): (0, 4),
        ('dead', 0.25): (1, 4),
        ('dead', 0.3): (1, 4),
        ('dead', 0.5): (2, 4),
        ('alive', 0.1): (0, 4),
        ('alive', 0.25): (2, 4 + 1 + 2),
        ('alive', 0.3): (2, 4 + 1 + 2),
        ('alive', 0.5): (4, 4 + 1 + 2 + 3 + 4),
    }
    assert ledger == ['6'] * 5  # the baseline, and each number of units once
    assert 'smaller is better: error, miss; larger is better: value' in out
    assert '4 to evaluate' in out and '[4/4] alive' in out and '(+250 %), 0 s left' in out
    rows = list(csv.DictReader((folder / 'out' / 'sensitivity.csv').open()))
    assert (rows[0]['group'], rows[0]['error'], rows[0]['unknown']) == ('', '4.0', 'nan')
    assert [float(row['value worse']) for row in rows[-4:]] == pytest.approx([0, 3 / 36, 3 / 36, 10 / 36])
    assert [float(row['error worse']) for row in rows[-4:]] == [0, 0.75, 0.75, 2.5]
    assert (folder / 'out' / 'sensitivity.png').read_bytes()[:4] == b'\x89PNG'
    assert 'alive_<wbr>in' in (folder / 'out' / 'sensitivity.html').read_text()
    assert not list(folder.glob('work*'))


def test_after_kill_9_it_goes_on(sweep, folder):
    assert sweep(*RATIOS, output='whole')[0] == 0
    (folder / 'ledger').unlink()
    arguments = ('net.py', 'random', '--output-dir', 'out', *RATIOS)
    process = Forked(main, arguments, folder, env={'LEDGER_DIE_AT': '4'})
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, err
    assert len(points(folder)) == 5 and not (folder / 'out' / 'done.json').exists()
    code, out, err, ledger = sweep(*RATIOS)
    assert code == 0, err
    assert '2 to evaluate' in out
    assert len(ledger) == 4 + 2  # three of those four had been kept
    for name in ('sensitivity.json', 'sensitivity.csv', 'sensitivity.png', 'sensitivity.html'):
        assert (folder / 'out' / name).read_bytes() == (folder / 'whole' / name).read_bytes(), name
    assert len(sweep(*RATIOS)[3]) == 6  # whole: nothing is evaluated


def test_more_groups_and_ratios_are_added(sweep, folder):
    assert len(sweep('--ratios', '0.5', '--targets', 'dead*')[3]) == 2
    assert set(points(folder)) == {('dead', 0.5)}
    assert len(sweep('--ratios', '0.25', '0.5')[3]) == 2 + 3
    assert len(points(folder)) == 4


def test_samples_are_whole_scenes(sweep, folder):
    code, out, err, ledger = sweep('--ratios', '0.5', '--samples', '3', '--targets', 'alive*')
    assert code == 0, err
    assert ledger == ['5', '5'] and 'on 5 samples' in out
    assert [end_of_scene('aabbbc', samples) for samples in (1, 2, 3, 5, 6)] == [2, 2, 5, 5, 6]


def test_another_recipe_needs_overwrite(sweep, folder):
    assert sweep('--ratios', '0.5')[0] == 0
    before = (folder / 'out' / 'sensitivity.json').read_bytes()
    code, _, err, _ = sweep('--ratios', '0.5', '--samples', '3')
    assert code == 2 and '--overwrite' in err and len(err.strip().splitlines()) == 1
    code, _, err, _ = sweep('--ratios', '0.5', '--samples', '3', '--overwrite', '--targets', 'living*')
    assert code == 2 and "--targets: 'living*' matches none" in err
    assert (folder / 'out' / 'sensitivity.json').read_bytes() == before  # a mistake costs nothing
    assert sweep('--ratios', '0.5', '--samples', '3', '--overwrite')[3][-3:] == ['5'] * 3


RULES = [
    (('--max-increase', '75%', '--metrics', 'error'), {'dead': 2, 'alive': 2}),
    (('--max-increase', '1.2', '--metrics', 'error'), {'dead': 2, 'alive': 2}),  # 2.5 units: 2
    (('--max-increase', '0.5', '--metrics', 'val*'), {'dead': 2, 'alive': 4}),
    (('--max-increase', '0.2', '--metrics', 'value', '--smaller-is-better', 'value'), {'dead': 2, 'alive': 4}),
    (('--max-increase', '0'), {'dead': 2}),
    (('--target-params', '90%', '--metrics', 'error'), {'dead': 2}),  # what costs nothing goes first
    (('--target-params', '75%', '--metrics', 'error'), {'dead': 2, 'alive': 1}),  # and then one unit of 4 parameters
]


def test_rules(sweep, folder):
    for ways, expected in RULES:
        code, out, err, ledger = sweep('--ratios', '0.25', '0.5', '--to-rules', 'rules.json', *ways)
        assert code == 0, err
        assert 'analysis_struct.py net.py random --rules rules.json' in out
        found = json.loads((folder / 'rules.json').read_text())
        assert found['default'] == 0
        sizes = {'dead': 4, 'alive': 8}
        removed = {rule['pattern'].split('_')[0]: rule['ratio'] for rule in found['rules']}
        assert {name: ratio * sizes[name] for name, ratio in removed.items()} == expected, ways
        assert len(ledger) == 5  # measured once, whatever is made of it


def test_the_pruning_takes_the_rules(sweep, command, folder):
    assert sweep('--ratios', '0.25', '0.5', '--to-rules', 'rules.json', *RULES[0][0])[0] == 0
    code, _, err = command('net.py', 'random', '--rules', 'rules.json', '--latency', '0', '--output-dir', 'pruned')
    assert code == 0, err
    groups = Structure.load(folder / 'pruned' / 'structure.json').groups
    kept = {name.split('_')[0]: group['kept'] for name, group in groups.items()}
    assert kept['alive'] == [2, 3, 4, 5, 6, 7] and len(kept['dead']) == 2
    # its report shows the measurements; once they are gone, it is a report like any other, of the same recipe
    picture = (folder / 'pruned' / 'sensitivity.png').read_bytes()
    assert picture == (folder / 'out' / 'sensitivity.png').read_bytes()
    assert b64encode(picture).decode() in (folder / 'pruned' / 'report.html').read_text()
    (folder / 'out' / 'sensitivity.json').unlink()
    args = ('net.py', 'random', '--rules', 'rules.json', '--latency', '0')
    assert 'reused' in command(*args, '--output-dir', 'pruned')[1]
    assert command(*args, '--output-dir', 'again')[0] == 0
    assert not (folder / 'again' / 'sensitivity.png').exists()


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (('--ratios', '1'), '--ratios: 1 is not a fraction'),
        (('--ratios', '0'), '--ratios 0: nothing would leave'),
        (('--ratios', '0.1'), '--ratios 0.1: no Group loses a unit'),
        (('--metrics', 'erorr'), "--metrics: 'erorr' matches no metric; the nearest is error"),
        (('--metrics', 'unknown'), 'gave no number'),
        (('--larger-is-better', 'acc'), "--larger-is-better: 'acc' matches no metric"),
        (('--max-increase', '0.1'), '--max-increase: rules are only made for a file'),
        (('--to-rules', 'r.json'), '--to-rules: one of --max-increase'),
        (('--to-rules', 'r.json', '--max-increase', '-1'), '--max-increase -1: a relative increase'),
        (('--to-rules', 'r.json', '--max-increase', '1', '--target-params', '1'), '--target-params and --max-increase'),
        (('--to-rules', 'no/r.json', '--max-increase', '1'), 'there is no such folder'),
        (('--to-rules', 'r.json', '--target-params', '10%'), '10% cannot be reached'),
        (('--importance', 'L3'), "importance 'L3' is not known"),
        (('--cfg-options', 'val_evaluator=None'), 'has no val_dataloader with a val_evaluator'),
        (('--device', 'cuda'), 'no CUDA device'),
    ],
)
def test_mistakes_are_one_line(sweep, args, words):
    code, _, err, _ = sweep(*args)
    assert code == 2
    assert words in err and len(err.strip().splitlines()) == 1, err
