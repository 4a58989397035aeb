"""Heads of nn.MultiheadAttention: every variant slims to the masked function, and broken indices are found out."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vadslim.pruning import (
    Attr,
    Group,
    Index,
    ProofError,
    Slice,
    SlimMultiheadAttention,
    blocks,
    check_group,
    declares_groups,
    find_groups,
    make_structure,
    mask,
    resize,
)

VARIANTS = {
    'plain': {},
    'batch_first': {'batch_first': True},
    'separate': {'kdim': 12, 'vdim': 20},
    'no_bias': {'bias': False},
    'extra_keys': {'add_bias_kv': True, 'add_zero_attn': True},
}
WIDTH, HEADS, KEYS, QUERIES, BATCH = 16, 4, 7, 5, 3


def attention(variant):
    torch.manual_seed(1)
    module = nn.MultiheadAttention(WIDTH, HEADS, **VARIANTS[variant])
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def inputs(module, batched=True):
    shapes = (QUERIES, module.embed_dim), (KEYS, module.kdim), (KEYS, module.vdim)
    if not batched:
        return tuple(torch.randn(shape).double() for shape in shapes)
    tensors = (torch.randn(length, BATCH, width).double() for length, width in shapes)
    return tuple(x.transpose(0, 1) if module.batch_first else x for x in tensors)


def runs(module):
    """Every way to call it."""
    batch, single = inputs(module), inputs(module, batched=False)
    padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
    padding[:, -2:] = True
    causal = torch.ones(QUERIES, KEYS, dtype=torch.bool).triu(1)
    added = torch.randn(QUERIES, KEYS).double()
    per_head = torch.randn(1, 1, QUERIES, KEYS).double()
    yield lambda m: m(*batch)[0]
    yield lambda m: m(*batch, need_weights=False)[0]
    yield lambda m: m(*batch, key_padding_mask=padding, attn_mask=causal)[0]
    yield lambda m: m(*batch, key_padding_mask=padding, need_weights=False)[0]
    yield lambda m: m(*batch, attn_mask=added)[0]
    if module.bias_k is None:  # with extra keys the stock module's is_causal shortcut masks them, attn_mask does not
        yield lambda m: m(*batch, attn_mask=causal, is_causal=True, need_weights=False)[0]
    yield lambda m: m(*batch, attn_mask=per_head.expand(BATCH, m.num_heads, -1, -1).flatten(0, 1))[0]
    yield lambda m: m(*single)[0]
    yield lambda m: m(*single, key_padding_mask=padding[0], need_weights=False)[0]


@pytest.mark.parametrize('kept', [[0, 2, 3], [1, 3], [2]])
@pytest.mark.parametrize('variant', VARIANTS)
def test_slim_equals_masked(variant, kept):
    module = attention(variant)
    groups = find_groups(module)
    assert [(group.name, group.num_units, group.on) for group in groups] == [
        ('heads', HEADS, True),
        ('query_key_dims', WIDTH // HEADS, False),
        ('value_dims', WIDTH // HEADS, False),
    ]
    for run in runs(module):
        check_group(module, groups, {'heads': kept}, run)


@pytest.mark.parametrize(
    'kept',
    [
        {'query_key_dims': [0, 2, 3]},
        {'query_key_dims': [1]},
        {'value_dims': [1, 3]},
        {'query_key_dims': [2, 3], 'value_dims': [0], 'heads': [0, 1, 3]},
    ],
)
@pytest.mark.parametrize('variant', VARIANTS)
def test_slim_heads_equal_masked_ones(variant, kept):
    """The softmax scale is that of the kept width, in the twin too."""
    module = attention(variant)
    groups = find_groups(module)
    for run in runs(module):
        check_group(module, groups, kept, run)


def test_slim_heads_by_hand():
    module = attention('plain').double().eval()
    structure = make_structure(module, find_groups(module), {'query_key_dims': [1, 2], 'value_dims': [0, 2, 3]})
    slim = resize(module, structure)
    assert slim.in_proj_weight.shape == ((2 + 2 + 3) * HEADS, WIDTH)
    assert (slim.head_dim, slim.out_proj.in_features) == (2, 3 * HEADS)
    query, key, value = (x.transpose(0, 1) for x in inputs(module))
    out = module.out_proj.bias.detach().clone()
    for head in range(HEADS):
        (q, k), v = (
            ([WIDTH * part + 4 * head + d for d in (1, 2)] for part in (0, 1)),
            [4 * head + d for d in (0, 2, 3)],
        )
        q, k, x = (
            tensor @ module.in_proj_weight[rows].T + module.in_proj_bias[rows]
            for tensor, rows in ((query, q), (key, k), (value, [2 * WIDTH + row for row in v]))
        )
        out = out + (q @ k.transpose(1, 2) / 2**0.5).softmax(-1) @ x @ module.out_proj.weight[:, v].T
    result = slim(*(x.transpose(0, 1) for x in (query, key, value)))[0]
    torch.testing.assert_close(result.transpose(0, 1), out)


def test_weights_per_head_are_those_of_the_kept_heads():
    module = attention('plain').double().eval()
    groups = find_groups(module)
    slim = resize(module, make_structure(module, groups, {'heads': [1, 3]}))
    arguments = inputs(module)
    dense_weights = module(*arguments, average_attn_weights=False)[1]
    weights = slim(*arguments, average_attn_weights=False)[1]
    torch.testing.assert_close(weights, dense_weights[:, [1, 3]], rtol=1e-12, atol=0)
    torch.testing.assert_close(slim(*arguments)[1], weights.mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize('average', [True, False])
@pytest.mark.parametrize('variant', VARIANTS)
def test_shown_weights_are_those_of_the_kept_heads_in_the_twin_too(variant, average):
    module = attention(variant)
    batch = inputs(module)
    check_group(module, find_groups(module), {'heads': [1, 3]}, lambda m: m(*batch, average_attn_weights=average))


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_broken_place_is_found(variant):
    module = attention(variant)
    run = next(runs(module))
    for group in find_groups(module):
        for part in group.slices:
            shifted = replace(part, index=Index.of([*part.index[1:], part.index[0]]))
            broken = replace(group, slices=[shifted if other is part else other for other in group.slices])
            if len(group.slices) > 1:  # else it is another cut, and no wrong one
                with pytest.raises(ProofError):
                    check_group(module, broken, {group.name: [0, 1, 2]}, run)


def test_slim_module_keeps_names_hooks_and_heads():
    module = attention('plain')
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    slim = resize(module, make_structure(module, find_groups(module), {'heads': [1, 3]}))
    assert type(slim) is SlimMultiheadAttention
    assert list(slim.state_dict()) == list(module.state_dict())
    assert slim.in_proj_weight.shape == (3 * 8, WIDTH)
    assert (slim.num_heads, slim.head_dim, slim.embed_dim) == (2, 4, WIDTH)
    assert (slim.out_proj.in_features, slim.out_proj.out_features) == (8, WIDTH)
    slim(*(x.float() for x in inputs(module)))
    assert calls == [1]
    again = resize(slim, make_structure(slim, find_groups(slim), {'heads': [0]}))
    assert (again.num_heads, again.in_proj_weight.shape) == (1, (12, WIDTH))


def test_dropout_is_active_in_training_only():
    module = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.9)
    slim = resize(module, make_structure(module, find_groups(module), {'heads': [1, 3]}))
    arguments = [x.float() for x in inputs(module)]
    for need_weights in (True, False):
        torch.manual_seed(0)
        one, other = (slim.train()(*arguments, need_weights=need_weights)[0] for _ in range(2))
        assert not torch.equal(one, other)
        one, other = (slim.eval()(*arguments, need_weights=need_weights)[0] for _ in range(2))
        assert torch.equal(one, other)


def test_encoder_layer_does_not_take_the_fused_path():
    """The fused path of nn.TransformerEncoderLayer reads embed_dim; under no_grad in eval mode it would be taken."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True).double().eval()
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, WIDTH).double()
    groups = find_groups(encoder, x)
    kept = {group.name: [0, 2] for group in groups if group.kind == 'head'}
    assert len(kept) == 2
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    check_group(encoder, groups, kept, lambda m: m(x))
    check_group(encoder, groups, kept, lambda m: m(x, src_key_padding_mask=padding)[:, :3])


