"""Levels of whole runs: their masks, their weights, and what is told of them."""

import csv
import json
import os

import pytest
import torch
from torch.nn import functional

from sparse_toys import MODEL, write_recipe
from vadslim import cli, evaluate
from vadslim.analysis import count_params
from vadslim.checkpoint import load_checkpoint
from vadslim.classification import CIFARResNet
from vadslim.hooks.distill_hook import distill
from vadslim.hooks.distill_loss import DistillLoss, Kept
from vadslim.registry import MODELS
from vadslim.slimming.masked import main as slim_masked
from vadslim.sparse import cases, load_masks, prunable_weights
from vadslim.sparse_training.cli import main
from vadslim.sparse_training.level import Run, _teacher
from vadslim.sparse_training.recipe import load_recipe
from vadslim.sparse_training.start import initial_weights, rewound

KEYS = {
    'level', 'remain_weight', 'remain_weight_element', 'density', 'best_epoch', 'val', 'test', 'test_last', 'history',
    'size', 'struct_head', 'seconds',
}  # fmt: skip
TITLES = 'level,remain_weight,remain_weight_element,struct_head,best_epoch,val,test,test_last'
RUNS = {
    'rsst': ['--dense_level', 'dense', '--exp_name', 'mine'],
    'imp': ['--dense_level', 'dense', '--struct', 'imp', '--distill'],
    'refill': ['--dense_level', 'dense', '--struct', 'refill', '--criteria', 'l1', '--pruning_times', '2', '--slim'],
    'rewind': ['--struct', 'imp', '--pruning_times', '2', '--prune_type', 'rewind_lt', '--rewind_epoch', '1'],
}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A folder with the runs, two of whose levels all but one share."""
    folder = tmp_path_factory.mktemp('runs')
    write_recipe(folder / 'toy.py')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('CUDA_VISIBLE_DEVICES', os.environ.get('CUDA_VISIBLE_DEVICES', ''))
        for name, flags in RUNS.items():
            assert main(['toy.py', '--save_dir', name, *flags]) == 0
    return folder


def results(runs, name):
    return json.loads((runs / name / 'results.json').read_text())


def masks_of(runs, name, level):
    return load_masks(runs / name / f'level_{level}' / 'masks.pth')


def left(masks):
    return 100 * sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


@pytest.mark.parametrize('name', RUNS)
def test_results(name, runs):
    found = results(runs, name)
    assert (found['format'], found['name']) == (1, 'mine' if name == 'rsst' else name)
    assert found['settings']['struct'] == ('imp' if name == 'rewind' else name)
    assert [level['level'] for level in found['levels']] == list(range(found['settings']['pruning_times']))
    for level in found['levels']:
        assert set(level) == KEYS
        best = max(reversed(level['history']), key=lambda row: row['val'])
        assert (level['best_epoch'], level['val']) == (best['epoch'], best['val'])
        if level['level']:
            current, refilled = masks_of(runs, name, level['level'])
            assert level['remain_weight'] == pytest.approx(left(refilled), abs=1e-9)
            before = masks_of(runs, name, level['level'] - 1)[1] if level['level'] > 1 else None
            element = (left(before) if before else 100) * (1 - found['settings']['rate'])
            assert level['remain_weight_element'] == pytest.approx(element, abs=0.01)
            if name != 'refill':  # whose channels train from the start
                assert level['remain_weight_element'] == pytest.approx(left(current), abs=1e-9)
            assert level['density'] == {key: float(mask.double().mean()) for key, mask in refilled.items()}
            assert list(refilled) == list(prunable_weights(CIFARResNet(8)))
        assert (level['size'] is None) == (level['level'] == 0 or found['settings']['struct'] == 'imp')
        assert all(('reg_lambda' in row) == (name == 'rsst' and level['level'] > 0) for row in level['history'])
    rows = list(csv.reader((runs / name / 'levels.csv').open()))
    assert ','.join(rows[0]) == TITLES and len(rows) == 1 + len(found['levels'])


def test_levels_share_the_dense_one(runs):
    dense = [results(runs, name)['levels'][0] for name in ('rsst', 'imp', 'refill')]
    assert dense[0] == dense[1] == dense[2]
    assert (dense[0]['remain_weight'], dense[0]['size'], dense[0]['struct_head']) == (100, None, None)
    assert not any((runs / name / 'level_0').exists() for name in ('rsst', 'imp', 'refill'))
    assert (runs / 'rewind' / 'level_0' / 'done.json').is_file()


def test_imp_leaves_what_it_should(runs):
    total = sum(mask.numel() for mask in masks_of(runs, 'imp', 1)[0].values())
    for level in (1, 2):
        kept = round(masks_of(runs, 'imp', level)[1:] and left(masks_of(runs, 'imp', level)[1]) * total / 100)
        assert abs(kept - 0.6**level * total) <= 1


@pytest.mark.parametrize('name', ['imp', 'rsst'])
def test_what_is_pruned_stays_pruned(name, runs):
    (_, first), (current, second) = (masks_of(runs, name, level) for level in (1, 2))
    for key, mask in first.items():
        assert not (current[key] & ~mask).any() and not (second[key] & ~mask).any()
        if name == 'rsst':  # whole channels
            rows = second[key].flatten(1)
            assert bool((rows.any(1) == rows.all(1)).all())


@pytest.mark.parametrize(('name', 'level'), [('imp', 1), ('imp', 2), ('rsst', 1), ('rsst', 2), ('refill', 1)])
def test_a_level_starts_from_the_rewound_weights(name, level, runs):
    training = runs / name / f'level_{level}' / 'training'
    begun = load_checkpoint(training / 'start.pth')['state_dict']
    initial = load_checkpoint(runs / 'dense' / 'init.pth')['state_dict']
    held = load_masks(training / 'masks.pth')
    assert set(masks_of(runs, name, level)[0]) <= set(held[0])  # and the batch norms of empty channels
    active = cases(*held).active
    assert any(not bool(mask.all()) for mask in active.values())
    for key, value in begun.items():
        assert torch.equal(value, initial[key] * active[key] if key in active else initial[key]), key


def test_a_level_starts_from_an_early_epoch(runs):
    begun = load_checkpoint(runs / 'rewind' / 'level_1' / 'training' / 'start.pth')['state_dict']
    early = load_checkpoint(runs / 'rewind' / 'level_0' / 'training' / 'rewind.pth')
    active = masks_of(runs, 'rewind', 1)[0]
    assert early['meta']['epoch'] == 1
    for key, value in begun.items():
        assert torch.equal(value, early['state_dict'][key] * active.get(key, 1)), key


@pytest.mark.parametrize(('name', 'level'), [('imp', 2), ('rsst', 2), ('refill', 1)])
def test_files_hold_masked_weights(name, level, runs):
    for file in ('model.pth', 'best.pth'):
        found = load_checkpoint(runs / name / f'level_{level}' / file)
        assert found['masks'].keys() == prunable_weights(CIFARResNet(8)).keys()
        for key, mask in found['masks'].items():
            assert torch.equal(mask, masks_of(runs, name, level)[1][key])
            assert not found['state_dict'][key][~mask].any()
            assert found['state_dict'][key][mask].any()


def test_the_command_that_tests_gives_the_same_accuracy(runs, monkeypatch):
    """Also of the smaller networks, which compute the same."""
    monkeypatch.chdir(runs)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert slim_masked(['rsst/config.py', 'rsst/level_2/best.pth', '--output-dir', 'slim', '--latency', '1']) == 0
    for name, level, file in (('rsst', 2, 'rsst/level_2/best.pth'), ('rsst', 2, 'slim/slim.pth'),
                              ('refill', 1, 'refill/level_1/slim/slim.pth')):  # fmt: skip
        assert cli.run(evaluate.main, [f'{name}/config.py', file, '--work-dir', 'w', '--out', 'metrics.json']) == 0
        metrics = json.loads((runs / 'metrics.json').read_text())
        assert metrics['accuracy/top1'] == pytest.approx(results(runs, name)['levels'][level]['test']), file


def test_sizes_are_those_of_the_smaller_network(runs):
    size = results(runs, 'refill')['levels'][1]['size']
    state = load_checkpoint(runs / 'refill' / 'level_1' / 'slim' / 'slim.pth')['state_dict']
    dense = MODELS.build(MODEL)
    assert size['params'] == count_params(dense)
    learned = {name for name, _ in dense.named_parameters()}
    assert size['params_slim'] == sum(value.numel() for name, value in state.items() if name in learned)
    assert size['params_slim'] < 0.8 * size['params'] and size['macs_slim'] < size['macs']


def test_the_teacher_is_heard(runs):
    logs = {name: next((runs / name / 'training').rglob('scalars.json')) for name in ('dense', 'imp/level_1')}
    assert 'loss_distill_fc' in logs['imp/level_1'].read_text()
    assert 'loss_distill' not in logs['dense'].read_text()


def test_what_the_teacher_says(runs):
    """alpha CE + (1 - alpha) T^2 KL, a mean over images."""
    cfg, settings = load_recipe(str(runs / 'toy.py'), {'distill': True, 'alpha': 0.7, 'temperature': 3.0}, [])
    hook = _teacher(Run(cfg, settings, runs, runs / 'dense'))
    assert hook['teacher'] == {'checkpoint': str(runs / 'dense' / 'best.pth')}
    torch.manual_seed(0)
    student, teacher = CIFARResNet(8).eval(), CIFARResNet(8).eval()
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6)
    own, theirs = student(images), teacher(images).detach()
    logs = [functional.log_softmax(logits / 3, 1) for logits in (own, theirs)]
    kl = (logs[1].exp() * (logs[1] - logs[0])).sum(1).mean()
    distill(student, teacher, [DistillLoss(**loss) for loss in hook['losses']], Kept(None, None), hook['own'])
    losses = student(images, labels, mode='loss')
    assert float(losses['loss']) == pytest.approx(0.7 * float(functional.cross_entropy(own, labels)), rel=1e-5)
    assert float(losses['loss_distill_fc']) == pytest.approx(0.3 * 9 * float(kl), rel=1e-4)


def test_a_whole_run_is_reused(runs, command, monkeypatch):
    monkeypatch.chdir(runs)
    before = {path: path.stat().st_mtime_ns for path in runs.rglob('*.pth')}
    code, out, err = command('toy.py', '--save_dir', 'imp', *RUNS['imp'])
    assert code == 0 and err.count('done already, reused') == 3
    assert 'accuracy of the masked network' in out
    assert {path: path.stat().st_mtime_ns for path in runs.rglob('*.pth')} == before


def test_initial_weights(tmp_path):
    torch.manual_seed(1)
    model, drawn = CIFARResNet(8), CIFARResNet(8)
    state = initial_weights(model, {})
    model.conv1.weight.data.zero_()
    assert state['conv1.weight'].any()  # a copy
    back = rewound(drawn, state, 'lt')
    assert all(torch.equal(value, state[name]) and value is not state[name] for name, value in back.items())
    for kind in ('pt', 'pt_trans'):
        back = rewound(drawn, state, kind)
        new = {name for name, value in back.items() if not torch.equal(value, state[name])}
        assert new == {'conv1.weight', 'fc.weight', 'fc.bias'}
        assert torch.equal(back['fc.weight'], drawn.fc.weight)
