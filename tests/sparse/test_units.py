"""Attention heads and MLP neurons: found, scored, and regrouped."""

import pytest
import torch
from torch import nn

from vadslim.classification.vit import VisionTransformer
from vadslim.sparse import (
    CRITERIA,
    VIT_LAYERS,
    SparseError,
    dense_masks,
    density,
    fill_back,
    find_units,
    imp,
    kept_units,
    prunable_weights,
    regroup,
    unit_scores,
    units_left,
    weight_scores,
)


class Attention(nn.Module):
    """As timm lays it out; heads may be narrower than width / num_heads."""

    def __init__(self, width=4, heads=2, head_dim=2):
        super().__init__()
        self.num_heads, self.head_dim = heads, head_dim
        self.qkv, self.q_norm = nn.Linear(width, 3 * heads * head_dim), nn.Identity()
        self.proj, self.attn_drop = nn.Linear(heads * head_dim, width), nn.Dropout(0.0)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width=4, hidden=3):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attn, self.mlp = Attention(**options), Mlp()

    def forward(self, x):
        return x + self.mlp(x + self.attn(x))


class ViT(nn.Module):
    def __init__(self, depth=2):
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.blocks(x).mean(1))


def parts(model):
    """What a regrouping needs."""
    weights = prunable_weights(model, (nn.Linear,), VIT_LAYERS, ())
    return find_units(model, weights), weights, dense_masks(weights)


def given(layers, **scores):
    """Scores by kind; of a kind without any they fall with the unit's number."""
    return {
        layer.name: torch.tensor(scores.get(layer.kind, range(layer.count, 0, -1)), dtype=torch.float64)
        for layer in layers
    }


@pytest.fixture(scope='module')
def tiny():
    torch.manual_seed(0)
    return VisionTransformer('tiny')


# --- finding --------------------------------------------------------------------------------------------------------


def test_layers_of_ours(tiny):
    layers, weights, _ = parts(tiny)
    assert len(weights) == 36 and sum(w.numel() for w in weights.values()) == 2_654_208
    assert [layer.name for layer in layers[:3]] == ['blocks.0.attn.qkv', 'blocks.0.mlp.fc1', 'blocks.1.attn.qkv']
    heads, neurons = layers[:2]
    assert (heads.kind, heads.count, heads.size, heads.maker, heads.reader) == (
        ('head', 3, 64, 'blocks.0.attn.qkv.weight', 'blocks.0.attn.proj.weight')
    )
    assert (neurons.kind, neurons.count, neurons.size) == ('neuron', 384, 1)
    assert len(layers) == 18


def test_other_layouts():
    model = nn.ModuleDict({'attn': Attention(4, 2, 3), 'fc1': nn.Linear(2, 2), 'image': nn.Conv2d(1, 1, 1)})
    layers, *_ = parts(nn.ModuleDict({'a': nn.ModuleDict({'attn': model['attn'], 'mlp': Mlp(4, 5)}), 'b': Block()}))
    assert [(layer.name, layer.count, layer.size) for layer in layers] == [
        ('a.attn.qkv', 2, 3),
        ('a.mlp.fc1', 5, 1),
        ('b.attn.qkv', 2, 2),
        ('b.mlp.fc1', 3, 1),
    ]
    assert find_units(model, ['attn.qkv.weight', 'attn.proj.weight'])[0].name == 'attn.qkv'
    attention = Attention()
    assert find_units(attention, dict(attention.named_parameters()))[0].name == 'qkv'


def test_shared_layers_come_once():
    model = ViT()
    model.blocks[1] = model.blocks[0]
    assert len(parts(model)[0]) == 2
    model = ViT()
    for one, two in zip(model.blocks[0].modules(), model.blocks[1].modules()):
        if isinstance(one, nn.Linear):
            two.weight = one.weight
    assert [layer.name for layer in parts(model)[0]] == ['blocks.0.attn.qkv', 'blocks.0.mlp.fc1']


