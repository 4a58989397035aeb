"""Predicted costs against counts of the slim networks themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vadslim.analysis import Macs, Params, count, count_params
from vadslim.analysis.predict import share
from vadslim.pruning import StructuredPruner, find_groups, make_structure, resize
from vadslim.pruning.structure import check_kept, removed_positions
from vadslim.testing import ToyNet, toy_frames


class ViTBlock(nn.Module):
    """A block of a vision transformer with one projection for queries, keys and values."""

    def __init__(self, dim=16, heads=4, width=4, hidden=32):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * heads * width), nn.Linear(heads * width, dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(x)))


class ConvNet(nn.Module):
    """Grouped, depth-wise and transposed convolutions."""

    def __init__(self, a=8, b=12):
        super().__init__()
        self.stem = nn.Conv2d(3, a, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(a, a, 3, padding=1, groups=a)
        self.wide = nn.Conv2d(a, b, 1)
        self.grouped = nn.Conv2d(b, b, 3, groups=b // 4, padding=1)
        self.up = nn.ConvTranspose2d(b, 5, 2, stride=2)

    def forward(self, x):
        return self.up(self.grouped(self.wide(self.depthwise(self.stem(x)))))


def first(number):
    return np.arange(number)


def test_a_transformer_block_without_heads_and_neurons():
    x = torch.zeros(2, 7, 16)
    cost = Macs(ViTBlock(), lambda m: m(x))
    rows = np.concatenate([start + first(8) for start in (0, 16, 32)])  # two of four heads
    removed = {
        'qkv.weight': {0: rows},
        'qkv.bias': {0: rows},
        'proj.weight': {1: first(8)},
        'fc1.weight': {0: first(11)},
        'fc1.bias': {0: first(11)},
        'fc2.weight': {1: first(11)},
    }
    slim = ViTBlock(heads=2, hidden=21)
    assert cost({}) == cost.dense == count(ViTBlock(), lambda m: m(x)).macs
    assert cost(removed) == count(slim, lambda m: m(x)).macs == cost.check(slim)
    assert cost.modules(removed) == {
        '': 2 * 2 * 7 * 7 * 8,
        'qkv': 14 * 16 * 24,
        'proj': 14 * 8 * 16,
        'fc1': 14 * 16 * 21,
        'fc2': 14 * 21 * 16,
    }
    assert Params(ViTBlock())(removed) == count_params(slim)


def test_convolutions_of_all_kinds():
    x = torch.zeros(2, 3, 16, 12)
    a, b = first(3), first(4)  # three of eight channels; one of three groups of four
    removed = {
        'stem.weight': {0: a},
        'depthwise.weight': {0: a},
        'wide.weight': {0: b, 1: a},
        'grouped.weight': {0: b},
        'up.weight': {0: b},
    }
    assert Macs(ConvNet(), lambda m: m(x))(removed) == count(ConvNet(5, 8), lambda m: m(x)).macs


@pytest.mark.parametrize('need_weights', [True, False])
def test_attention_that_loses_value_widths_only(need_weights):
    """Queries, keys and values are rows of one weight. The scores, too, are taken to be as narrow as the values."""
    attention, x = nn.MultiheadAttention(16, 4, batch_first=True), torch.zeros(2, 7, 16)
    cost = Macs(attention, lambda m: m(x, x + 1, x + 2, need_weights=need_weights))
    values = np.concatenate([32 + 4 * head + first(1) for head in range(4)])
    removed = {'in_proj_weight': {0: values}, 'out_proj.weight': {1: values - 32}}
    projections, sums = 14 * 16 * (16 + 16 + 12 + 12), 2 * 4 * 7 * 7 * 3
    assert cost(removed) == projections + 2 * sums


@pytest.mark.parametrize('ratio', [0.2, 0.5, 0.75])
def test_what_the_pruner_makes(ratio):
    model, images = ToyNet(16, 32, 64).eval(), toy_frames()
    groups = find_groups(model, images)
    kept = StructuredPruner(ratio).plan(model, groups)
    slim = resize(model, make_structure(model, groups, kept))
    removed = removed_positions(groups, check_kept(groups, kept))
    assert Macs(model, lambda m: m(images))(removed) == count(slim, lambda m: m(images)).macs
    assert Params(model)(removed) == count_params(slim)


def test_geometry_is_no_attention():
    """A product of two computed factors that no weight precedes in its module does not shrink with other modules."""

    class Camera(nn.Module):
        def forward(self, x):
            return x @ torch.ones(2, 6, 6)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.camera = nn.Linear(4, 6), Camera()

        def forward(self, x):
            return self.camera(self.layer(x))

    cost = Macs(Net(), lambda m: m(torch.zeros(2, 5, 4)))
    removed = {'layer.weight': {0: first(3)}}
    assert cost(removed) == 10 * 4 * 3 + 2 * 5 * 6 * 6


def test_tied_and_shared_weights():
    class Tied(nn.Module):
        def __init__(self, width=6):
            super().__init__()
            self.table = nn.Embedding(width, 4)
            self.head = nn.Linear(4, width, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x):
            return self.head(self.table(x) + self.head(self.table(x)).sum(-1, keepdim=True))

    x = torch.tensor([[0, 1]])
    removed = {'table.weight': {0: np.array([2, 5])}}
    assert Macs(Tied(), lambda m: m(x))(removed) == count(Tied(4), lambda m: m(x)).macs == 2 * 2 * 4 * 4
    assert Params(Tied())(removed) == count_params(Tied(4)) == 16


def test_a_counted_network_is_not_counted_again():
    model, x = ViTBlock(), torch.zeros(2, 7, 16)
    counted = count(model, lambda m: m(x))

    def run(m):
        raise AssertionError('the network was run')

    assert Macs(model, run, counted).dense == counted.macs


def test_share_of_a_part():
    removed = {'w': {0: np.array([1, 2, 9])}}
    assert [share(removed, 'w', 0, *span) for span in ((0, 10), (0, 4), (3, 9))] == [0.7, 0.5, 1.0]
    assert share(removed, 'w', 1, 0, 10) == share(removed, 'v', 0, 0, 10) == 1
