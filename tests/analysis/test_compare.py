"""compare.py: what two networks differ in, counted by hand."""

import json
import math

import pytest
import torch
from torch import nn

from vadslim.analysis.compare import Side, compare, read_side, relative_change
from vadslim.analysis.compare_command import main
from vadslim.checkpoint import save_checkpoint
from vadslim.checkpoint_format import label
from vadslim.pruning import Group, Slice, Structure, blocks, depth_edit, make_structure, resize, slice_state_dict


def net(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def neurons(width=8):
    rows = [Slice(name, 0, blocks(width)) for name in ('0.weight', '0.bias')]
    norm = [Slice(f'1.{name}', 0, blocks(width)) for name in ('weight', 'bias', 'running_mean', 'running_var')]
    return Group('neurons', 'neuron', width, [*rows, *norm, Slice('2.weight', 1, blocks(width))])


def slim(model, kept, **edits):
    structure = make_structure(model, [neurons()], {'neurons': kept}, **edits)
    return structure, slice_state_dict(model.state_dict(), structure)


def save(path, state, structure=None):
    meta = {'structure': structure.to_dict()} if structure else {}
    save_checkpoint({'state_dict': state, 'meta': meta}, path)
    return path


def test_a_slim_network_and_the_dense_one_it_was_cut_from(tmp_path):
    model = net()
    structure, state = slim(model, [1, 2, 5])
    dense, cut = save(tmp_path / 'a.pth', model.state_dict()), save(tmp_path / 'b.pth', state, structure)
    found = compare(read_side(dense), read_side(cut))
    assert [side['what'] for side in found.sides] == ['dense checkpoint', 'slim checkpoint']
    assert found.same_architecture and not found.equal
    assert [side['params'] for side in found.sides] == [8 * 5 + 16 + 18, 3 * 5 + 6 + 8]
    assert [side['cut'] for side in found.sides] == [0, 5 * (4 + 1 + 4 + 2)]
    (group,) = found.groups
    assert (group.kept, group.only_a, group.only_b, group.overlap) == ((8, 3), [0, 3, 4, 6, 7], [], 3 / 8)
    assert {row.name: row.shapes for row in found.reshaped}['2.weight'] == ((2, 8), (2, 3))
    assert (len(found.reshaped), found.changed, found.missing, found.compared) == (7, [], [], 9)


def test_values_are_compared_at_the_units_that_both_have():
    model = net()
    one, other = slim(model, [1, 2, 5]), slim(model, [2, 5, 6])
    other[1]['0.bias'] = other[1]['0.bias'].clone()
    other[1]['0.bias'][2] += 7  # unit 6, which A does not have
    found = compare(Side('a', *one), Side('b', *other))
    (group,) = found.groups
    assert (group.only_a, group.only_b, group.overlap) == ([1], [6], 2 / 4)
    assert found.changed == [] and found.reshaped == [] and found.compared == 9
    a = one[1]['0.bias'][1:].double()
    other[1]['0.bias'][0] += 3  # unit 2
    (row,) = compare(Side('a', *one), Side('b', *other)).changed
    b = torch.stack([a[0] + 3, a[1]])
    assert row.name == '0.bias' and row.change == pytest.approx(float(3 / max(a.norm(), b.norm())), rel=1e-6)


def test_the_same_is_equal(tmp_path, capsys):
    structure, state = slim(net(), [1, 2, 5])
    assert compare(Side('a', structure, state), Side('b', structure, dict(state))).equal
    structure.save(tmp_path / 'structure.json')
    save(tmp_path / 'slim.pth', state, structure)
    assert main([str(tmp_path / 'structure.json'), str(tmp_path / 'slim.pth')]) == 0
    assert 'no difference' in capsys.readouterr().out


def test_a_structure_file_knows_shapes_of_what_it_cuts():
    model = net()
    structure, state = slim(model, [1, 2, 5])
    found = compare(Side('a', structure), Side('b', None, model.state_dict()))
    assert {row.name: row.shapes for row in found.reshaped}['0.weight'] == ((3, 4), (8, 4))
    assert found.sides[0]['params'] is None and found.same_architecture and not found.missing
    other = compare(Side('a', structure), Side('b', make_structure(model, [neurons()], {'neurons': [0, 1, 2]})))
    assert other.groups[0].only_b == [0] and not other.reshaped and not other.equal


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_layers_that_left_are_missing_and_the_others_keep_their_names(tmp_path):
    model = Stack()
    structure = make_structure(model, [], {}, edits=[depth_edit(model, 'layers', kept=[0, 2])])
    state = resize(model, structure).state_dict()
    state = {name: model.state_dict()[name.replace('layers.1', 'layers.2')].clone() for name in state}
    state['layers.1.bias'] *= -1
    cut = read_side(save(tmp_path / 'b.pth', state, structure))
    found = compare(Side('a', None, model.state_dict()), cut)
    assert [(row.name, row.shapes[1]) for row in found.missing] == [('layers.1.weight', None), ('layers.1.bias', None)]
    (row,) = found.changed
    assert (row.name, row.change) == ('layers.2.bias', pytest.approx(2))
    assert [edit['kept'] for edit in found.edits['b']] == [[0, 2]] and not found.edits['a']


def test_relative_change(monkeypatch):
    one, nothing = torch.tensor([3.0, 4.0]), torch.zeros(2)
    assert relative_change(one, one.clone()) == 0 and relative_change(nothing, nothing.clone()) == 0
    assert relative_change(one, nothing) == relative_change(nothing, one) == 1
    assert relative_change(one, 2 * one) == 0.5
    broken = torch.tensor([math.nan, 4.0])
    assert relative_change(2 * one, one, of_a=True) == 0.5 and math.isnan(relative_change(nothing, one, of_a=True))
    monkeypatch.setattr('vadslim.analysis.compare.PIECE', 1)
    assert relative_change(one, 2 * one) == 0.5
    assert math.isnan(relative_change(one, broken)) and relative_change(broken, broken.clone()) == 0


def test_what_is_not_finite_comes_first_and_is_no_number_in_json():
    state = {**net().state_dict(), '2.bias': torch.tensor([math.inf, 0])}
    found = compare(Side('a', None, net().state_dict()), Side('b', None, {**state, '0.bias': torch.ones(8)}))
    assert [(row.name, row.finite) for row in found.changed] == [('2.bias', False), ('0.bias', True)]
    assert json.loads(found.to_json())['changed'][0]['change'] is None


def both(tmp_path, a, b, *flags):
    torch.save(a, tmp_path / 'a.pth')
    torch.save(b, tmp_path / 'b.pth')
    return main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), *flags])


