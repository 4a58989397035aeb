"""The structure file: round trip, refusal of damaged ones, and composing two steps."""

import copy
import json

import pytest
import torch
from torch import nn

from vadslim.pruning import (
    Attr,
    Group,
    GroupError,
    Slice,
    Structure,
    StructureError,
    architecture_hash,
    blocks,
    compose,
    find_groups,
    make_structure,
    resize,
    slice_state_dict,
)


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    return model, find_groups(model, torch.randn(3, 4))


def test_kept_positions_by_hand():
    model, groups = net()
    structure = make_structure(model, groups, {'0.neurons': [7, 1], '2.neurons': range(6)})
    assert structure.tensors == {'0.weight': {0: [1, 7]}, '0.bias': {0: [1, 7]}, '2.weight': {1: [1, 7]}}
    assert structure.shapes == {'0.weight': (8, 4), '0.bias': (8,), '2.weight': (6, 8)}
    assert structure.groups == {'0.neurons': {'kind': 'neuron', 'num_units': 8, 'kept': [1, 7]}}
    assert structure.slim_shape('2.weight') == (6, 2)
    assert structure.architecture_sha256 == architecture_hash(model) == architecture_hash(model.state_dict())


def test_groups_may_share_a_dim_and_positions():
    """Heads x value dims: what leaves is the union of both, once."""
    model = nn.Linear(12, 3)
    heads = Group('heads', 'head', 3, [Slice('weight', 1, blocks(3, 4))])
    dims = Group('dims', 'dim', 4, [Slice('weight', 1, [[d, 4 + d, 8 + d] for d in range(4)])])
    structure = make_structure(model, [heads, dims], {'heads': [0, 2], 'dims': [1, 2, 3]})
    assert structure.tensors == {'weight': {1: [1, 2, 3, 9, 10, 11]}}


def test_attributes_fall_with_the_units_of_all_groups():
    model = nn.Linear(4, 4)
    model.sizes, model.count = (4, 4), 8
    one = Group('one', 'x', 4, [Slice('weight', 0, blocks(4))], [Attr('', 'sizes.1'), Attr('', 'count', 2)])
    two = Group('two', 'x', 4, [Slice('weight', 1, blocks(4))], [Attr('', 'count')])
    structure = make_structure(model, [one, two], {'one': [0, 1, 2], 'two': [0, 3]})
    assert structure.attrs == {'sizes.1': 3, 'count': 8 - 2 - 2}
    slim = resize(model, structure)
    assert (slim.sizes, slim.count, model.sizes) == ((4, 3), 4, (4, 4))


@pytest.mark.parametrize(
    ('kept', 'message'),
    [
        ({'nothing': [0]}, 'kept names the Group nothing'),
        ({'0.neurons': [0, 8]}, 'from 0 to 7'),
        ({'0.neurons': [0, 0]}, 'distinct'),
        ({'0.neurons': []}, 'at least 1 have to stay'),
        ({'4.neurons': [0]}, 'is protected (open: reaches an output of Sequential)'),
    ],
)
def test_wrong_units_are_refused(kept, message):
    model, groups = net()
    with pytest.raises(StructureError, match=message.replace('(', r'\(').replace(')', r'\)')):
        make_structure(model, groups, kept)


def test_groups_of_another_model_are_refused():
    _, groups = net()
    with pytest.raises(GroupError, match='no tensor 2.weight'):
        make_structure(nn.Sequential(nn.Linear(4, 8)), groups, {})
    with pytest.raises(GroupError, match=r'position 7 of 0.weight dim 0, which has shape \(5, 4\)'):
        make_structure(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6)), groups, {})


def test_round_trip(tmp_path):
    model, groups = net()
    structure = make_structure(model, groups, {'0.neurons': [0, 3], '2.neurons': [1, 2, 5]})
    structure.save(tmp_path / 'structure.json')
    assert Structure.load(tmp_path / 'structure.json') == structure
    assert Structure.from_dict(json.loads(json.dumps(structure.to_dict()))) == structure
    assert [path.name for path in tmp_path.iterdir()] == ['structure.json']