def test_layers_that_are_no_units():
    model = ViT(1)
    with pytest.raises(SparseError, match=r'blocks.0.attn: qkv and proj are masked together; only one'):
        find_units(model, ['blocks.0.attn.qkv.weight'])
    with pytest.raises(SparseError, match='none of 1 prunable weights is of an attention'):
        find_units(model, ['head.weight'])
    model.blocks[0].attn.num_heads = 3
    with pytest.raises(SparseError, match=r'qkv makes 12 and proj reads 4 features; 3 x 3 heads of one size'):
        parts(model)
    gated = nn.ModuleDict({'mlp': Mlp()})
    gated['mlp'].fc1 = nn.Linear(4, 6)
    with pytest.raises(SparseError, match='fc1 makes 6 and fc2 reads 3 features; 1 x 3 neurons'):
        find_units(gated, dict(gated.named_parameters()))


# --- scores ---------------------------------------------------------------------------------------------------------


def unit_rows(weight, heads=2, size=2):
    """(3 * heads * size, n) -> (heads, 3 * size * n), by another way than the code's."""
    return torch.stack([weight.unflatten(0, (3, heads, size))[:, h].flatten() for h in range(heads)])


@pytest.fixture
def small():
    """A toy, its masks, two batches, and the outputs and gradients that a masked copy of it has."""
    torch.manual_seed(1)
    model = ViT(1).double()
    layers, weights, masks = parts(model)
    masks = {name: torch.rand(mask.shape) < 0.7 for name, mask in masks.items()}
    data = [torch.randn(2, 3, 4).double(), torch.randn(4, 3, 4).double()]
    batches = [lambda m, x=x: {'loss': m(x).square().mean()} for x in data]
    plain = ViT(1).double()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, weight in prunable_weights(plain, (nn.Linear,), VIT_LAYERS, ()).items():
            weight *= masks[name]
    return model, layers, weights, masks, batches, plain, data


def test_scores_of_weights(small):
    model, layers, weights, masks, *_, plain, _ = small
    block = plain.blocks[0]
    remain = unit_scores(model, layers, weights, masks, 'remain')
    assert remain['blocks.0.attn.qkv'].tolist() == unit_rows(masks['blocks.0.attn.qkv.weight']).sum(1).tolist()
    assert remain['blocks.0.mlp.fc1'].tolist() == masks['blocks.0.mlp.fc1.weight'].sum(1).tolist()
    size = unit_scores(model, layers, weights, masks)
    torch.testing.assert_close(size['blocks.0.attn.qkv'], unit_rows(block.attn.qkv.weight.detach().abs()).sum(1))
    torch.testing.assert_close(size['blocks.0.mlp.fc1'], block.mlp.fc1.weight.detach().abs().sum(1))


def test_scores_of_outputs(small):
    """Means over samples, tokens, query, key and value, and dimensions; of all six samples alike."""
    model, layers, weights, masks, batches, plain, data = small
    block, x = plain.blocks[0], torch.cat(data)
    with torch.no_grad():
        qkv = block.attn.qkv(x).unflatten(-1, (3, 2, 2))  # (B, length, 3, heads, d)
        hidden = block.mlp.fc1(x + block.attn(x))
    l1 = unit_scores(model, layers, weights, masks, 'l1', batches)
    torch.testing.assert_close(l1['blocks.0.attn.qkv'], qkv.abs().mean((0, 1, 2, 4)))
    torch.testing.assert_close(l1['blocks.0.mlp.fc1'], hidden.abs().mean((0, 1)))
    l2 = unit_scores(model, layers, weights, masks, 'l2', batches)
    torch.testing.assert_close(l2['blocks.0.attn.qkv'], qkv.square().mean((0, 1, 2, 4)).sqrt())
    torch.testing.assert_close(l2['blocks.0.mlp.fc1'], hidden.square().mean((0, 1)).sqrt())


