"""The predecessor's layouts become ours: what each key turns into, and what a command makes of such a file."""

import copy

import pytest
import torch
from torch import nn

from vadslim import experiment
from vadslim.checkpoint import CheckpointError, load_checkpoint
from vadslim.checkpoint_format import load_any
from vadslim.old_layouts import from_old_layout

STRUCTURAL = {'embed_dim': 128, 'num_layers': 4, 'mask_ratio': 0.6}
SECTIONS = {'model': {'embed_dim': 64}, 'training': {'lr': 5e-4}, 'device': {'type': None}}


class Drawn(nn.Module):
    """Names as a network with heads has them."""

    def __init__(self, *heads):
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.ModuleDict({head: nn.Linear(2, 1) for head in heads})


def trained(*heads, steps=3):
    """A network, its AdamW after some steps, and its two schedulers."""
    torch.manual_seed(0)
    model = Drawn(*heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=10)
    for _ in range(steps):
        sum(value.sum() for value in model.parameters()).backward()
        optimizer.step()
    return model.state_dict(), optimizer.state_dict(), cosine.state_dict(), cycle.state_dict()


STATE, MOMENTS, COSINE, CYCLE = trained('skeleton')
DENSE = trained('skeleton', 'width_head')[0]


def manager(**changes):
    """What the predecessor's checkpoint manager wrote."""
    return {
        'version': 1,
        'epoch': 4,
        'model_state_dict': STATE,
        'optimizer_state_dict': MOMENTS,
        'scheduler_state_dict': CYCLE,
        'metric': 0.25,
        'config': SECTIONS,
        'metadata': {'stage': 'dense'},
        'timestamp': '2025-03-01T12:00:00',
        **changes,
    }


SCRIPT = {'epoch': 9, 'model_state_dict': STATE, 'optimizer_state_dict': MOMENTS, 'loss': 1.5}


def saved(folder, content, name='file.pth'):
    torch.save(content, folder / name)
    return folder / name


def assert_weights(read, expected):
    assert list(read['state_dict']) == list(expected)
    assert all(torch.equal(value, read['state_dict'][name]) for name, value in expected.items())


def test_the_manager(tmp_path):
    read = load_any(saved(tmp_path, manager(), 'checkpoint_latest.pth'))
    assert_weights(read, STATE)
    assert {key: read[key] for key in ('version', 'epoch', 'metric', 'config', 'timestamp')} == {
        'version': 1,
        'epoch': 5,
        'metric': 0.25,
        'config': SECTIONS,
        'timestamp': '2025-03-01T12:00:00',
    }
    assert read['meta'] == {'epoch': 5, 'iter': 3}
    assert {key: read['metadata'][key] for key in ('stage', 'metric', 'layout')} == {
        'stage': 'dense',
        'metric': 'loss',
        'layout': 'version 1',
    }
    (note,) = read['metadata']['notes']
    assert 'OneCycleLR' in note and 'param_schedulers' not in read
    torch.optim.AdamW(Drawn('skeleton').parameters()).load_state_dict(read['optimizer'])
    assert not [key for key in read if key.endswith('_state_dict') or key in ('model', 'scheduler', 'loss')]


