"""Edits: layers leave and grids shrink, alone, with cuts, and one step after the other."""

import copy
import json

import pytest
import torch
from torch import nn

from vadslim.pruning import (
    EditError,
    ProofError,
    Resizable,
    Stack,
    Structure,
    StructureError,
    check_edit,
    compose,
    declares_edits,
    depth_edit,
    find_edits,
    find_grids,
    find_groups,
    grid_edit,
    make_structure,
    optimizer_param_names,
    output_changes,
    resize,
    slice_optimizer_state,
    slice_state_dict,
)


class Net(nn.Module):
    """A grid of cells, a decoder of three layers with a branch each, and residual blocks."""

    def __init__(self):
        super().__init__()
        self.rows, self.columns, self.center = 4, 6, [3, 2.0]
        self.cells = nn.Embedding(24, 8)
        self.position = nn.Parameter(torch.randn(6, 8))
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 3)
        self.branches = nn.ModuleList(nn.Linear(8, 2) for _ in range(3))
        self.blocks = nn.Sequential(Block(1, 4), Block(4, 4), Block(4, 4))

    def forward(self, x):
        cells = self.cells.weight + self.position.repeat(self.rows, 1)
        outputs = []
        for layer, branch in zip(self.decoder.layers, self.branches):
            x = layer(x, cells.expand(len(x), -1, -1))
            outputs.append(branch(x))
        return outputs[-1], self.blocks(x[:, None])


class Block(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm = nn.BatchNorm2d(outer)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return x + y if x.shape == y.shape else y


@declares_edits(Net)
def edits_of_net(net):
    def resized(size):
        (rows, columns), new = (net.rows, net.columns), list(size)
        return {
            'type': 'grid',
            'tensors': {
                'cells.weight': {'dim': 0, 'sizes': [[rows, columns], new]},
                'position': {'dim': 0, 'sizes': [[columns], new[1:]]},
            },
            'attrs': {'rows': new[0], 'columns': new[1], 'center.0': 3 * new[1] / columns},
        }

    return [
        Stack('decoder.layers', ('branches',), ('decoder.num_layers',)),
        Resizable('cells', (net.rows, net.columns), resized),
    ]


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net().eval()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape).abs() / 10)
    return net


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def run(net):
    return net(X.to(net.position.dtype))


def slim_of(net, *edits, groups=(), kept=None):
    structure = make_structure(net, groups, kept or {}, edits=edits)
    assert Structure.from_dict(json.loads(json.dumps(structure.to_dict()))) == structure
    return structure, resize(net, structure)


def assert_equal(one, other):
    assert list(one) == list(other)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0)


# --- depth ----------------------------------------------------------------------------------------------------------


def test_layers_leave_and_the_others_are_numbered_anew(net):
    edit = depth_edit(net, 'decoder', [0, 2])
    structure, slim = slim_of(net, edit)
    assert [len(slim.decoder.layers), len(slim.branches), slim.decoder.num_layers] == [2, 2, 2]
    assert len(net.decoder.layers) == 3
    state = slim.state_dict()
    assert torch.equal(state['branches.1.weight'], net.branches[2].weight)
    assert torch.equal(state['decoder.layers.1.norm1.weight'], net.decoder.layers[2].norm1.weight)
    assert not [name for name in state if name.startswith(('branches.2', 'decoder.layers.2'))]
    assert_equal(slice_state_dict(net.state_dict(), structure), state)
    x = net.decoder.layers[0](X, (net.cells.weight + net.position.repeat(4, 1)).expand(2, -1, -1))
    x = net.decoder.layers[2](x, (net.cells.weight + net.position.repeat(4, 1)).expand(2, -1, -1))
    torch.testing.assert_close(run(slim)[0], net.branches[2](x))