def test_saliency_of_all_weights_of_a_unit(small):
    model, layers, weights, masks, batches, plain, _ = small
    expected = {'blocks.0.attn.qkv': 0, 'blocks.0.mlp.fc1': 0}
    for batch in batches:
        plain.zero_grad()
        batch(plain)['loss'].backward()
        worth = {name: (p * p.grad).abs().detach() for name, p in plain.named_parameters()}
        read = worth['blocks.0.attn.proj.weight'].unflatten(1, (2, 2)).sum((0, 2))
        expected['blocks.0.attn.qkv'] += (unit_rows(worth['blocks.0.attn.qkv.weight']).sum(1) + read) / 2
        read = worth['blocks.0.mlp.fc2.weight'].sum(0)
        expected['blocks.0.mlp.fc1'] += (worth['blocks.0.mlp.fc1.weight'].sum(1) + read) / 2
    found = unit_scores(model, layers, weights, masks, 'saliency', batches)
    for name, score in expected.items():
        torch.testing.assert_close(found[name], score)


def test_hessian_of_all_weights_of_a_unit(small):
    """Of single weights ``weight_scores`` is tested with the criteria."""
    model, layers, weights, masks, batches, *_ = small
    worth = weight_scores(model, weights, masks, 'hessian', batches, seed=5, probes=2)
    assert all(not bool(value[~masks[name]].any()) for name, value in worth.items())
    found = unit_scores(model, layers, weights, masks, 'hessian', batches, seed=5, probes=2)
    read = worth['blocks.0.attn.proj.weight'].unflatten(1, (2, 2)).sum((0, 2))
    torch.testing.assert_close(found['blocks.0.attn.qkv'], unit_rows(worth['blocks.0.attn.qkv.weight']).sum(1) + read)
    read = worth['blocks.0.mlp.fc2.weight'].sum(0)
    torch.testing.assert_close(found['blocks.0.mlp.fc1'], worth['blocks.0.mlp.fc1.weight'].sum(1) + read)
    assert not torch.equal(
        found['blocks.0.mlp.fc1'], unit_scores(model, layers, weights, masks, 'hessian', batches)['blocks.0.mlp.fc1']
    )


def test_scores_that_cannot_be(small):
    model, layers, weights, masks, *_ = small
    with pytest.raises(SparseError, match="criterion 'taylor' is not known"):
        unit_scores(model, layers, weights, masks, 'taylor')
    with pytest.raises(SparseError, match="'l2' looks at data"):
        unit_scores(model, layers, weights, masks, 'l2')
    batches = [lambda m: m.head.weight.sum()]
    with pytest.raises(SparseError, match='blocks.0.attn.qkv.weight is never called'):
        unit_scores(model, layers, weights, masks, 'l1', batches)
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight.fill_(float('inf'))
    with pytest.raises(SparseError, match='magnitude scores of blocks.0.mlp.fc1 are not finite'):
        unit_scores(model, layers, weights, masks)


# --- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('count', 'ratio', 'kept'),
    [
        *((3, ratio, 2) for ratio in (0.1, 0.2, 0.3)),
        (3, 0.5, 1),
        (6, 0.3, 4),
        (6, 0.7, 1),
        (12, 0.3, 8),
        (384, 0.3, 268),
        (384, 0.5, 192),
        (1536, 0.3, 1075),
        (1536, 0.7, 460),
        (10, 0.9, 1),  # 10 * (1 - 0.9) is 0.9999999999999998
        (100, 0.93, 7),  # 6.999999999999995
        (100, 0.57, 43),
        (100, 0.43, 57),
        (3, 1.0, 1),
        (3, 0.0, 3),
        (0, 0.5, 0),
    ],
)
def test_counts(count, ratio, kept):
    assert kept_units(count, ratio) == kept


# --- masks ----------------------------------------------------------------------------------------------------------


def zeros(masks, *patterns):
    return sum(int((~mask).sum()) for name, mask in masks.items() if any(p in name for p in patterns))


