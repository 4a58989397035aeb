"""Groups and how those of different sources become one."""

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.pruning import (
    Attr,
    Group,
    GroupError,
    Index,
    Slice,
    Trace,
    blocks,
    check_group,
    declares_groups,
    declares_traces,
    find_groups,
)
from vadslim.pruning.joining import components, join_groups


def test_index():
    index = Index.of([[0, 4], [], np.array([2])])
    assert [positions.tolist() for positions in index] == [[0, 4], [], [2]]
    assert index[-1].tolist() == [2]
    assert index.units.tolist() == [0, 0, 2]
    assert Index.of(index) is index
    assert [positions.tolist() for positions in blocks(2, 3, (0, 10))] == [
        [0, 1, 2, 10, 11, 12],
        [3, 4, 5, 13, 14, 15],
    ]
    assert Slice('w', 0, index).positions([2, 0]).tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ('index', 'message'),
    [
        ([[0, 1], [1]], 'belongs to two units, or twice to one'),
        ([[2, 2], [1]], 'belongs to two units, or twice to one'),
        ([[2, 0], [1]], 'the positions of unit 0 are not sorted'),
        ([[-1], [1]], 'negative position -1'),
    ],
)
def test_slices_are_checked(index, message):
    with pytest.raises(GroupError, match=f'w dim 1: .*{message}'):
        Slice('w', 1, index)


def test_groups_are_checked():
    part = Slice('w', 0, blocks(3))
    with pytest.raises(GroupError, match='w dim 0 has 3 units, the Group has 4'):
        Group('g', 'x', 4, [part])
    with pytest.raises(GroupError, match='min_units is 4, allowed is 1 to 3'):
        Group('g', 'x', 3, [part], min_units=4)
    with pytest.raises(GroupError, match='a dim must count from the front'):
        Slice('w', -1, blocks(3))


def test_components():
    roots = components(7, np.array([5, 1, 6, 3]), np.array([6, 5, 2, 4]))
    assert roots.tolist() == [0, 1, 1, 3, 3, 1, 1]
    chain = np.arange(999)
    assert components(1000, chain[::-1], chain[::-1] + 1).max() == 0


def test_units_that_meet_become_one():
    """A stream of 8 rows meets 2 heads of 4, and the other side of one that only the rows know."""
    heads = Group('heads', 'head', 2, [Slice('a', 0, blocks(2, 4))], [Attr('m', 'num_heads')], min_units=2)
    rows = Group('rows', 'row', 8, [Slice('a', 0, blocks(8)), Slice('b', 1, blocks(8, 1, (8,)))], protected='open: x')
    alone = Group('alone', 'row', 2, [Slice('a', 1, blocks(2))])
    joined, other = join_groups([[heads, alone], [rows]])
    assert (joined.name, joined.kind, joined.num_units, joined.min_units) == ('heads', 'head', 2, 2)
    assert joined.attrs == (Attr('m', 'num_heads'),)
    assert joined.protected == 'open: x'
    assert {(p.tensor, p.dim): p.index[1].tolist() for p in joined.slices} == {
        ('a', 0): [4, 5, 6, 7],
        ('b', 1): [12, 13, 14, 15],
    }
    assert other is alone


def test_groups_of_one_source_stay_apart():
    heads = Group('heads', 'head', 2, [Slice('a', 0, blocks(2, 3))])
    dims = Group('dims', 'dim', 3, [Slice('a', 0, [[d, 3 + d] for d in range(3)])])
    assert join_groups([[heads, dims]]) == [heads, dims]


def test_what_does_not_fit_together_is_protected():
    heads = Group('heads', 'head', 2, [Slice('a', 0, blocks(2, 4))], [Attr('m', 'num_heads')])
    some = Group('some', 'row', 8, [Slice('a', 0, [*blocks(4), [], [], [], []]), Slice('b', 0, blocks(8))])
    joined = join_groups([[heads], [some]])
    assert [group.name for group in joined] == ['heads', 'some']
    assert all('do not fit together (m.num_heads would fall by 0 to 1 per unit)' in g.protected for g in joined)