@pytest.mark.parametrize('kept', [[0], [1], [2], [0, 1], [0, 2], [1, 2]])
def test_a_removed_layer_is_the_identity(net, kept):
    groups, units = kept_units(net, 7)
    heads = [group.name for group in groups if group.kind == 'head']
    units |= {name: [1] for name in heads}
    assert (len(units), len(heads)) == (9, 6)
    check_edit(net, depth_edit(net, 'decoder', kept), run)
    check_edit(net, depth_edit(net, 'decoder', kept), run, groups, units)
    wrong = dict(depth_edit(net, 'decoder', kept), beside=[])  # the branches stay: layers meet those of others
    if kept[-1] != len(kept) - 1:
        with pytest.raises(ProofError):
            check_edit(net, wrong, run)


@pytest.mark.parametrize('kept', [[0], [2], [1, 2]])
def test_several_stacks_and_outputs_per_layer(net, kept):
    """Each layer's output is that of the same layer in the twin; the last one is not alone."""
    edits = [depth_edit(net, 'decoder', kept), depth_edit(net, 'blocks', [0, 2], run)]

    def every_layer(model):
        x, said = X.to(model.position.dtype), []
        cells = model.cells.weight + model.position.repeat(4, 1)
        for layer, branch in zip(model.decoder.layers, model.branches):
            x = layer(x, cells.expand(2, -1, -1))
            said.append(branch(x))
        return {'all': torch.stack(said), 'blocks': model.blocks(x[:, None])}

    check_edit(net, edits, every_layer)
    check_edit(net, edits, every_layer, rtol=1e-3, double=False)
    if kept[-1] != len(kept) - 1:
        with pytest.raises(ProofError, match='decoder.layers, blocks: slim and skipped differ by'):
            check_edit(net, [{**edits[0], 'beside': []}, edits[1]], lambda m: every_layer(m)['all'][-1])


def test_residual_blocks_are_found_by_running(net):
    choices = [choice.what for choice in find_edits(net, run=run)]
    assert [what for what in choices if 'blocks' in what] == ['blocks without layer 1', 'blocks without layer 2']
    assert not [choice for choice in find_edits(net) if 'blocks' in choice.what]
    check_edit(net, depth_edit(net, 'blocks', [0, 2], run), run)
    with pytest.raises(EditError, match='layer 0 has to stay'):
        depth_edit(net, 'blocks', [1, 2], run)


def test_stock_transformers_declare_their_layers():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
    edit = depth_edit(encoder, 'layers', [2])
    check_edit(encoder, edit, lambda m: m(X.double()))
    assert resize(encoder, make_structure(encoder, [], {}, edits=[edit])).num_layers == 1


def test_what_an_edit_saves(net):
    choices = {choice.what: choice for choice in find_edits(net, lambda m: {'': 10, 'decoder.layers.1': 3})}
    layer = choices['decoder.layers without layer 1']
    assert layer.params_saved == sum(
        p.numel() for m in (net.decoder.layers[1], net.branches[1]) for p in m.parameters()
    )
    assert layer.macs_saved == 3
    half = choices['grid cells (4, 6) -> (2, 3)']
    for choice in (layer, half):
        _, slim = slim_of(net, choice.edit)
        params = [sum(p.numel() for p in m.parameters()) for m in (net, slim)]
        assert choice.params_saved == params[0] - params[1]
    assert half.params_saved == (24 - 6 + 6 - 3) * 8
    assert half.macs_saved == 0


@pytest.mark.parametrize(
    ('stack', 'kept', 'message'),
    [
        ('decoder', [], 'non-empty'),
        ('decoder', [0, 3], 'among 0 to 2'),
        ('encoder', [0], r'no encoder; layers can leave decoder.layers \(3\)$'),
        ('cells', [0], r'cells is a Embedding, not a list of layers; layers can leave decoder.layers \(3\)'),
    ],
)
def test_wrong_layers_are_refused(net, stack, kept, message):
    with pytest.raises(EditError, match=message):
        depth_edit(net, stack, kept)


