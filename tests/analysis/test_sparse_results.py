"""Runs of sparse training are read as they were written: ours, the predecessor's, and what is neither."""

import json
import os

import numpy as np
import pytest
import torch
from sparse_runs import LAYERS, Net, level, predecessor_checkpoint, write_predecessor, write_run

from vadslim.analysis.sparse_results import MASKS, ZEROS, collect, density_of, find_runs, number, settings_of_name
from vadslim.cli import UserError


def test_our_run(tmp_path):
    later = level(1, 88.0, 3, reg_lambda=0.6, size={'params': 10, 'params_slim': 8}, struct_head=66.7)
    write_run(tmp_path / 'a', [later, level(0, 90.0)], name='first', seed=3)
    (run,) = collect([tmp_path / 'a'])
    assert (run.name, run.settings['seed'], run.problems) == ('first', 3, ())
    dense, one = run.levels  # by number, whatever the order in the file
    assert run.dense is dense and dense.test == 90.0
    assert (one.remain, one.remain_element, one.counted) == (80.0, 76.0, MASKS)
    assert one.density == dict.fromkeys(LAYERS, 0.8)
    assert (one.best_epoch, one.val, one.test, one.test_last, one.seconds) == (3, 89.0, 88.0, 87.5, 10.0)
    assert (one.size, one.struct_head) == ({'params': 10, 'params_slim': 8}, 66.7)
    assert [epoch.reg_lambda for epoch in one.epochs] == pytest.approx([0.2, 0.4, 0.6])
    assert [epoch.val for epoch in one.epochs] == [87.0, 88.0, 89.0] and one.epochs[0].lr == 0.1


def test_what_a_file_does_not_tell_is_none(tmp_path):
    write_run(tmp_path, [{'level': 0}, {'level': 1, 'val': float('nan'), 'history': None, 'size': None}])
    dense, one = collect([tmp_path / 'results.json'])[0].levels
    assert (dense.remain, dense.val, dense.test, dense.epochs, dense.density) == (None, None, None, [], {})
    assert (one.val, one.size) == (None, {})


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('{"format": 1, "levels": [', 'truncated, or not JSON'),
        ('[1, 2]', 'not the results of sparse training'),
        ('{"accuracy": 3}', "'format' is missing"),
        ('{"format": 2, "settings": {}, "levels": []}', 'format 2; this version of vadslim reads 1'),
        ('{"format": 1, "settings": {}}', "'levels' is missing"),
        ('{"format": 1, "settings": {}, "levels": [{"test": 1}]}', "'level' is missing"),
        ('{"format": 1, "settings": {}, "levels": [{"level": 1}, {"level": 1}]}', 'two levels have one number'),
        ('{"format": 1, "settings": {}, "levels": [7]}', 'not the results'),
    ],
)
def test_a_damaged_or_foreign_file_is_a_problem_of_its_run(tmp_path, text, why):
    (tmp_path / 'results.json').write_text(text)
    (run,) = collect([tmp_path])
    assert run.levels == () and why in run.problems[0] and str(tmp_path / 'results.json') in run.problems[0]


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    write_run(tmp_path / 'b' / 'deep', [90.0])
    write_run(tmp_path / 'a', [90.0])
    write_run(tmp_path / 'a' / 'level_1', [1.0])  # inside a run: its own
    write_predecessor(tmp_path / 'c', 1)
    assert find_runs(tmp_path) == [tmp_path / 'a', tmp_path / 'b' / 'deep', tmp_path / 'c']
    assert len(collect([tmp_path, tmp_path / 'a', tmp_path / 'a' / 'results.json'])) == 3


def test_paths_without_a_run(tmp_path):
    (tmp_path / 'notes.txt').write_text('x')
    for path, why in ((tmp_path, 'holds no run'), (tmp_path / 'x', 'no such'), (tmp_path / 'notes.txt', 'neither')):
        with pytest.raises(UserError, match=why):
            collect([path])


# --- the predecessor's --------------------------------------------------------------------------------------


def test_the_predecessors_run(tmp_path):
    (run,) = collect([write_predecessor(tmp_path / 'cifar100_refill_output_resnet20_l1')])
    told = {'dataset': 'cifar100', 'struct': 'refill', 'arch': 'resnet20', 'criteria': 'l1'}
    assert run.settings == {'folder': 'cifar100_refill_output_resnet20_l1', **told}
    assert [one.level for one in run.levels] == [0, 1, 2] and run.problems == []
    dense, one, two = run.levels
    assert (one.val, one.test, one.test_last, one.best_epoch) == (71.0, 68.0, 66.0, 2)  # test at the argmax of val
    assert [epoch.val for epoch in two.epochs] == [62.0, 72.0, 65.0]
    # masks count where there are some: the hidden half of layer.conv1 (72 weights beside 144) is not zero
    assert one.density == {'layer.conv1.weight': 0.5, 'layer.conv2.weight': 1.0} and one.counted == MASKS
    assert one.remain == pytest.approx(100 * (36 + 144) / (72 + 144))
    assert (dense.remain, dense.counted) == (100.0, ZEROS)
    assert set(dense.density) == set(one.density)  # neither the stem nor the classifier