def test_closing_lifts_open_reasons_only():
    open_ = Group('o', 'row', 2, [Slice('a', 0, blocks(2))], protected='open: reaches an output; frozen: w')
    closing = Group('c', 'row', 2, [Slice('a', 0, blocks(2)), Slice('b', 0, blocks(2))], closes=True)
    (joined,) = join_groups([[closing], [open_]])
    assert joined.protected == 'frozen: w'


class Sampler(nn.Module):
    """Reads its input in a way that no tracer follows."""

    def __init__(self):
        super().__init__()
        self.offset, self.value, self.out = nn.Parameter(torch.randn(6)), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            order = x.sum(-1).argsort()
        return self.out(self.value(x[order] + self.offset))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6))
        self.head = Sampler()

    def forward(self, x):
        return self.head(self.backbone(x))


@declares_groups(Sampler)
def sampler_groups(module, prefix):
    inner = Group('value.rows', 'neuron', 4, [Slice(f'value.{n}', 0, blocks(4)) for n in ('weight', 'bias')])
    inner = Group('value.rows', 'neuron', 4, [*inner.slices, Slice('out.weight', 1, blocks(4))])
    return [inner.prefixed(prefix)]


@declares_groups(Detector)
def detector_groups(module, prefix):
    places = ('backbone.2.weight', 0), ('head.offset', 0), ('head.value.weight', 1)
    image = Group('image', 'channel', 6, [Slice(name, dim, blocks(6)) for name, dim in places], closes=True)
    return [image.prefixed(prefix)]


@declares_traces(Detector)
def detector_traces(model, example):
    return [Trace('backbone', example)]


def test_an_adapter_declares_the_other_side_of_a_traced_child():
    model, x = Detector(), torch.randn(4, 3)
    groups = find_groups(model, x)
    assert [(g.name, g.num_units, g.protected) for g in groups] == [
        ('backbone.0.neurons', 5, ''),
        ('image', 6, ''),
        ('head.value.rows', 4, ''),
    ]
    assert ('backbone.2.bias', 0) in {(p.tensor, p.dim) for p in groups[1].slices}
    kept = {'backbone.0.neurons': [1, 2], 'image': [0, 3, 5], 'head.value.rows': [2]}
    check_group(model, groups, kept, lambda m: m(x.double()))


def test_traced_alone_the_output_is_protected():
    (output,) = [g for g in find_groups(Detector().backbone, torch.randn(4, 3)) if g.name == '2.neurons']
    assert output.protected == 'open: reaches an output of Sequential'
    assert [g.name for g in find_groups(Detector())] == ['image', 'head.value.rows']


def test_children_that_are_owned_declare_nothing():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    assert {g.name.rpartition('.')[0] for g in find_groups(Owner())} == {'attention'}

    @declares_groups(Owner, owns_children=True)
    def nothing(module, prefix):
        return []

    assert find_groups(Owner()) == []


def test_the_nearest_class_declares():
    class Base(nn.Linear):
        pass

    class Derived(Base):
        pass

    @declares_groups(Base)
    def declare(module, prefix):
        return [Group('rows', 'row', module.out_features, []).prefixed(prefix)]

    assert [g.name for g in find_groups(nn.ModuleList([Derived(2, 3), Base(2, 3)]))] == ['0.rows', '1.rows']


def test_shared_modules_declare_once():
    attention = nn.MultiheadAttention(8, 2)
    assert [g.name for g in find_groups(nn.ModuleList([attention, attention])) if g.kind == 'head'] == ['0.heads']


def test_declarations_are_checked_against_the_model():
    class Wrong(nn.Linear):
        pass

    @declares_groups(Wrong)
    def declare(module, prefix):
        return [Group('rows', 'row', 9, [Slice('weight', 0, blocks(9))]).prefixed(prefix)]

    with pytest.raises(GroupError, match=r'Group rows: position 8 of weight dim 0, which has shape \(3, 2\)'):
        find_groups(Wrong(2, 3))