def test_subclasses_without_a_declaration_are_protected():
    class Mine(nn.MultiheadAttention):
        pass

    for group in find_groups(Mine(WIDTH, HEADS)):
        assert 'Mine is a subclass of nn.MultiheadAttention' in group.protected


class FusedAttention(nn.Module):
    """As in vision transformers: one linear layer gives [query | key | value]."""

    def __init__(self, width=12, heads=3):
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.head_width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * self.head_width**-0.5).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class VisionBlock(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), FusedAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@declares_groups(FusedAttention)
def fused_heads(module, prefix):
    width = module.heads * module.head_width
    index = blocks(module.heads, module.head_width, (0, width, 2 * width))
    slices = [
        Slice('qkv.weight', 0, index),
        Slice('qkv.bias', 0, index),
        Slice('proj.weight', 1, blocks(module.heads, module.head_width)),
    ]
    return [Group('heads', 'head', module.heads, slices, [Attr('', 'heads')]).prefixed(prefix)]


@pytest.mark.parametrize('kept', [[0, 1], [2]])
def test_declared_vision_transformer_block(kept):
    model, x = VisionBlock(), torch.randn(2, 5, 12)
    groups = find_groups(model, x)
    assert [group.name for group in groups if not group.protected] == ['attention.heads', 'mlp.0.neurons']
    both = {'attention.heads': kept, 'mlp.0.neurons': [0, 5, 7]}
    check_group(model, groups, both, lambda m: m(x.double()))
    slim = resize(model, make_structure(model, groups, both))
    assert slim.attention.heads == len(kept)


def test_masking_does_not_change_the_module():
    module = attention('plain')
    before = module.in_proj_weight.detach().clone()
    twin = mask(module, find_groups(module), {'heads': [0]})
    assert torch.equal(module.in_proj_weight, before)
    assert twin.in_proj_weight[4:16].abs().sum() == 0
    assert torch.equal(twin.in_proj_weight[:4], before[:4])