def test_vit_tiny_layer_wise(tiny):
    layers, weights, masks = parts(tiny)
    current = imp(weights, masks, 0.2)
    result = regroup(layers, current, unit_scores(tiny, layers, weights, current), 0.3, 0.3)
    assert len(result.masks) == 36
    assert (zeros(result.masks, '.attn.'), zeros(result.masks, '.mlp.')) == (442_368, 400_896)
    assert zeros(result.masks, '') == 843_264
    assert round(100 * (1 - density(result.masks)), 2) == 31.77
    assert round(1 / density(result.masks), 2) == 1.47
    assert units_left(layers, result.masks) == pytest.approx(200 / 3)
    assert units_left(layers, result.masks, 'neuron') == pytest.approx(100 * 268 / 384)
    assert {len(choice.kept) for choice in result.choices} == {2, 268}


def test_vit_small_global():
    model = VisionTransformer('small')
    layers, weights, masks = parts(model)
    assert sum(w.numel() for w in weights.values()) == 21_233_664
    scores = unit_scores(model, layers, weights, masks)
    result = regroup(layers, masks, scores, 0.3, sorting='global')
    kept = {kind: [len(c.kept) for c in result.choices if c.layer.kind == kind] for kind in ('head', 'neuron')}
    assert (sum(kept['head']), sum(kept['neuron'])) == (50, 12_902)
    assert min(kept['head']) >= 1 and len(set(kept['neuron'])) > 1
    assert zeros(result.masks, '') == 6_409_728
    assert round(100 * (1 - density(result.masks)), 2) == 30.19


def test_rows_and_columns_of_a_unit():
    """Of two heads with two dimensions the first stays, of three neurons the last two."""
    layers, _, masks = parts(ViT(1))
    masks['blocks.0.attn.qkv.weight'][0] = False  # comes back whole
    scores = {'blocks.0.attn.qkv': torch.tensor([2.0, 1]), 'blocks.0.mlp.fc1': torch.tensor([0, 1, 1])}
    new = regroup(layers, masks, scores, 0.5, 0.3).masks
    assert new['blocks.0.attn.qkv.weight'].all(1).int().tolist() == [1, 1, 0, 0] * 3
    assert new['blocks.0.attn.qkv.weight'].any(1).int().tolist() == [1, 1, 0, 0] * 3
    assert new['blocks.0.attn.proj.weight'].int().tolist() == [[1, 1, 0, 0]] * 4
    assert new['blocks.0.mlp.fc1.weight'].int().tolist() == [[0] * 4, [1] * 4, [1] * 4]
    assert new['blocks.0.mlp.fc2.weight'].int().tolist() == [[0, 1, 1]] * 4
    assert not masks['blocks.0.attn.qkv.weight'][0].any()
    new['blocks.0.mlp.fc1.weight'][0, 0] = new['blocks.0.mlp.fc2.weight'][0, 0] = True  # each has storage of its own
    assert not new['blocks.0.mlp.fc1.weight'][0, 1] and not new['blocks.0.mlp.fc2.weight'][1, 0]


def test_units_that_are_masked_do_nothing():
    """The network with a unit's weights at zero is the network without it, up to the biases that are read no more."""
    torch.manual_seed(0)
    model = ViT(1)
    layers, weights, masks = parts(model)
    new = regroup(layers, masks, given(layers), 0.5).masks
    with torch.no_grad():
        for name, weight in weights.items():
            weight *= new[name]
        x = torch.randn(2, 3, 4)
        expected, block = model(x), model.blocks[0]
        block.attn.qkv.bias.view(3, 2, 2)[:, 1] = 100
        block.mlp.fc1.bias[1:] = 100
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(('target', 'same'), [('head', '.mlp.'), ('mlp', '.attn.')])
def test_other_layers_keep_their_element_masks(tiny, target, same):
    layers, weights, masks = parts(tiny)
    masks['extra'] = torch.tensor([True, False])
    current = {name: torch.rand(mask.shape) < 0.8 for name, mask in masks.items()}
    new = regroup(layers, current, given(layers), 0.3, target=target).masks
    assert list(new) == list(current)
    for name, mask in current.items():
        assert torch.equal(new[name], mask) == (same in name or name == 'extra'), name
        assert new[name] is not mask and new[name].data_ptr() != mask.data_ptr()