def test_numbers_of_all_types(tmp_path, capsys):
    one = {'w': torch.ones(4), 'small': torch.ones(2).to(torch.float8_e4m3fn), 'none': torch.zeros(0, 3)}
    one |= {'count': torch.tensor(3), 'mask': torch.tensor([True, False]), 'turn': torch.ones(2, dtype=torch.complex64)}
    other = {**one, 'w': torch.ones(4, dtype=torch.bfloat16), 'count': torch.tensor(4), 'turn': 2j * one['turn']}
    other |= {'mask': ~one['mask'], 'small': (2 * torch.ones(2)).to(torch.float8_e4m3fn)}
    assert both(tmp_path, one, other, '--json') == 0
    found = json.loads(capsys.readouterr().out)
    assert [row['name'] for row in found['changed']] == ['turn', 'small']
    assert (found['counts'], found['types']) == (['count', 'mask'], {'w': ['float32', 'bfloat16']})
    assert (found['compared'], found['equal']) == (6, False)
    assert both(tmp_path, one, other) == 0
    out = capsys.readouterr().out
    assert '2 tensors of whole numbers differ: count, mask\n' in out
    assert '1 tensor of other types: w (float32 and bfloat16)\n' in out
    assert both(tmp_path, one, {**one, 'count': torch.tensor(9)}) == 0
    assert 'no difference' not in capsys.readouterr().out
    assert both(tmp_path, one, one) == 0
    assert 'no difference: the same architecture, the same units, and the values of 6' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'state_dict': {'w': torch.eye(3).to_sparse()}}, 'b.pth: tensor w is sparse; only plain ones are compared'),
        ({'state_dict': {'w': torch.ones(3, device='meta')}}, 'b.pth: tensor w has no values'),
        ({'state_dict': {7: torch.ones(3)}}, 'b.pth: a tensor of its state_dict has no text for a name: 7'),
        ({('a',): torch.ones(3)}, "b.pth: a tensor of its state_dict has no text for a name: ('a',)"),
    ],
    ids=str,
)
def test_tensors_that_cannot_be_compared(content, message, tmp_path, capsys):
    assert both(tmp_path, {'w': torch.ones(3)}, content) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and message in line


