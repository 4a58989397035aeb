"""--recalibrate-bn: the command's batches, norms that train and norms that do not, averaged weights, mistakes."""

import json

import pytest
import torch
from deep_toys import DeepNet, train_deep, write_deep_config

from vadslim.checkpoint import load_checkpoint
from vadslim.pruning import Structure, recalibrate, resize
from vadslim.registry import MODELS
from vadslim.slimming import norms
from vadslim.slimming.batches import loss_batches
from vadslim.slimming.network import read_config
from vadslim.testing import write_toy_config

SLIM = 'vad_structured_pruned.pth'
ARGS = ('--pruning-ratio', '0.5', '--latency', '0', '--output-dir', 'out', '--targets', '*')


@MODELS.register_module()
class FrozenNet(DeepNet):
    """The norms keep their statistics in training, as with norm_eval."""

    def train(self, mode=True):
        super().train(mode)
        self.bn1.training = self.bn2.training = False
        return self


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('norms')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_deep_config('norms.py', epochs=1)
        return folder / train_deep('norms.py')


def notes_of(folder):
    return json.loads((folder / 'report.json').read_text())['notes']


def slim_twice(command, config, checkpoint, *args):
    """The state_dict without and with recalibration, and the structure."""
    states = []
    for more in ((), ('--recalibrate-bn', '3')):
        code, out, err = command(config, checkpoint, *ARGS, *args, *more, '--overwrite')
        assert code == 0, err
        states.append(load_checkpoint(f'out/{SLIM}')['state_dict'])
    return *states, Structure.load('out/structure.json')


def test_statistics_are_those_of_the_data(command, folder, trained):
    write_deep_config()
    edits = ('--keep-layers', 'decoder=0,2', '--bev-size', '2x3')
    stale, fresh, structure = slim_twice(command, 'deep.py', trained, *edits)
    changed = {name for name, value in fresh.items() if not torch.equal(value, stale[name])}
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    assert changed == {f'{norm}.{name}' for norm in ('bn1', 'bn2') for name in buffers}
    dense = DeepNet()
    dense.load_state_dict(load_checkpoint(trained)['state_dict'])
    expected = recalibrate(resize(dense.eval(), structure), loss_batches(read_config('deep.py'), 3)).state
    assert all(torch.equal(fresh[name], value) for name, value in expected.items()) and len(expected) == 6
    (line,) = (note for note in notes_of(folder / 'out') if 'batch norms' in note)
    assert line == 'batch norms: statistics of 2 measured anew (--recalibrate-bn, 3 batches)'
    settings = json.loads((folder / 'out' / 'report.json').read_text())['settings']
    assert settings['recalibrate_bn'] == 3


def test_constants_follow_what_slimming_changed(command, folder, trained):
    write_toy_config('frozen.py', 'work', log_level='ERROR', model={'type': 'vadslim.FrozenNet'})
    stale, fresh, _ = slim_twice(command, 'frozen.py', trained)
    assert any('shifted by what slimming changed (--recalibrate-bn, 3 batches)' in n for n in notes_of(folder / 'out'))
    assert not torch.equal(fresh['bn2.running_mean'], stale['bn2.running_mean'])
    assert torch.equal(fresh['bn2.num_batches_tracked'], stale['bn2.num_batches_tracked'])
    stale, fresh, _ = slim_twice(command, 'frozen.py', trained, '--protect', 'conv*')
    for name in fresh:  # no channel left
        torch.testing.assert_close(fresh[name], stale[name], rtol=1e-5, atol=1e-6)


def test_averaged_weights_are_spoken_of(command, folder, trained):
    write_deep_config()
    content = load_checkpoint(trained)
    average = {f'module.{name}': value for name, value in content['state_dict'].items()}
    torch.save({**content, 'ema_state_dict': {'steps': 4, **average}}, 'averaged.pth')
    stale, fresh, _ = slim_twice(command, 'deep.py', 'averaged.pth')
    saved = load_checkpoint(f'out/{SLIM}')['ema_state_dict']
    assert torch.equal(saved['module.bn1.running_mean'], stale['bn1.running_mean'])
    assert any(note.startswith('ema_state_dict: its batch norms keep') for note in notes_of(folder / 'out'))


def test_mistakes_are_one_line(command, folder, monkeypatch):
    write_deep_config()
    args = ('deep.py', 'random', *ARGS, '--recalibrate-bn', '2')
    code, out, err = command(*args, '--cfg-options', 'train_dataloader=None')
    assert code == 2 and '--recalibrate-bn: ' in err and 'has no train_dataloader' in err
    assert 'finding what can go' not in out  # told at once

    found = norms.recalibrate

    def broken(*args, **options):
        result = found(*args, **options)
        result.state['bn1.running_var'].fill_(float('nan'))
        return result

    monkeypatch.setattr(norms, 'recalibrate', broken)
    code, _, err = command(*args)
    assert code == 2 and '--recalibrate-bn: bn1.running_var would not be finite' in err
    assert not (folder / 'out').exists()
