"""What slim_masked.py writes: the smaller network, with the outputs and the accuracy of the masked one."""

import json

import pytest
import torch
from masked_toys import DEAD, UNITS, toy_masks, trained_toy, write_masked
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from vadslim import evaluate
from vadslim.analysis import count_params
from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.pruning import Structure, slice_state_dict
from vadslim.slimming.masked import main
from vadslim.testing import toy_frames

FILES = {'slim.pth', 'structure.json', 'report.json', 'toy_slim.py', 'step.json', 'done.json'}


@pytest.fixture
def slim_masked(folder, capfd, monkeypatch):
    """slim_masked(*args) -> (exit code, stdout, stderr)"""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')

    def run(*args):
        capfd.readouterr()
        code = main(['toy.py', *map(str, args)])
        return code, *capfd.readouterr()

    return run


def loaded(config, checkpoint):
    init_default_scope('mmengine')
    model = ROOT_MODELS.build(Config.fromfile(config).model).eval()
    model.load_state_dict(load_checkpoint(checkpoint)['state_dict'], strict=True)
    return model


def test_the_smaller_network_computes_the_same(slim_masked, folder):
    masks = toy_masks(trained_toy())
    masked = write_masked(folder / 'masked.pth', masks, masks=masks)
    code, out, err = slim_masked('masked.pth', '--output-dir', 'out', '--latency', '2')
    assert code == 0, err
    assert {path.name for path in (folder / 'out').iterdir()} == FILES
    slim = loaded(folder / 'out' / 'toy_slim.py', folder / 'out' / 'slim.pth')
    frames = toy_frames(5) * 3
    torch.testing.assert_close(slim(frames), masked(frames), rtol=1e-4, atol=1e-5)
    structure = Structure.load(folder / 'out' / 'structure.json')
    gone = {name: sorted(set(range(g['num_units'])) - set(g['kept'])) for name, g in structure.groups.items()}
    assert gone == DEAD
    content = load_checkpoint(folder / 'out' / 'slim.pth')
    assert content['meta']['structure'] == structure.to_dict() and content['meta']['epoch'] == 3
    rest = slice_state_dict(masks, structure)
    assert content['masks'].keys() == masks.keys()
    assert all(torch.equal(mask, rest[name]) for name, mask in content['masks'].items())
    # numbers
    report = json.loads((folder / 'out' / 'report.json').read_text())
    assert report['before']['params'] == count_params(masked)
    assert report['after']['params'] == count_params(slim) < 0.8 * count_params(masked)
    assert report['after']['macs'] < report['before']['macs']
    assert report['after']['latency']['repeats'] == 2
    assert report['after']['file_bytes'] == (folder / 'out' / 'slim.pth').stat().st_size
    zeros = sum(int((p == 0).sum()) for p in masked.parameters())
    assert f'zeros: {zeros} of {count_params(masked):,} parameters' in out and 'latency (ms)' in out
    assert f'without the {UNITS} units' in (folder / 'out' / 'toy_slim.py').read_text().splitlines()[0]
    # the original config takes it, too
    results = [
        evaluate.evaluate(evaluate.parse_args([config, checkpoint, '--work-dir', work]))
        for config, checkpoint, work in (
            ('toy.py', 'masked.pth', 'one'),
            ('toy.py', 'out/slim.pth', 'two'),
            ('out/toy_slim.py', 'out/slim.pth', 'three'),
        )
    ]
    assert results[0] == results[1] == results[2] and 'toy/accuracy' in results[0]


def test_masks_beside_dense_weights_are_applied(slim_masked, folder):
    masks = toy_masks(trained_toy())
    masked = write_masked(folder / 'beside.pth', masks, apply=False, masks=masks)
    assert slim_masked('beside.pth', '--output-dir', 'out')[0] == 0
    slim = loaded(folder / 'out' / 'toy_slim.py', folder / 'out' / 'slim.pth')
    torch.testing.assert_close(slim(toy_frames()), masked(toy_frames()), rtol=1e-4, atol=1e-5)


def test_without_masks_the_zeros_speak(slim_masked, folder):
    write_masked(folder / 'zeros.pth', toy_masks(trained_toy()))
    code, out, _ = slim_masked('zeros.pth', '--output-dir', 'out')
    assert code == 0 and 'latency' not in out
    assert 'masks' not in load_checkpoint(folder / 'out' / 'slim.pth')


def test_a_slim_one_becomes_slimmer(slim_masked, folder):
    """The structure of both steps counts in the dense network."""
    masks = toy_masks(trained_toy())
    first = {name: masks[name] for name in ('conv1.weight', 'bn1.weight', 'bn1.bias')}
    write_masked(folder / 'first.pth', first)
    assert slim_masked('first.pth', '--output-dir', 'one')[0] == 0
    content = load_checkpoint(folder / 'one' / 'slim.pth')
    content['masks'] = {name: mask for name, mask in masks.items() if name.startswith(('attention', 'ffn'))}
    save_checkpoint(content, folder / 'second.pth')
    code, _, err = slim_masked('second.pth', '--output-dir', 'two')
    assert code == 0, err
    masked = write_masked(folder / 'all.pth', masks)
    slim = loaded(folder / 'two' / 'toy_slim.py', folder / 'two' / 'slim.pth')
    torch.testing.assert_close(slim(toy_frames()), masked(toy_frames()), rtol=1e-4, atol=1e-5)


def test_the_second_time_it_is_reused(slim_masked, folder):
    masks = toy_masks(trained_toy())
    write_masked(folder / 'masked.pth', masks)
    assert slim_masked('masked.pth', '--output-dir', 'out')[0] == 0
    stamps = {path.name: path.stat().st_mtime_ns for path in (folder / 'out').iterdir()}
    code, out, _ = slim_masked('masked.pth', '--output-dir', 'out')
    assert code == 0 and 'reused' in out
    assert {path.name: path.stat().st_mtime_ns for path in (folder / 'out').iterdir()} == stamps
    write_masked(folder / 'masked.pth', {name: masks[name] for name in ('ffn.3.weight',)})
    code, _, err = slim_masked('masked.pth', '--output-dir', 'out')
    assert code == 2 and '--overwrite' in err
    assert {path.name: path.stat().st_mtime_ns for path in (folder / 'out').iterdir()} == stamps
    assert slim_masked('masked.pth', '--output-dir', 'out', '--overwrite')[0] == 0
    structure = Structure.load(folder / 'out' / 'structure.json')
    assert list(structure.groups) == ['ffn.0.neurons']