def test_a_shared_layer_cannot_leave_alone(net):
    net.branches[1] = net.branches[0]
    with pytest.raises(EditError, match='branches.1.weight is also branches.0.weight'):
        depth_edit(net, 'decoder', [0, 2])
    depth_edit(net, 'decoder', [2])
    assert [choice.what for choice in find_edits(net) if 'layer' in choice.what] == ['decoder.layers without layer 2']


# --- grids ----------------------------------------------------------------------------------------------------------


def test_a_coarser_grid_by_hand(net):
    structure, slim = slim_of(net, grid_edit(net, 'cells', (2, 3)))
    cells = net.cells.weight.detach().view(2, 2, 3, 2, 8).mean((1, 3)).flatten(0, 1)  # centres lie between four cells
    torch.testing.assert_close(slim.cells.weight.detach(), cells)
    torch.testing.assert_close(slim.position.detach(), net.position.detach().view(3, 2, 8).mean(1))
    assert (slim.rows, slim.columns, slim.center, slim.cells.num_embeddings) == (2, 3, [1.5, 2.0], 6)
    assert net.center == [3, 2.0]
    assert isinstance(slim.position, nn.Parameter)
    assert_equal(slice_state_dict(net.state_dict(), structure), slim.state_dict())
    run(slim)


def test_what_is_linear_over_the_grid_stays_so(net):
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(6) + 0.5) / 6, indexing='ij')
    with torch.no_grad():
        net.cells.weight.copy_((3 * y - 2 * x).flatten()[:, None].expand(-1, 8))
    _, slim = slim_of(net, grid_edit(net, 'cells', (3, 4)))
    y, x = torch.meshgrid((torch.arange(3) + 0.5) / 3, (torch.arange(4) + 0.5) / 4, indexing='ij')
    torch.testing.assert_close(slim.cells.weight[:, 0].detach(), (3 * y - 2 * x).flatten())


def test_what_changes_by_a_coarser_grid():
    ramp = torch.arange(24.0).view(1, 24, 1)
    edits = [{'type': 'grid', 'tensors': {'cells': {'dim': 0, 'sizes': [[4, 6], [2, 3]]}}}]
    mean = ramp.view(2, 2, 3, 2).mean((1, 3)).view(1, 6, 1)
    layers = torch.tensor([[1.0, 1], [2, 2], [3, 4]])
    before = {'view': ramp, 'plan': [torch.tensor([3.0, 4.0]), torch.ones(2)], 'layers': layers}
    after = {'view': mean + mean, 'plan': [torch.tensor([3.0, 3.0]), torch.ones(2)], 'layers': layers[[0, 2]] * 2}
    assert output_changes(before, after, edits) == {'view': 1.0, 'plan.0': pytest.approx(0.2), 'plan.1': 0.0}
    edits.append({'type': 'depth', 'layers': 'decoder', 'num_layers': 3, 'kept': [0, 2]})
    assert output_changes(before, after, edits)['layers'] == 1.0  # the last layer beside the last one


def test_grids_that_cannot_be(net):
    assert find_grids(net) == {'cells': (4, 6)}
    with pytest.raises(EditError, match='no side may grow'):
        grid_edit(net, 'cells', (4, 7))
    with pytest.raises(EditError, match='another number of sides'):
        grid_edit(net, 'cells', (4,))
    with pytest.raises(EditError, match='no grid map, it has cells'):
        grid_edit(net, 'map', (2, 2))
    edit = grid_edit(net, 'cells', (2, 3))
    with pytest.raises(StructureError, match=r'dim 0 of cells.weight \(\(6, 8\)\) is no grid of \(4, 6\)'):
        make_structure(slim_of(net, edit)[1], [], {}, edits=[edit])


# --- the file -------------------------------------------------------------------------------------------------------

