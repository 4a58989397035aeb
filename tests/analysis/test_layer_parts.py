"""Parts by names and shapes: nothing is lost, and one entry adds a family."""

import pytest

from vadslim.analysis.headers import Entry
from vadslim.analysis.layer_parts import FAMILIES, ROLES, PartTable, is_buffer, role_of

INSIDE = {
    # path inside a layer: (shape, part, role)
    'self_attn.q_proj.weight': ((8, 8), 'attention', 'q_proj'),
    'self_attn.q_norm.weight': ((8,), 'norm', ''),
    'self_attn.in_proj_weight': ((24, 8), 'attention', 'qkv_proj'),
    'attn.c_attn.weight': ((8, 24), 'attention', 'qkv_proj'),
    'attn.c_proj.weight': ((8, 8), 'attention', 'o_proj'),
    'mlp.c_proj.weight': ((8, 8), 'mlp', 'down_proj'),
    'attention.self.query.weight': ((8, 8), 'attention', 'q_proj'),
    'attention.output.dense.weight': ((8, 8), 'attention', 'o_proj'),
    'attention.output.LayerNorm.bias': ((8,), 'norm', ''),
    'intermediate.dense.weight': ((32, 8), 'mlp', 'up_proj'),
    'output.dense.weight': ((8, 32), 'mlp', 'down_proj'),
    'input_layernorm.weight': ((8,), 'norm', ''),
    'ln_1.weight': ((8,), 'norm', ''),
    'fc1.weight': ((32, 8), 'mlp', 'up_proj'),
    'block_sparse_moe.experts.3.w2.weight': ((8, 32), 'mlp', 'down_proj'),
    'mlp.experts.gate_up_proj': ((4, 8, 64), 'mlp', 'gate_up_proj'),
    'layer.1.DenseReluDense.wi.weight': ((32, 8), 'mlp', 'up_proj'),
    'attentions.0.sampling_offsets.weight': ((64, 8), 'attention', ''),
    'attentions.1.attn.out_proj.weight': ((8, 8), 'attention', 'o_proj'),
    'ffns.0.layers.0.0.weight': ((32, 8), 'mlp', 'up_proj'),
    'ffns.0.layers.1.bias': ((8,), 'mlp', 'down_proj'),
    'norms.2.weight': ((8,), 'norm', ''),
    'conv2.weight': ((8, 8, 3, 3), 'conv', ''),
    'bn2.running_mean': ((8,), 'norm', ''),
    'downsample.0.weight': ((8, 4, 1, 1), 'conv', ''),
    'unheard_of.weight': ((8, 4), 'other', ''),
    'unheard_of_scale.weight': ((8,), 'norm', ''),  # nothing else has a weight of one dimension
    'mlp_shortcut_Q': ((8, 8), 'other', ''),
    'patch_embed.proj.weight': ((8, 3, 4, 4), 'embedding', ''),
}


@pytest.mark.parametrize('path', INSIDE)
def test_part_and_role(path):
    shape, part, role = INSIDE[path]
    name = f'model.layers.3.{path}'
    assert PartTable().part_of(path, name, {path.rpartition('.')[2]: shape}) == part
    assert role_of(part, path) == role


@pytest.mark.parametrize(
    ('name', 'shape', 'part'),
    [
        ('model.embed_tokens.weight', (100, 8), 'embedding'),
        ('transformer.wpe.weight', (100, 8), 'embedding'),
        ('pts_bbox_head.bev_embedding.weight', (100, 8), 'embedding'),
        ('lm_head.weight', (100, 8), 'head'),
        ('pts_bbox_head.cls_branches.0.6.weight', (10, 8), 'head'),
        ('pts_bbox_head.cls_branches.0.1.weight', (8,), 'head'),
        ('model.norm.weight', (8,), 'norm'),
        ('img_neck.fpn_convs.0.conv.weight', (8, 8, 3, 3), 'conv'),
        ('pts_bbox_head.code_weights', (10,), 'other'),
    ],
)
def test_outside_of_layers(name, shape, part):
    assert PartTable().part_of(name, name, {name.rpartition('.')[2]: shape}) == part


def test_a_family_is_one_entry():
    path, name = 'mixer.in_proj.weight', 'layers.0.mixer.in_proj.weight'
    assert PartTable().part_of(path, name, {'weight': (8, 8)}) == 'other'
    table = PartTable({**FAMILIES, 'mamba': {'attention': 'mixer'}})
    assert table.part_of(path, name, {'weight': (8, 8)}) == 'attention'
    asked = PartTable(first=(('*.mixer.*', 'mlp'),))
    assert asked.part_of(path, name, {'weight': (8, 8)}) == 'mlp'
    with pytest.raises(ValueError, match="'mixer' is no part; there are attention"):
        PartTable(first=(('*', 'mixer'),))


def test_words_name_known_parts():
    assert {part for words in FAMILIES.values() for part in words} <= {'attention', 'mlp', 'norm', 'embedding', 'conv'}
    assert set(ROLES) == {'attention', 'mlp'}


@pytest.mark.parametrize(
    ('name', 'dtype', 'shape', 'buffer'),
    [
        ('bn.running_var', 'F32', (8,), True),
        ('bn.num_batches_tracked', 'I64', (), True),
        ('h.0.attn.bias', 'BOOL', (1, 1, 16, 16), True),
        ('h.0.attn.bias', 'F32', (1, 1, 16, 16), True),
        ('h.0.attn.bias', 'F32', (16,), False),
        ('rotary_emb.inv_freq', 'F32', (8,), True),
        ('layers.0.fc.qweight', 'I32', (8, 8), False),
        ('layers.0.fc.weight', 'I8', (8, 8), False),
        ('layers.0.fc.qzeros', 'I32', (8, 8), True),
        ('code_weights', 'F32', (10,), False),
    ],
)
def test_buffers(name, dtype, shape, buffer):
    assert is_buffer(name, Entry(shape, dtype)) == buffer