def test_a_ratio_of_what_remains():
    """Level after level a third of the heads that are there goes; one that is gone stays gone, whatever its score."""
    model = Attention(8, 8, 1)
    layers = find_units(model, dict(model.named_parameters()))
    masks = dense_masks({'qkv.weight': model.qkv.weight, 'proj.weight': model.proj.weight})
    counts, before = [], None
    for level in range(5):
        rising = torch.arange(8.0) if level % 2 else -torch.arange(8.0)
        result = regroup(layers, masks, {layers[0].name: rising}, 0.34, target='head')
        masks = result.masks
        left = layers[0].left(masks)
        assert before is None or not bool((left & ~before).any())
        before, choice = left, result.choices[0]
        counts.append((choice.before, len(choice.kept)))
        pruned = masks[layers[0].maker].clone()
        pruned[:, ::2] = False  # element-wise pruning in between
        masks = {**masks, layers[0].maker: pruned}
    assert counts == [(8, 5), (5, 3), (3, 1), (1, 1), (1, 1)]


def test_a_unit_is_gone_when_nothing_of_it_is_left():
    layers, _, masks = parts(ViT(1))
    masks['blocks.0.mlp.fc1.weight'][0] = False
    assert layers[1].left(masks).tolist() == [True, True, True]
    masks['blocks.0.mlp.fc2.weight'][:, 0] = False
    assert layers[1].left(masks).tolist() == [False, True, True]
    assert units_left(layers, masks, 'neuron') == pytest.approx(200 / 3)
    scores = {'blocks.0.attn.qkv': torch.ones(2), 'blocks.0.mlp.fc1': torch.tensor([9.0, 1, 2])}
    choice = regroup(layers, masks, scores, 0.0).choices[1]
    assert choice.kept == (2, 1) and choice.before == 2
    masks = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    assert density(regroup(layers, masks, scores, 0.0).masks) == 0


def test_global_keeps_a_floor_in_each_layer():
    layers, _, masks = parts(ViT(3))
    scores = {layer.name: torch.full((layer.count,), 10.0**number) for number, layer in enumerate(layers)}
    kept = {c.layer.name: len(c.kept) for c in regroup(layers, masks, scores, 0.5, sorting='global').choices}
    assert kept == {
        **dict.fromkeys(('blocks.0.attn.qkv', 'blocks.1.attn.qkv', 'blocks.2.attn.qkv'), 1),
        **dict.fromkeys(('blocks.0.mlp.fc1', 'blocks.1.mlp.fc1', 'blocks.2.mlp.fc1'), 3),  # fewer than 4
    }
    floors = {'head': 0, 'neuron': 1}
    choices = regroup(layers, masks, scores, 0.5, sorting='global', floors=floors).choices
    assert [len(c.kept) for c in choices] == [0, 1, 2, 1, 1, 2]
    assert [c.kept for c in choices][3:] == [(0,), (0,), (0, 1)]  # the most that is left, and of equal scores the first


def test_scores_by_the_mean_of_their_layer():
    layers, _, masks = parts(ViT(2))
    scores = given(layers) | {
        'blocks.0.attn.qkv': torch.tensor([1.0, 3]),
        'blocks.1.attn.qkv': torch.tensor([100.0, 110]),
    }
    options = {'target': 'head', 'sorting': 'global', 'floors': {'head': 0}}
    raw = regroup(layers, masks, scores, 0.5, **options)
    assert [c.kept for c in raw.choices] == [(), (1, 0)]
    even = regroup(layers, masks, scores, 0.5, normalize=True, **options)
    assert [c.kept for c in even.choices] == [(1,), (1,)]  # 0.5, 1.5 and 0.95, 1.05
    assert even.choices[1].scores == (100, 110)


def test_ties_keep_the_first():
    layers, _, masks = parts(ViT(1))
    result = regroup(layers, masks, {layer.name: torch.ones(layer.count) for layer in layers}, 0.5, 0.3)
    assert [choice.kept for choice in result.choices] == [(0,), (0, 1)]