def test_what_files_say_is_text(tmp_path, capsys):
    said = {'config': {'\x1b[2J': '[bold]', 'long': 'x' * 5000}, 'metadata': {'stage': '\x1b[31m'}}
    assert both(tmp_path, {'state_dict': net().state_dict(), **said}, {'\x1b[1mw': torch.ones(1)}) == 0
    out = capsys.readouterr().out
    assert '\x1b' not in out and '[1mw' in out
    old = {'state_dict': net().state_dict(), 'meta': {'config_json': '{bad'}}
    assert both(tmp_path, {'state_dict': net().state_dict(), **said}, old) == 0
    assert both(tmp_path, {'state_dict': net().state_dict(), **said}, {'state_dict': {}, 'config': {'a': 1}}) == 2
    torch.save({'state_dict': net().state_dict(), 'config': {'a': 1}}, tmp_path / 'c.pth')
    capsys.readouterr()
    assert main([str(tmp_path / 'a.pth'), str(tmp_path / 'c.pth')]) == 0
    out = capsys.readouterr().out
    assert '\x1b' not in out and 'Config: 3 keys differ' in out and '[bold]' in out and out.count('x') < 250


def test_other_architectures(capsys, tmp_path):
    a, b = save(tmp_path / 'a.pth', net(8).state_dict()), save(tmp_path / 'b.pth', net(9).state_dict())
    assert main([str(a), str(b), '--top', '1']) == 0
    out = capsys.readouterr().out
    assert 'different dense architectures' in out and '0.weight' in out and '8x4' in out and 'more (--top N)' in out


