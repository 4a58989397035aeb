"""Files of InkNet in all old layouts: all commands find the same tensors in them, under the names of today."""

import json
import math

import pytest
import torch

from old_ink_files import SMALL, write_all
from vadslim.analysis.headers import read_headers
from vadslim.checkpoint import load_checkpoint
from vadslim.checkpoint_format import load_any
from vadslim.cli import UserError
from vadslim.examples.ink import InkNet
from vadslim.hooks.transfer import compare_architecture
from vadslim.old_layouts import names_of_today, outside_of_halves
from vadslim.staged.cli import main
from vadslim.staged.resume import check_state

LAYOUTS = ['manager', 'script', 'short', 'tensors', 'pair']
CONFIG = """
model: {embed_dim: 16, num_layers: 1, decoder_dim: 8}
training: {epochs: 4, epoch_length: 8, batch_size: 4, save_dir: out}
data: {num_workers: 0, curriculum_stage: 2}
logging: {tensorboard_dir: null, vis_interval: 0, log_interval: 1}
stages:
  - {name: structural, model: {full_heads: false}}
  - {name: dense}
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp('old'))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('stage', ['structural', 'dense'])
def test_a_network_takes_them(stage, layout, files):
    network = InkNet(**SMALL, full_heads=stage == 'dense')
    read = load_any(files[stage][layout])
    network.load_state_dict(read['state_dict'])
    assert {name: tuple(value.shape) for name, value in read['state_dict'].items()} == {
        name: entry.shape for name, entry in read_headers(files[stage][layout]).tensors.items()
    }
    assert read['metadata']['stage'] == stage


def test_which_can_be_resumed(files):
    for stage in files.values():
        for layout, path in stage.items():
            if layout in ('manager', 'script'):
                check_state(load_checkpoint(path), path)
                continue
            why = 'does not say after which epoch' if layout == 'short' else 'holds weights, not the state'
            with pytest.raises(UserError, match=f'{why}.*; start from it by --init_from'):
                check_state(load_checkpoint(path), path)


def test_a_flat_config_is_of_the_structural_stage(files):
    config = load_checkpoint(files['structural']['script'])['config']
    assert config['model'] == {'embed_dim': 16, 'num_layers': 1, 'full_heads': False}
    assert config['training'] == {'mask_ratio': 0.6, 'scheduler': 'cosine'}


def test_names_of_today():
    old = ['skeleton_head.bias', 'junction_head.bias', 'decoder.heads.junctions.bias', 'injunction.bias']
    new = ['skeleton_head.bias', 'keypoints_head.bias', 'heads.keypoints.bias', 'injunction.bias']
    assert list(names_of_today(dict.fromkeys(old))) == new
    assert list(names_of_today(dict.fromkeys(old[1:]))) == old[1:]  # nothing of the predecessor
    both = ['skeleton.bias', 'junction.bias', 'keypoints.bias']
    assert list(names_of_today(dict.fromkeys(both))) == both


def test_a_training_starts_from_an_encoder_alone(files, tmp_path, monkeypatch, capfd):
    checkpoint = load_checkpoint(files['dense']['encoder'])
    new = compare_architecture(checkpoint['state_dict'], InkNet(**SMALL)).new
    assert outside_of_halves(checkpoint, new) == new
    assert outside_of_halves(checkpoint, ['encoder.more', 'heads.a']) == ['heads.a']
    assert outside_of_halves(load_checkpoint(files['dense']['pair']), ['decoder.more']) == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'c.yaml').write_text(CONFIG)
    start = str(files['dense']['encoder'])
    assert main(['c.yaml', '--stage', 'structural', '--init_from', start, '--epochs', '1', '--lr', '1e-12']) == 0
    assert '173 tensors loaded, 24 new (decoder, heads)' in capfd.readouterr().err
    trained = load_checkpoint('out/structural/checkpoint_latest.pth')['state_dict']
    name = 'encoder.layers.0.linear1.weight'
    assert torch.allclose(trained[name], checkpoint['state_dict'][name], atol=1e-8)


def test_one_goes_on_with_its_rates(files, tmp_path, monkeypatch, capfd):
    """Two of its epochs are done, of two iterations each: the schedule of the run stands at the fourth iteration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'c.yaml').write_text(CONFIG)
    assert main(['c.yaml', '--stage', 'dense', '--resume', str(files['dense']['manager'])]) == 0
    said = capfd.readouterr().err
    assert 'other settings: training.epochs 3 -> 4\n' in said  # what it does not say is no difference
    (log,) = (tmp_path / 'out').rglob('scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rates = [row['lr'] for row in rows if 'lr' in row]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=8)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step() if len(expected) < 8 else None
    old = files['dense']['manager']
    assert main(['c.yaml', '--stage', 'dense', '--resume', str(old), '--save_dir', str(old.parents[1])]) == 2
    assert 'manager.pth: is of another program, in its folder; choose another by --save_dir' in capfd.readouterr().err
    assert len(rates) == 4 and all(math.isclose(*pair, rel_tol=1e-6) for pair in zip(rates, expected[4:]))
