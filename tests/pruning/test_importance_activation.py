"""Mean magnitudes of what a unit says, against forwards written out."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vadslim.pruning import Activation, Group, Slice, blocks, find_groups


def scores(model, groups, *inputs):
    return Activation()(model, groups, [lambda model, x=x: model(x) for x in inputs])


def test_what_a_linear_layer_reads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 2))
    model(torch.randn(9, 3))
    groups = find_groups(model, torch.randn(2, 3))[:1]
    one, two = torch.randn(5, 3), torch.randn(2, 3)  # every sample counts the same
    before = copy.deepcopy(model.state_dict())
    result = scores(model, groups, one, two)['0.neurons']
    assert model.training and all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    expected = model.eval()[:4](torch.cat([one, two])).mean(0)
    np.testing.assert_allclose(result, expected.detach(), rtol=1e-6, atol=1e-20)


def test_channels_of_convolutions_and_several_readers():
    """The mean over both readers' inputs; the grouped one sees two channels of each unit."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.make = nn.Conv2d(1, 4, 1)
            self.plain, self.grouped, self.up = (
                nn.Conv2d(4, 3, 3),
                nn.Conv2d(8, 4, 1, groups=2),
                nn.ConvTranspose2d(4, 2, 2),
            )

        def forward(self, x):
            x = self.make(x).relu()
            return self.plain(x), self.grouped(torch.cat([x, 2 * x], 1)), self.up(3 * x)

    torch.manual_seed(0)
    model = Net()
    places = [('make.weight', 0), ('plain.weight', 1), ('grouped.weight', 1), ('up.weight', 0)]
    group = Group('g', 'channel', 4, [Slice(tensor, dim, blocks(4)) for tensor, dim in places])
    x = torch.randn(2, 1, 5, 5)
    means = model.make(x).relu().mean((0, 2, 3))
    expected = means * (1 + (1 + 2) / 2 + 3) / 3
    np.testing.assert_allclose(scores(model, [group], x)['g'], expected.detach(), rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize('grad', [True, False])
def test_heads_of_stock_attention(grad):
    """PyTorch's fused layer calls no module inside; for scoring it is taken apart."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True, dropout=0.5)
    model.requires_grad_(grad)
    x = torch.randn(2, 3, 8)
    groups = [group for group in find_groups(model, x, allow_frozen=True) if not group.protected]
    result = scores(model, groups, x)
    q, k, v = (
        part.unflatten(-1, (2, 4)).transpose(1, 2)
        for part in model.self_attn.in_proj_weight.matmul(x[..., None])[..., 0].split(8, -1)
    )
    heads = F.scaled_dot_product_attention(q, k, v)  # the biases of a new one are zero
    np.testing.assert_allclose(result['self_attn.heads'], heads.abs().mean((0, 2, 3)).detach(), rtol=1e-5, atol=1e-20)
    hidden = model.eval().linear1(model.norm1(x + model.self_attn(x, x, x)[0])).relu()
    np.testing.assert_allclose(result['linear1.neurons'], hidden.mean((0, 1)).detach(), rtol=1e-4, atol=1e-20)
    assert type(model.self_attn) is nn.MultiheadAttention
    assert torch.backends.mha.get_fastpath_enabled()


def test_query_key_and_value_are_read():
    attention = nn.MultiheadAttention(4, 2, kdim=4, vdim=4, batch_first=True)
    group = Group('stream', 'x', 4, [Slice('in_proj_weight', 1, blocks(4))])
    q, k, v = torch.randn(1, 2, 4), torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    result = Activation()(attention, [group], [lambda model: model(q, value=v, key=k)[0]])['stream']
    np.testing.assert_allclose(result, torch.cat([q, k, v], 1).abs().mean((0, 1)), rtol=1e-6, atol=1e-20)


def test_makers_where_nothing_reads_and_parameters_that_are_tensors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Linear(3, 4), nn.Linear(3, 4)
            self.embedding = nn.Embedding(5, 3)

        def forward(self, x):
            return self.query(self.embedding.weight) @ self.key(x).T

    torch.manual_seed(0)
    model = Net()
    dims = Group('dims', 'x', 4, [Slice(f'{name}.weight', 0, blocks(4)) for name in ('query', 'key')])
    queries = Group('queries', 'query', 5, [Slice('embedding.weight', 0, blocks(5))])
    x = torch.randn(6, 3)
    result = scores(model, [dims, queries], x)
    query, key = model.query(model.embedding.weight).abs().sum(0) / 5, model.key(x).abs().mean(0)
    expected = (query + key) / 2
    np.testing.assert_allclose(result['dims'], expected.detach(), rtol=1e-5, atol=1e-20)
    np.testing.assert_allclose(result['queries'], model.embedding.weight.abs().mean(1).detach(), rtol=1e-6, atol=1e-20)


def test_logits_count_by_their_exponential():
    model = nn.Linear(2, 3)
    group = Group('points', 'point', 3, [Slice('weight', 0, blocks(3)), Slice('bias', 0, blocks(3), -np.inf)])
    x = torch.randn(4, 2)
    np.testing.assert_allclose(
        scores(model, [group], x)['points'], model(x).exp().mean(0).detach(), rtol=1e-5, atol=1e-20
    )


def test_silent_units_are_ordered_by_size():
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-5.0], [-1.0], [1.0]]))
        model[0].bias.zero_()
        model[2].weight.fill_(0.1)
    result = scores(model, find_groups(model, torch.ones(1, 1))[:1], torch.ones(1, 1))['0.neurons']
    np.testing.assert_allclose(result, [0, 0, 1], atol=1e-20)
    assert np.argsort(result).tolist() == [1, 0, 2]