@pytest.mark.parametrize(
    ('content', 'name', 'expected'),
    [
        (
            {**SCRIPT, 'scheduler_state_dict': COSINE, 'config': STRUCTURAL},
            'best.pth',
            {
                'config': {
                    'model': {'embed_dim': 128, 'num_layers': 4, 'full_heads': False},
                    'training': {'mask_ratio': 0.6, 'scheduler': 'cosine'},
                },
                'stage': 'structural',
                'notes': 1,
            },
        ),
        (SCRIPT, 'best_dense_model.pth', {'stage': 'dense', 'notes': 0}),
        ({**SCRIPT, 'model_state_dict': DENSE}, 'file.pth', {'stage': 'dense', 'notes': 0}),
        ({**SCRIPT, 'model_state_dict': DENSE}, 'structural_epoch10.pth', {'stage': 'structural', 'notes': 0}),
        (SCRIPT, 'file.pth', {'stage': 'structural', 'notes': 0}),
        (
            {'model': STATE, 'optimizer': MOMENTS, 'scheduler': CYCLE, 'config': SECTIONS},
            'file.pth',
            {'config': SECTIONS, 'stage': 'structural', 'epoch': None, 'metric': None, 'notes': 1},
        ),
    ],
)
def test_scripts_and_the_short_form(content, name, expected, tmp_path):
    before = copy.deepcopy(content)
    read = load_any(saved(tmp_path, content, name))
    assert_weights(read, content.get('model_state_dict', content.get('model')))
    found = {key: read[key] for key in ('version', 'epoch', 'metric', 'config')}
    found |= {'stage': read['metadata']['stage'], 'notes': len(read['metadata']['notes'])}
    assert found == {'version': 0, 'epoch': 10, 'metric': 1.5, 'config': None, **expected}
    assert 'optimizer' in read
    from_old_layout(content, name)
    assert str(before) == str(content)


def test_tensors_alone_and_pairs(tmp_path):
    read = load_any(saved(tmp_path, DENSE))
    assert_weights(read, DENSE)
    assert (read['version'], read['epoch'], read['metadata']['stage']) == (0, None, 'dense')
    read = load_any(saved(tmp_path, nn.Linear(2, 3).state_dict()))
    assert read['metadata']['stage'] is None
    halves = {half: nn.Linear(2, 3).state_dict() for half in ('encoder', 'decoder')}
    read = load_any(saved(tmp_path, {f'{half}_state_dict': state for half, state in halves.items()}))
    assert list(read['state_dict']) == ['encoder.weight', 'encoder.bias', 'decoder.weight', 'decoder.bias']
    assert torch.equal(read['state_dict']['decoder.bias'], halves['decoder']['bias'])
    read = load_any(saved(tmp_path, {'encoder_state_dict': halves['encoder'], 'epoch': 0}))
    assert list(read['state_dict']) == ['encoder.weight', 'encoder.bias'] and read['epoch'] == 1


@pytest.mark.parametrize(
    ('content', 'held'),
    [
        ({'epoch': 3, 'optimizer_state_dict': MOMENTS}, 'it holds epoch, optimizer_state_dict'),
        ({'model': {'embed_dim': 3}}, 'it holds model'),
        ({'encoder_state_dict': STATE, 'decoder_state_dict': 3}, 'it holds encoder_state_dict, decoder_state_dict'),
        ({}, 'it holds nothing'),
    ],
)
def test_what_cannot_be_mapped_is_one_line(content, held, tmp_path):
    with pytest.raises(CheckpointError) as error:
        load_any(saved(tmp_path, content))
    assert str(error.value).endswith(held) and '\n' not in str(error.value)


def test_a_name_that_is_code_is_refused(tmp_path):
    from argparse import Namespace

    with pytest.raises(CheckpointError, match='argparse.Namespace, which is not data'):
        load_any(saved(tmp_path, manager(config=Namespace(lr=1))))


@pytest.mark.parametrize('step', ['three', torch.ones(2), float('inf'), None])
def test_steps_that_are_no_number(step):
    read = from_old_layout({**SCRIPT, 'optimizer_state_dict': {'state': {0: {'step': step}}, 'param_groups': []}}, 'a')
    assert read['meta'] == {'epoch': 10} and 'message_hub' not in read


def test_commands_read_them_and_tell_what_is_left(tmp_path, capsys):
    path = saved(tmp_path, manager())
    weights = experiment.weights_of(load_checkpoint(path), path)
    assert list(weights) == list(STATE)
    experiment.weights_of(load_checkpoint(path), path)
    (line,) = capsys.readouterr().err.splitlines()
    said = 'the state of its scheduler (OneCycleLR of torch.optim) does not fit those of MMEngine: skipped'
    assert line == f'warning: {path}: {said}'
    forged = {'state_dict': STATE, 'metadata': {'notes': 'text'}}
    assert list(experiment.weights_of(forged, path)) == list(STATE)
    assert capsys.readouterr().err == ''