DEPTH = {'type': 'depth', 'layers': 'a.layers', 'num_layers': 3, 'kept': [0, 2], 'beside': [], 'attrs': []}
GRID = {'type': 'grid', 'tensors': {'a': {'dim': 0, 'sizes': [[4, 6], [2, 3]]}}, 'attrs': {'b': 1.5}}


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        ({}, 'edit None is not known'),
        ({'type': ['depth']}, r"edit \['depth'\] is not known, there are depth, grid"),
        ({**DEPTH, 'more': 1}, "edit depth: 'more' is missing or not known"),
        ({**DEPTH, 'layers': 3}, 'layers is not a path'),
        ({**DEPTH, 'num_layers': 0}, '0 where a positive integer'),
        ({**DEPTH, 'kept': [2, 0]}, 'not a rising'),
        ({**DEPTH, 'kept': [0, 3]}, 'among 0 to 2'),
        ({**DEPTH, 'kept': [False]}, 'a list of int is needed'),
        ({**DEPTH, 'beside': 'branches'}, 'a list of str is needed'),
        ({**GRID, 'tensors': {}}, 'not empty'),
        ({**GRID, 'tensors': {'a': [4, 2]}}, 'dim and sizes are needed'),
        ({**GRID, 'tensors': {'a': {'dim': -1, 'sizes': [[4], [2]]}}}, 'dim is -1'),
        ({**GRID, 'tensors': {'a': {'dim': 0, 'sizes': [[4]]}}}, 'the dense grid and the new one'),
        ({**GRID, 'tensors': {'a': {'dim': 0, 'sizes': [[4], [10**9]]}}}, 'no side may grow'),
        ({**GRID, 'tensors': {'a': {'dim': 0, 'sizes': [[4], [2, 1]]}}}, 'no side may grow'),
        ({**GRID, 'attrs': {'b': float('nan')}}, 'a number is needed'),
        ({**GRID, 'attrs': {'b': 'c'}}, 'a number is needed'),
    ],
)
def test_damaged_edits_are_refused_in_one_line(edit, message):
    data = Structure('0' * 64, edits=[DEPTH, GRID]).to_dict()
    assert Structure.from_dict(data).edits == [DEPTH, GRID]
    with pytest.raises(StructureError, match=message) as info:
        Structure.from_dict({**data, 'edits': [edit]}, 'file.json')
    assert str(info.value).startswith('file.json: ')
    assert len(str(info.value)) < 200
    with pytest.raises(StructureError, match='two edits are about a.layers'):
        Structure.from_dict({**data, 'edits': [DEPTH, DEPTH]})


def test_edits_of_another_network_are_refused(net):
    structure, slim = slim_of(net, depth_edit(net, 'decoder', [0, 2]), grid_edit(net, 'cells', (2, 3)))
    with pytest.raises(StructureError, match='the edit was made for 3'):
        resize(slim, structure)
    with pytest.raises(StructureError, match='has 2 layers in the state, the edit was made for 3'):
        slice_state_dict(slim.state_dict(), structure)
    with pytest.raises(StructureError, match='has no'):
        resize(nn.Linear(2, 2), structure)


# --- one step after the other ---------------------------------------------------------------------------------------


def kept_units(net, step):
    """All Groups, and all neurons but the first ``step``."""
    groups = [group for group in find_groups(net, X) if group.on and not group.protected]
    return groups, {group.name: range(step, group.num_units) for group in groups if group.kind == 'neuron'}


def test_compose_equals_all_the_steps(net):
    groups, kept = kept_units(net, 1)
    first, one = slim_of(net, groups=groups, kept=kept)
    second, two = slim_of(one, depth_edit(one, 'decoder', [1, 2]), grid_edit(one, 'cells', (3, 4)))
    groups, kept = kept_units(two, 2)
    third, three = slim_of(
        two, depth_edit(two, 'decoder', [1]), grid_edit(two, 'cells', (2, 2)), groups=groups, kept=kept
    )
    whole = compose(compose(first, second), third)
    assert Structure.from_dict(whole.to_dict()) == whole
    assert whole == compose(first, compose(second, third))
    assert [edit.get('kept') for edit in whole.edits] == [[2], None]
    assert whole.edits[1]['tensors']['position']['sizes'] == [[6], [4], [2]]
    at_once = resize(net, whole)
    assert_equal(at_once.state_dict(), three.state_dict())
    assert_equal(slice_state_dict(net.state_dict(), whole), three.state_dict())
    assert at_once.decoder.num_layers == 1
    torch.testing.assert_close(run(at_once), run(three), rtol=0, atol=0)
    name = next(name for name in whole.groups if name.startswith('decoder.layers.2'))
    assert len(whole.groups[name]['kept']) == whole.groups[name]['num_units'] - 3


