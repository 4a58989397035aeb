"""Attentions with one layer for queries, keys and values, as timm has them: proven before they are believed."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from trace_nets import randomize

from vadslim.pruning import (
    Index,
    ProofError,
    SlimFusedAttention,
    StructuredPruner,
    check_group,
    compose,
    declares_groups,
    find_groups,
    make_structure,
    resize,
)

WIDTH, HEADS, DIM = 20, 4, 5


class Attention(nn.Module):
    """With the attributes of timm's: both ways to compute, norms of queries and keys, a norm before the projection."""

    def __init__(self, bias=True, fused=True, qk_norm=False, scale_norm=False):
        super().__init__()
        self.num_heads, self.head_dim, self.fused_attn = HEADS, DIM, fused
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.q_norm, self.k_norm = (nn.LayerNorm(DIM) if qk_norm else nn.Identity() for _ in range(2))
        self.attn_drop = nn.Dropout(0.5)
        self.norm = nn.LayerNorm(WIDTH) if scale_norm else nn.Identity()
        self.proj, self.proj_drop = nn.Linear(WIDTH, WIDTH, bias=bias), nn.Dropout(0.0)

    def forward(self, x, attn_mask=None):
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            x = functional.scaled_dot_product_attention(query, key, value, attn_mask, dropout)
        else:
            weights = (query * self.scale) @ key.transpose(-2, -1)
            weights = weights if attn_mask is None else weights + attn_mask
            x = self.attn_drop(weights.softmax(-1)) @ value
        x = x.transpose(1, 2).reshape(batch, length, width)
        return self.proj_drop(self.proj(self.norm(x)))


