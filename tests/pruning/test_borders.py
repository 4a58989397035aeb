"""Streams through attentions: what enters a module with Groups of its own, and what leaves it, is one stream."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from trace_nets import randomize

from vadslim.pruning import Index, ProofError, StructuredPruner, check_group, find_groups, make_structure, resize

WIDTH, HEADS = 12, 3
TARGET, MEMORY = torch.randint(5, (2, 4)), torch.randn(2, 7, 6)


class Translator(nn.Module):
    """Tokens look at a memory of another width: torch's decoder, with an embedding, a projection and a classifier."""

    def __init__(self, norm_first=False, batch_first=True):
        super().__init__()
        self.batch_first = batch_first
        self.embedding, self.memory = nn.Embedding(5, WIDTH), nn.Linear(6, WIDTH)
        layer = nn.TransformerDecoderLayer(
            WIDTH, HEADS, 20, 0.0, batch_first=batch_first, norm_first=norm_first, activation='gelu'
        )
        self.decoder = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, target, memory):
        target, memory = self.embedding(target), self.memory(memory)
        if not self.batch_first:
            target, memory = target.transpose(0, 1), memory.transpose(0, 1)
        mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
        return self.head(self.decoder(target, memory, tgt_mask=mask))


class Across(nn.Module):
    """Queries, keys and values of three widths; the attention's weights are used, too."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, WIDTH), nn.Linear(6, 10), nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, kdim=10, vdim=8, batch_first=True)
        self.head, self.seen = nn.Linear(WIDTH, 2), nn.Linear(7, 2)

    def forward(self, x):
        output, weights = self.attention(value=self.value(x), query=self.query(x), key=self.key(x))
        return self.head(output) + self.seen(weights)


def run(model):
    dtype = next(model.parameters()).dtype
    return model(MEMORY.to(dtype)) if isinstance(model, Across) else model(TARGET, MEMORY.to(dtype))


NETS = {
    'decoder': Translator,
    'norm first': lambda: Translator(norm_first=True),
    'sequence first': lambda: Translator(batch_first=False),
    'three widths': Across,
}


@pytest.fixture(params=NETS)
def net(request):
    return randomize(NETS[request.param]())


def streams(groups):
    return [group for group in groups if group.kind in ('channel', 'neuron') and not group.protected]


def test_streams_are_free(net):
    found = [(group.name, group.num_units) for group in streams(find_groups(net, run))]
    if isinstance(net, Across):
        expected = [
            ('query.neurons', 12),
            ('key.neurons', 10),
            ('value.neurons', 8),
            ('attention.out_proj.neurons', 12),
        ]
    else:  # the packed projection reads both, so that target and memory are one
        expected = [
            ('embedding.channels', WIDTH),
            ('decoder.layers.0.linear1.neurons', 20),
            ('decoder.layers.1.linear1.neurons', 20),
        ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize('targets', [None, '*', 'embedding*', 'kind:head'])
def test_slim_equals_masked(net, targets):
    if targets == 'embedding*' and isinstance(net, Across):
        targets = ['kind:neuron']
    groups = find_groups(net, run)
    for ratio in (0.3, 0.7):
        kept = StructuredPruner(ratio, importance='Random', targets=targets).plan(net, groups)
        check_group(net, groups, kept, run)
    slim = resize(net, make_structure(net, groups, kept))
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_broken_index_fails_the_proof(net):
    groups = find_groups(net, run)
    for group in streams(groups):
        kept = {group.name: list(range(0, group.num_units, 2))}
        check_group(net, group, kept, run)
        part = next(part for part in group.slices if part.tensor.endswith(('proj_weight', 'head.weight', 'r2.weight')))
        shifted = replace(part, index=Index.of([*part.index[1:], part.index[0]]))
        broken = replace(group, slices=[shifted if other is part else other for other in group.slices])
        with pytest.raises(ProofError):
            check_group(net, broken, kept, run)


class Biased(Across):
    """A layer's channels, one per key, are added to the logits."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Linear(6, 7)

    def forward(self, x):
        return self.head(self.attention(self.query(x), self.key(x), self.value(x), attn_mask=self.bias(x[0]))[0])


class Turned(Across):
    """The channels of the query run along the tokens' dim; those of the value are no parameter's."""

    def forward(self, x):
        query = self.query(x).transpose(1, 2)[:, :, :1].expand(-1, -1, WIDTH)
        return self.head(self.attention(query, self.key(x), x.new_ones(2, 7, 8))[0])


@pytest.mark.parametrize(
    ('net', 'reasons'),
    [
        (Biased, {'query.neurons': '', 'bias.neurons': 'reaches attention as its attn_mask'}),
        (Turned, {'query.neurons': 'another dim than its channels'}),
    ],
)
def test_what_is_not_followed_is_protected(net, reasons):
    groups = {group.name: group.protected for group in find_groups(net(), MEMORY)}
    assert not groups['key.neurons'] and not groups['attention.out_proj.neurons']
    for name, reason in reasons.items():
        assert groups[name] == '' if not reason else reason in groups[name], groups