def test_settings_that_cannot_be():
    layers, _, masks = parts(ViT(1))
    scores = given(layers)
    for ratio in (-0.1, 1.1, float('nan')):
        with pytest.raises(SparseError, match='it is a fraction from 0 to 1'):
            regroup(layers, masks, scores, ratio)
        with pytest.raises(SparseError, match='it is a fraction from 0 to 1'):
            regroup(layers, masks, scores, 0.5, ratio)
    with pytest.raises(SparseError, match="target 'heads' is not known; there are head, mlp, both"):
        regroup(layers, masks, scores, 0.5, target='heads')
    with pytest.raises(SparseError, match="sorting 'layerwise' is not known"):
        regroup(layers, masks, scores, 0.5, sorting='layerwise')
    with pytest.raises(SparseError, match="target 'both': the prunable weights are of no layer with neurons"):
        regroup(layers[:1], masks, scores, 0.5)
    with pytest.raises(SparseError, match='no head scores for blocks.0.attn.qkv'):
        regroup(layers, masks, {}, 0.5)
    with pytest.raises(SparseError, match=r'has 2 heads; its scores are \(3,\)'):
        regroup(layers, masks, given(layers, head=[1, 2, 3]), 0.5)
    with pytest.raises(SparseError, match='neuron scores of blocks.0.mlp.fc1 are not finite'):
        regroup(layers, masks, given(layers, neuron=[1, float('inf'), 3]), 0.5)


# --- the element-wise variant ---------------------------------------------------------------------------------------


def test_elements_come_back():
    masks = {'w': torch.tensor([[True, False, False], [False, True, False]])}
    scores = {'w': torch.tensor([[9.0, 2, 1], [4, 9, 2]])}
    counts = {0.0: [], 0.25: [3], 0.5: [1, 3], 0.74: [1, 3], 0.75: [1, 3, 5], 1.0: [1, 2, 3, 5]}
    for rate, back in counts.items():
        new = fill_back(masks, scores, rate)['w']
        assert (new & ~masks['w']).flatten().nonzero().flatten().tolist() == back
        assert bool((new | ~masks['w']).all()) and new.data_ptr() != masks['w'].data_ptr()


def test_whole_rows_come_back():
    """What is counted is rows: upstream took half of the nine zeros for four rows."""
    masks = {'w': torch.tensor([[0, 0], [1, 0], [0, 0], [0, 0], [0, 0]]).bool()}
    new = fill_back(masks, {'w': torch.tensor([1.0, 9, 3, 2, 3])}, 0.5)['w']
    assert new.int().tolist() == [[0, 0], [1, 0], [1, 1], [0, 0], [1, 1]]
    assert fill_back(masks, {'w': torch.ones(5)}, 0.3)['w'].all(1).tolist() == [True, False, False, False, False]


def test_fill_back_that_cannot_be():
    masks = {'w': torch.zeros(2, 3, dtype=torch.bool)}
    with pytest.raises(SparseError, match='fillback_rate is 2'):
        fill_back(masks, {'w': torch.ones(2)}, 2)
    with pytest.raises(SparseError, match='no scores for w'):
        fill_back(masks, {}, 0.5)
    with pytest.raises(SparseError, match=r'w is \(2, 3\); its scores are \(3,\)'):
        fill_back(masks, {'w': torch.ones(3)}, 0.5)
    with pytest.raises(SparseError, match='scores of w are not finite'):
        fill_back(masks, {'w': torch.tensor([1, float('nan')])}, 0.5)


@pytest.mark.parametrize('criterion', CRITERIA)
def test_our_vision_transformer(tiny, criterion):
    """Each criterion ends in whole heads and neurons."""
    layers, weights, masks = parts(tiny)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    current = imp(weights, masks, 0.2)
    batch = [lambda m: m(images, labels, mode='loss')]
    scores = unit_scores(tiny, layers, weights, current, criterion, batch, probes=1)
    new = regroup(layers, current, scores, 0.3).masks
    head = new['blocks.4.attn.qkv.weight'].view(3, 3, 64, 192).float().mean((2, 3))
    assert bool(((head == 0) | (head == 1)).all()) and torch.equal(head[0], head[1]) and torch.equal(head[0], head[2])
    assert zeros(new, '') == 843_264