class Block(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), Attention(**options)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, two blocks, a classifier."""

    def __init__(self, **options):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.blocks = nn.Sequential(Block(**options), Block(**options))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


IMAGES = torch.randn(2, 3, 8, 8)
TOKENS = torch.randn(3, 7, WIDTH).double()
VARIANTS = {
    'fused': {},
    'explicit': {'fused': False},
    'no bias': {'bias': False},
    'norms': {'qk_norm': True, 'scale_norm': True, 'fused': False},
}


@pytest.fixture(params=VARIANTS)
def net(request):
    return randomize(VisionTransformer(**VARIANTS[request.param]))


def run(model):
    return model(IMAGES.to(next(model.parameters()).dtype))


def test_what_is_found(net):
    groups = find_groups(net, IMAGES)
    blocks = [
        (f'blocks.{number}.{name}', kind, size, on)
        for number in (0, 1)
        for name, kind, size, on in (
            ('attn.heads', 'head', HEADS, True),
            ('attn.query_key_dims', 'query_key_dim', DIM, False),
            ('attn.value_dims', 'value_dim', DIM, False),
            ('mlp.0.neurons', 'neuron', 24, True),
        )
    ]
    found = [(group.name, group.kind, group.num_units, group.on) for group in groups if not group.protected]
    assert sorted(found) == sorted([('patches.channels', 'channel', WIDTH, True), *blocks])
    (output,) = [group for group in groups if group.protected]
    assert (output.name, output.protected) == ('head.neurons', 'open: reaches an output of VisionTransformer')


@pytest.mark.parametrize('targets', [None, '*', 'kind:head', 'kind:query_key_dim', 'kind:value_dim', 'patches*'])
def test_slim_equals_masked(net, targets):
    groups = find_groups(net, IMAGES)
    for ratio in (0.3, 0.7):
        kept = StructuredPruner(ratio, importance='Random', targets=targets).plan(net, groups)
        assert any(len(kept[group.name]) < group.num_units for group in groups)
        check_group(net, groups, kept, run)


def test_a_broken_index_fails_the_proof(net):
    groups = find_groups(net, IMAGES)
    for group in groups[:5]:
        if group.protected:
            continue
        kept = {group.name: list(range(0, group.num_units, 2))}
        check_group(net, group, kept, run)
        part = next(part for part in group.slices if part.tensor.endswith(('qkv.weight', 'mlp.0.weight')))
        shifted = replace(part, index=Index.of([*part.index[1:], part.index[0]]))
        broken = replace(group, slices=[shifted if other is part else other for other in group.slices])
        if len(group.slices) > 1:  # else it is another cut, and no wrong one
            with pytest.raises(ProofError):
                check_group(net, broken, kept, run)


@pytest.mark.parametrize('variant', VARIANTS)
def test_without_an_example_and_with_a_mask(variant):
    module = randomize(Attention(**VARIANTS[variant]))
    groups = find_groups(module)
    kept = {'heads': [0, 2, 3], 'query_key_dims': [1, 4], 'value_dims': [0, 1, 3]}
    added = torch.randn(7, 7).double()
    for run_one in (lambda m: m(TOKENS), lambda m: m(TOKENS, added), lambda m: m(TOKENS, attn_mask=added)):
        check_group(module, groups, kept, run_one)
    slim = resize(module, make_structure(module, groups, kept))
    assert (slim.num_heads, slim.head_dim, slim.scale) == (3, 2, DIM**-0.5)  # the scale is that of the dense heads
    assert slim.qkv.weight.shape == (3 * (2 + 2 + 3), WIDTH) and slim.proj.weight.shape == (WIDTH, 9)


def test_the_slim_module():
    module = Attention(fused=False)
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    module.proj.bias.requires_grad_(False)
    structure = make_structure(module.eval(), find_groups(module), {'heads': [1, 3]})
    slim = resize(module, structure)
    assert isinstance(slim, Attention) and isinstance(slim, SlimFusedAttention) and type(module) is Attention
    assert list(slim.state_dict()) == list(module.state_dict()) and not slim.proj.bias.requires_grad
    calls.clear()
    slim(TOKENS.float())
    assert calls == [1] and not slim.training
    assert slim.double()(TOKENS).dtype == torch.float64
    one, other = (slim.train()(TOKENS) for _ in range(2))
    assert not torch.equal(one, other)  # dropout of the attention's weights
    assert torch.equal(*(slim.eval()(TOKENS) for _ in range(2)))


def test_level_by_level_equals_at_once():
    module = randomize(Attention(qk_norm=True))
    first = make_structure(module, find_groups(module), {'heads': [0, 2, 3], 'query_key_dims': [0, 1, 4]})
    slim = resize(module, first)
    groups = find_groups(slim)
    assert [(group.name, group.num_units, group.protected) for group in groups] == [
        ('heads', 3, ''),
        ('query_key_dims', 3, ''),
        ('value_dims', DIM, ''),
    ]
    second = make_structure(slim, groups, {'heads': [1, 2], 'query_key_dims': [0, 2], 'value_dims': [0, 1]})
    again, once = resize(slim, second), resize(module, compose(first, second))
    assert again.qkv.weight.shape == (2 * (2 + 2 + 2), WIDTH)
    torch.testing.assert_close(again.double().eval()(TOKENS), once.double().eval()(TOKENS), rtol=1e-12, atol=0)


def other(body):
    """An attention that looks the same."""
    return type('Other', (Attention,), {'forward': body})()


def heads_first(self, x):
    """The rows of qkv in the order (heads, 3, dim)."""
    batch, length, _ = x.shape
    parts = self.qkv(x).reshape(batch, length, HEADS, 3, DIM).permute(3, 0, 2, 1, 4)
    return self.proj(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    'body',
    [
        heads_first,
        lambda self, x: (Attention.forward(self, x), x),
        lambda self, x: Attention.forward(self, x + x.mean(-1, keepdim=True)).relu(),
        lambda self, x: Attention.forward(self, x) if x.dim() == 4 else None,
    ],
)
def test_what_computes_something_else_is_protected(body):
    for group in find_groups(other(body)):
        assert 'tried without half of its units' in group.protected


@pytest.mark.parametrize(
    'change',
    [
        lambda module: setattr(module, 'table', nn.Parameter(torch.zeros(HEADS))),
        lambda module: setattr(module, 'rope', nn.Linear(DIM, DIM)),
        lambda module: setattr(module, 'num_heads', 3),
        lambda module: setattr(module, 'qkv', nn.Linear(WIDTH, 2 * WIDTH)),
    ],
)
def test_what_has_other_parts_is_none(change):
    module = Attention()
    change(module)
    assert find_groups(module) == []


def test_a_declaration_of_the_class_wins():
    class Mine(Attention):
        pass

    @declares_groups(Mine)
    def mine(module, prefix):
        return []

    assert find_groups(Mine()) == []
    block = Block()
    block.attn = Mine()
    model = nn.Sequential(nn.Linear(4, WIDTH), block, nn.Linear(WIDTH, 2))
    slim = resize(model, make_structure(model, find_groups(model, torch.randn(2, 3, 4)), {'1.mlp.0.neurons': [0]}))
    assert type(slim[1].attn) is Mine