def test_accuracies_as_tensors_and_numpy_scalars(tmp_path):
    val = [torch.tensor(50.0), torch.tensor([61.5]), np.float64(61.5), np.float32('nan')]
    test = [torch.tensor(49.0), torch.tensor([60.25]), np.float64(3), torch.tensor(58.5)]
    torch.save(predecessor_checkpoint(1, val, test, best_sa=val[1]), tmp_path / '1checkpoint.pth.tar')
    (one,) = collect([tmp_path])[0].levels
    assert (one.val, one.test, one.best_epoch, one.test_last) == (61.5, 60.25, 2, 58.5)  # of equal ones the first
    assert [number(x) for x in (True, '3', None, [1], torch.ones(2))] == [1.0, 3.0, None, None, None]


def test_a_resumed_state_has_lost_its_first_epochs(tmp_path):
    torch.save(predecessor_checkpoint(0, [50.0, 60.0], [1.0, 2.0], epoch=12), tmp_path / '0checkpoint.pth.tar')
    (one,) = collect([tmp_path])[0].levels
    assert one.best_epoch == 12 and [epoch.epoch for epoch in one.epochs] == [11, 12]


def test_the_best_file_alone_does_not_know_the_last_epoch(tmp_path):
    write_predecessor(tmp_path, 1)
    (run,) = collect([tmp_path / '0model_SA_best.pth.tar'])
    assert (run.levels[0].test, run.levels[0].test_last) == (69.0, None)
    assert run.name == f'{tmp_path.name}/0model_SA_best.pth.tar'


def test_zeros_are_counted_where_nothing_is_masked():
    state = Net().state_dict()
    state['layer.conv2.weight'][0] = 0
    assert density_of(state)[1:] == (100 * (72 + 144 - 36) / (72 + 144), ZEROS)
    vit = {'module.patch_embed.proj.weight': torch.ones(4, 3, 2, 2), 'module.head.weight': torch.zeros(2, 4)}
    vit |= {f'module.blocks.0.{layer}.weight': torch.eye(4) for layer in ('attn.qkv', 'attn.proj', 'mlp.fc1')}
    density, remain, _ = density_of(vit)
    assert set(density) == {f'blocks.0.{layer}.weight' for layer in ('attn.qkv', 'attn.proj', 'mlp.fc1')}
    assert remain == 25.0
    assert density_of({'fc.weight': torch.ones(2, 2)}) == ({}, None, ZEROS)


def test_a_damaged_state_is_taken_from_the_other_file(tmp_path):
    write_predecessor(tmp_path)
    whole = (tmp_path / '1checkpoint.pth.tar').read_bytes()
    (tmp_path / '1checkpoint.pth.tar').write_bytes(whole[: len(whole) // 2])
    torch.save({'weights': 1}, tmp_path / '2checkpoint.pth.tar')
    (tmp_path / '2model_SA_best.pth.tar').write_bytes(b'')
    (run,) = collect([tmp_path])
    assert [one.level for one in run.levels] == [0, 1] and run.levels[1].test == 68.0
    assert [line.removeprefix(f'{tmp_path}/') for line in run.problems] == [
        '1checkpoint.pth.tar: is truncated or damaged',
        '2checkpoint.pth.tar: is not a checkpoint of main_imp_fillback.py: has no state_dict nor result',
        '2model_SA_best.pth.tar: is empty (0 bytes)',
    ]


def test_two_files_of_one_state(tmp_path):
    write_predecessor(tmp_path, 1)
    (tmp_path / '0checkpoint.pth.tar').rename(tmp_path / '7checkpoint.pth.tar')
    (run,) = collect([tmp_path])
    assert len(run.levels) == 1 and '7checkpoint.pth.tar: is of state 0, as another file is' in run.problems[0]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_run(tmp_path):
    write_predecessor(tmp_path / 'run', 1)
    hostile = predecessor_checkpoint(1, [1.0], [1.0], best_sa=Hostile(tmp_path / 'canary'))
    torch.save(hostile, tmp_path / 'run' / '1checkpoint.pth.tar')
    (run,) = collect([tmp_path / 'run'])
    assert not (tmp_path / 'canary').exists()
    assert 'mkdir, which is not data: refused' in run.problems[0]
    assert [one.level for one in run.levels] == [0]


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('rsst_seed3', {'folder': 'rsst', 'struct': 'rsst', 'seed': 3}),
        ('tiny-imagenet_vgg16_bn_imp', {'dataset': 'tiny-imagenet', 'arch': 'vgg16_bn', 'struct': 'imp'}),
        ('impressive_res50s', {}),
        ('cifar10_output_sparseresnet20_saliency', {'dataset': 'cifar10', 'arch': 'sparseresnet20'}),
    ],
)
def test_what_a_folders_name_tells(name, expected):
    found = settings_of_name(name)
    assert {key: found.get(key) for key in expected} == expected
    assert expected or set(found) == {'folder'}


def test_results_are_json_of_any_encoding_error(tmp_path):
    (tmp_path / 'results.json').write_bytes(json.dumps({'format': 1}).encode('utf-16'))
    assert 'not JSON' in collect([tmp_path])[0].problems[0]