def damage(key, value):
    def change(data):
        *parents, last = key
        for parent in parents:
            data = data[parent]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (damage(['format'], 2), 'format is 2, this version reads 1'),
        (damage(['architecture_sha256'], 'x'), 'architecture_sha256'),
        (damage(['tensors'], [1]), 'tensors is not an object'),
        (damage(['tensors', '0.weight', '0'], [3, 0]), 'not sorted'),
        (damage(['tensors', '0.weight', '0'], [0, 8]), 'position 8 where only 8 exist'),
        (damage(['tensors', '0.weight', '0'], []), 'not a non-empty list'),
        (damage(['tensors', '0.weight', '0'], [True]), 'not an integer'),
        (damage(['tensors', '0.weight', '0'], 'abc'), 'not a non-empty list'),
        (damage(['tensors', '0.weight'], {'2': [0]}), "no dim '2'"),
        (damage(['tensors', '0.weight'], {'-1': [0]}), "no dim '-1'"),
        (damage(['tensors', 'extra'], {'0': [0]}), 'name different tensors'),
        (damage(['shapes', '0.weight'], [8, -4]), 'has no shape'),
        (damage(['attrs', 'a.b'], 'x' * 10**6), 'a positive integer is needed'),
        (damage(['edits'], {}), 'edits is not a list'),
        (damage(['groups', '0.neurons'], {'kind': 1}), 'needs a kind'),
    ],
)
def test_damaged_structures_are_refused_in_one_line(change, message):
    model, groups = net()
    data = make_structure(model, groups, {'0.neurons': [0, 3]}).to_dict()
    change(data)
    with pytest.raises(StructureError, match=message) as info:
        Structure.from_dict(data, 'file.json')
    assert str(info.value).startswith('file.json: ')
    assert len(str(info.value)) < 200
    assert '\n' not in str(info.value)


@pytest.mark.parametrize('text', ['', '[', '[]', 'null', '{"format": 1}', '[' * 100000])
def test_files_that_are_no_structures(tmp_path, text):
    path = tmp_path / 'structure.json'
    path.write_text(text)
    with pytest.raises(StructureError, match='structure.json'):
        Structure.load(path)
    with pytest.raises(StructureError, match='No such file'):
        Structure.load(tmp_path / 'missing.json')


def test_compose_equals_two_steps():
    model, groups = net()
    first = make_structure(model, groups, {'0.neurons': [0, 2, 3, 5, 7], '2.neurons': [0, 1, 2, 4]})
    middle = resize(model, first)
    inner = find_groups(middle, torch.randn(3, 4))
    second = make_structure(middle, inner, {'0.neurons': [1, 4], '2.neurons': [0, 3]})
    both = compose(first, second)
    assert both.groups['0.neurons'] == {'kind': 'neuron', 'num_units': 8, 'kept': [2, 7]}
    assert both.architecture_sha256 == first.architecture_sha256
    assert both == make_structure(model, groups, {'0.neurons': [2, 7], '2.neurons': [0, 4]})
    two_steps, one_step = resize(middle, second).state_dict(), resize(model, both).state_dict()
    assert two_steps.keys() == one_step.keys()
    assert all(torch.equal(two_steps[name], one_step[name]) for name in one_step)


def test_compose_with_positions_of_the_dense_network():
    model, groups = net()
    first = make_structure(model, groups, {'0.neurons': [0, 2, 3, 5]})
    second = make_structure(model, groups, {'0.neurons': [2, 5], '2.neurons': [1]})
    assert compose(first, second) == second
    with pytest.raises(StructureError, match='keeps what the first has removed'):
        compose(second, first)


def test_compose_takes_the_last_attribute():
    model = nn.MultiheadAttention(16, 8)
    groups = find_groups(model)
    first = make_structure(model, groups, {'heads': [0, 1, 3, 6, 7]})
    middle = resize(model, first)
    second = make_structure(middle, find_groups(middle), {'heads': [0, 2]})
    both = compose(first, second)
    assert both.attrs == {'num_heads': 2}
    assert both.groups['heads']['kept'] == [0, 3]
    assert both.tensors['out_proj.weight'][1] == [0, 1, 6, 7]


def test_resize_refuses_another_architecture():
    model, groups = net()
    structure = make_structure(model, groups, {'0.neurons': [0, 3]})
    slim = resize(model, structure)
    with pytest.raises(StructureError, match=r'0.weight is \(2, 4\), the structure was made for \(8, 4\)'):
        resize(slim, structure)
    with pytest.raises(StructureError, match='2.weight is missing'):
        resize(nn.Sequential(nn.Linear(4, 8)), structure)
    with pytest.raises(StructureError, match='edit .fold. is not known, there are depth, grid'):
        resize(model, Structure(structure.architecture_sha256, edits=[{'type': 'fold'}]))


def test_state_dicts_are_sliced_like_the_model():
    model, groups = net()
    structure = make_structure(model, groups, {'0.neurons': [0, 3], '2.neurons': [5]})
    state = slice_state_dict(copy.deepcopy(model.state_dict()), structure)
    slim = resize(nn.Sequential(*[copy.deepcopy(layer) for layer in model]), structure)
    assert slim.load_state_dict(state, strict=True)
    assert torch.equal(state['2.weight'], model[2].weight[[5]][:, [0, 3]])
    assert state['4.bias'].shape == (2,)
    with pytest.raises(StructureError, match=r'0.weight is \(2, 4\), .* made for \(8, 4\) and leaves \(2, 4\)'):
        slice_state_dict(state, structure)
    with pytest.raises(StructureError, match='none of the tensors'):
        slice_state_dict({'module.0.weight': state['0.weight']}, structure)
