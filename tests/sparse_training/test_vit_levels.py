"""RSST over the heads and neurons of a ViT, from the command to the smaller network."""

import json
import os

import pytest

from sparse_toys import write_recipe
from vadslim.checkpoint import load_checkpoint
from vadslim.classification import vit
from vadslim.sparse import load_masks
from vadslim.sparse_training.cli import main

FLAGS = ['--vit_structured', '--vit_prune_target', 'both', '--rate', '0.5', '--pruning_times', '2', '--slim']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A ViT 16 wide with 2 blocks of 4 heads and 32 neurons, one level after the dense one."""
    folder = tmp_path_factory.mktemp('vit')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.VITS, 'micro', (16, 2, 4, 2))
        patch.chdir(folder)
        patch.setenv('CUDA_VISIBLE_DEVICES', os.environ.get('CUDA_VISIBLE_DEVICES', ''))
        write_recipe(folder / 'toy.py')
        with (folder / 'toy.py').open('a') as file:
            file.write("\nmodel.update(type='vadslim.VisionTransformer', size='micro', image_size=8)\n")
            file.write("model.pop('depth')\nsparse.update(optimizer='adamw', lr=1e-3, criteria='l1')\n")
        assert main(['toy.py', '--save_dir', 'out', *FLAGS]) == 0
    return folder / 'out'


def test_half_of_the_units_are_left(run):
    dense, level = json.loads((run / 'results.json').read_text())['levels']
    assert (dense['struct_head'], level['struct_head']) == (100, 50)
    # of each block 2 of 4 heads and 16 of 32 neurons, and nothing else is prunable
    assert level['remain_weight'] == level['remain_weight_element'] == 50
    current, refilled = load_masks(run / 'level_1' / 'masks.pth')
    assert len(refilled) == 8 and any((current[name] & ~mask).any() for name, mask in refilled.items())
    for block in range(2):
        heads = refilled[f'blocks.{block}.attn.qkv.weight'].reshape(3, 4, 4, 16)
        assert (heads == heads[:1, :, :1, :1]).all() and heads[0, :, 0, 0].sum() == 2
    assert level['history'][-1]['reg_lambda'] == pytest.approx(1 / 1e-3)  # in units of 1 / lr


def test_report_is_kept(run):
    report = (run / 'level_1' / 'pruning.txt').read_text()
    assert '[ViT Head + MLP Quasi-Structured Pruning]' in report and '  Mode: RSST (mask only)' in report
    assert 'Layer: blocks.1.attn.qkv' in report and '[ViT Sparsity Report]' in report


def test_slim_is_smaller(run):
    slim = load_checkpoint(run / 'level_1' / 'slim' / 'slim.pth')['state_dict']
    shapes = [tuple(slim[f'blocks.0.{name}.weight'].shape) for name in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')]
    assert shapes == [(24, 16), (16, 8), (16, 16), (16, 16)]