def test_json_has_all(tmp_path, capsys):
    model = net()
    structure, state = slim(model, [1, 2, 5])
    structure.save(tmp_path / 's.json')
    assert main([str(tmp_path / 's.json'), str(save(tmp_path / 'a.pth', model.state_dict())), '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    assert data['equal'] is False and data['groups'][0]['only_b'] == [0, 3, 4, 6, 7] and len(data['reshaped']) == 7


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'bad'),
        (b'{"format": 9}', 'format is 9'),
        (b'{"format": 1', 'not a JSON file'),
        (b'# a config', 'bad'),
        (b'{"format": 1, "settings": {}}', 'JSON, but no structure file'),
    ],
)
def test_bad_files_are_one_line(content, message, tmp_path, capsys):
    Structure('0' * 64).save(tmp_path / 'good.json')
    if content is not None:
        (tmp_path / 'bad').write_bytes(content)
    assert main([str(tmp_path / 'good.json'), str(tmp_path / 'bad')]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('error: ') and message in line


def test_a_folder_says_what_is_in_it(tmp_path, capsys):
    Structure('0' * 64).save(tmp_path / 'structure.json')
    assert main([str(tmp_path), str(tmp_path / 'structure.json')]) == 2
    assert 'is a folder, a file is needed; name one of structure.json' in ' '.join(capsys.readouterr().err.split())


def test_names_are_whole_where_no_terminal_breaks_them(tmp_path, capsys):
    long = 'pts_bbox_head.transformer.encoder.layers.0.attentions.1.deformable_attention.sampling_offsets.weight'
    a, b = (save(tmp_path / f'{n}.pth', {long: torch.zeros(n, 2)}) for n in (1, 2))
    assert main([str(a), str(b)]) == 0
    assert f'{long} ' in capsys.readouterr().out


def test_a_checkpoint_without_weights(tmp_path, capsys):
    save_checkpoint({'optimizer': {}}, tmp_path / 'a.pth')
    assert main([str(tmp_path / 'a.pth')] * 2) == 2
    assert 'no checkpoint in a layout that is known' in ' '.join(capsys.readouterr().err.split())


def run_of(folder, name, **changes):
    """A checkpoint as a staged run writes it."""
    torch.manual_seed(0)
    config = {'training': {'lr': 1e-3, 'epochs': 3}, 'heads': [{'name': 'a'}], 'mean': (1, 2)}
    config |= changes.pop('config', {})
    keys = label(changes.pop('epoch', 2), config, changes.pop('metric', 0.5), 'ink/f1', 'dense')
    state = net().state_dict()
    for tensor, value in changes.items():
        state[tensor] = state[tensor] * value
    save_checkpoint({'state_dict': state, 'meta': {}, **keys}, folder / name)
    return str(folder / name)


def test_two_checkpoints_of_a_run(tmp_path, capsys):
    a = run_of(tmp_path, 'a.pth')
    later = {'lr': 1e-3, 'epochs': 6, 'seed': 1}
    config = {'training': later, 'heads': [{'name': 'a'}, {'name': 'b'}], 'mean': [1, 2]}
    b = run_of(tmp_path, 'b.pth', epoch=6, metric=0.75, config=config, **{'0.bias': 3.0, '2.bias': -1.0})
    assert main([a, b, '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    facts = [
        {key: side[key] for key in ('stage', 'epoch', 'metric', 'metric_name', 'version')} for side in data['sides']
    ]
    same = {'stage': 'dense', 'metric_name': 'ink/f1', 'version': 2}
    assert facts == [{**same, 'epoch': 2, 'metric': 0.5}, {**same, 'epoch': 6, 'metric': 0.75}]
    assert data['config'] == {
        'training.epochs': {'a': 3, 'b': 6},
        'training.seed': {'b': 1},
        'heads.1.name': {'b': 'b'},
    }
    changes = {row['name']: (row['change'], row['change_of_a']) for row in data['changed']}
    assert changes == {
        '2.bias': (pytest.approx(2), pytest.approx(2)),
        '0.bias': (pytest.approx(2 / 3), pytest.approx(2)),
    }
    assert main([a, b]) == 0
    out = capsys.readouterr().out
    for words in ('dense', '0.75 (ink/f1)', 'Config: 3 keys differ', 'training.epochs', '66.67%', '200.00%'):
        assert words in out, words
    assert main([a, a]) == 0
    assert 'config: the same' in capsys.readouterr().out


def test_an_old_layout_and_one_that_grew_from_zero(tmp_path, capsys):
    old = {'epoch': 4, 'model_state_dict': {'w': torch.zeros(2)}, 'loss': 0.5, 'config': {'embed_dim': 8}}
    save_checkpoint(old, tmp_path / 'structural_epoch5.pth')
    save_checkpoint({'w': torch.ones(2)}, tmp_path / 'b.pth')
    assert main([str(tmp_path / 'structural_epoch5.pth'), str(tmp_path / 'b.pth'), '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    assert [side['epoch'] for side in data['sides']] == [5, None] and data['sides'][0]['stage'] == 'structural'
    assert data['config'] is None and data['changed'][0]['change'] == 1 and data['changed'][0]['change_of_a'] is None
