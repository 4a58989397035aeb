"""Layers are found by numbers in names, whatever the family calls them; gaps are layers that are gone."""

import pytest

from vadslim.analysis.layer_stacks import find_stacks

BLOCK = ('norm1.weight', 'attn.qkv.weight', 'attn.proj.weight', 'mlp.fc1.weight', 'mlp.fc2.weight')


def block(prefix, names=BLOCK):
    return [f'{prefix}.{name}' for name in names]


def blocks(prefix, numbers, names=BLOCK):
    return [name for number in numbers for name in block(f'{prefix}.{number}', names)]


def found(names):
    return {stack.name: list(stack.layers) for stack in find_stacks(names)}


@pytest.mark.parametrize('prefix', ['model.layers', 'blocks', 'transformer.h', 'a.b.unheard_of', 'img_backbone.layer1'])
def test_any_name_before_the_number(prefix):
    names = ['embed.weight', *blocks(prefix, range(12)), 'head.weight']
    (stack,) = find_stacks(names)
    assert stack.name == prefix and list(stack.layers) == list(range(12))
    assert stack.layers[11] == list(BLOCK) and stack.path(11) == f'{prefix}.11'
    assert not stack.numbered_by_original


def test_sequentials_of_plain_layers_are_none():
    names = ['head.0.weight', 'head.2.weight', 'cls_branches.0.0.weight', 'cls_branches.0.3.bias', 'norm.weight']
    assert find_stacks(names) == []
    assert find_stacks(['fpn.0.conv.weight', 'fpn.0.conv.bias', 'fpn.1.conv.weight']) == []  # one module each


def test_a_network_that_is_the_list_itself():
    assert found(blocks('', range(3)) and [name.lstrip('.') for name in blocks('', range(3))]) == {'': [0, 1, 2]}


def test_lists_inside_of_layers_belong_to_them():
    experts = [f'mlp.experts.{e}.{w}.weight' for e in range(4) for w in ('w1', 'w2', 'w3')]
    names = ('attentions.0.attn.out_proj.weight', 'attentions.1.value_proj.weight', 'norms.0.weight', *experts)
    assert found(blocks('layers', range(2), names)) == {'layers': [0, 1]}


def test_stages_have_stacks():
    names = [
        *blocks('layers.0.blocks', range(2)),
        'layers.0.downsample.reduction.weight',
        *blocks('layers.1.blocks', range(6)),
    ]
    assert found(names) == {'layers.0.blocks': [0, 1], 'layers.1.blocks': [0, 1, 2, 3, 4, 5]}


def test_parts_of_a_block_are_no_stack():
    """T5's blocks are lists of an attention and a feed-forward part, which differ."""
    names = []
    for number in range(2):
        names += block(f'encoder.block.{number}.layer.0', ['Self.q.weight', 'Self.o.weight', 'n.weight'])
        names += block(f'encoder.block.{number}.layer.1', ['Dense.wi.weight', 'Dense.wo.weight', 'norm.weight'])
    assert found(names) == {'encoder.block': [0, 1]}


def test_several_stacks_in_the_order_of_the_file():
    names = [*blocks('decoder.layers', range(2)), *blocks('encoder.layers', range(3))]
    assert list(found(names).items()) == [('decoder.layers', [0, 1]), ('encoder.layers', [0, 1, 2])]


@pytest.mark.parametrize('gone', [[1], [0], [0, 1, 4]])
def test_gaps_are_layers(gone):
    left = [number for number in range(6) if number not in gone]
    (stack,) = find_stacks(blocks('model.layers', left))
    assert stack.numbered_by_original
    assert [number for number, rests in stack.layers.items() if not rests] == gone


def test_gaps_in_other_lists_are_none():
    """What stands between numbered modules of a Sequential are activations, as a rule."""
    (stack,) = find_stacks(blocks('features', [0, 3, 6]))
    assert list(stack.layers) == [0, 3, 6] and not stack.numbered_by_original


def test_numbers_that_are_none():
    names = [f'layers.{"9" * 30}.mlp.a.weight', 'layers.²3.mlp.a.weight', 'layers.1234567.mlp.a.weight']
    assert find_stacks(names) == []
    assert found([*names, *blocks('layers', range(2))]) == {'layers': [0, 1]}