def test_compose_on_the_same_dense_network(net):
    first = make_structure(net, [], {}, edits=[depth_edit(net, 'decoder', [0, 2]), grid_edit(net, 'cells', (3, 3))])
    second = make_structure(net, [], {}, edits=[depth_edit(net, 'decoder', [2]), grid_edit(net, 'cells', (2, 2))])
    assert compose(first, second) == second
    assert compose(first, Structure(first.architecture_sha256)) == first
    with pytest.raises(StructureError, match='keeps layers that the first has removed'):
        compose(second, first)


def test_steps_that_do_not_fit(net):
    first, slim = slim_of(net, depth_edit(net, 'decoder', [0, 2]), grid_edit(net, 'cells', (3, 3)))
    _, other = slim_of(net, depth_edit(net, 'decoder', [0]), grid_edit(net, 'cells', (2, 2)))
    for edit, message in (
        (depth_edit(other, 'decoder', [0]), 'of other layers than the first has left'),
        (grid_edit(other, 'cells', (1, 1)), 'the second edit is made for'),
    ):
        with pytest.raises(StructureError, match=message):
            compose(first, make_structure(other, [], {}, edits=[edit]))
    groups, kept = kept_units(net, 1)
    with pytest.raises(StructureError, match='has no layer 2 any more'):
        compose(first, Structure('1' * 64, attrs={'decoder.layers.2.self_attn.num_heads': 1}))
    compose(first, make_structure(slim, *kept_units(slim, 1)))
    assert groups


# --- optimizer state ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('one_group_each', [False, True])
def test_moments_of_layers_that_stay(net, one_group_each):
    groups, kept = kept_units(net, 1)
    structure, slim = slim_of(
        net, depth_edit(net, 'decoder', [0, 2]), grid_edit(net, 'cells', (2, 3)), groups=groups, kept=kept
    )

    def optimizer_of(model):
        parameters = list(model.parameters())
        groups = [{'params': [p], 'lr': 1e-3 * (1 + p.dim())} for p in parameters]
        return torch.optim.AdamW(groups if one_group_each else parameters, lr=1e-3)

    def step(model, optimizer):
        sum(output.square().mean() for output in run(model)).backward()
        optimizer.step()
        optimizer.zero_grad()

    dense = copy.deepcopy(net)
    optimizer = optimizer_of(dense)
    step(dense, optimizer)
    names = optimizer_param_names(dense, optimizer)
    state, report = slice_optimizer_state(optimizer.state_dict(), names, structure)
    assert sorted(report) == [
        f'optimizer state of {name} dropped: the parameter was resampled' for name in ('cells.weight', 'position')
    ]
    other = optimizer_of(slim)
    other.load_state_dict(state)
    moments = dict(slim.named_parameters())
    dense_moments = dict(dense.named_parameters())
    part = structure.tensors['decoder.layers.2.linear1.weight'][0]
    torch.testing.assert_close(
        other.state[moments['decoder.layers.1.linear1.weight']]['exp_avg'],
        optimizer.state[dense_moments['decoder.layers.2.linear1.weight']]['exp_avg'][part],
    )
    torch.testing.assert_close(
        other.state[moments['branches.1.bias']]['exp_avg_sq'],
        optimizer.state[dense_moments['branches.2.bias']]['exp_avg_sq'],
    )
    assert other.state[moments['position']] == {}
    step(slim, other)
    assert [g['lr'] for g in other.param_groups] == [g['lr'] for g in optimizer_of(slim).param_groups]
