"""Motion and planning attention against the original's expanded form."""

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from vadslim.vad.planning import attend_all, attend_map, nearest_point

WIDTH, HEADS = 16, 4


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def decoder():
    init_default_scope('mmdet3d')
    attention = {'type': 'VADMultiheadAttention', 'embed_dims': WIDTH, 'num_heads': HEADS}
    layers = {
        'type': 'VADTransformerLayer',
        'attn_cfgs': [attention],
        'feedforward_channels': 24,
        'operation_order': ('cross_attn', 'norm', 'ffn', 'norm'),
    }
    torch.manual_seed(0)
    decoder = MODELS.build({'type': 'CustomTransformerDecoder', 'num_layers': 2, 'transformerlayers': layers})
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)  # the biases too
    return decoder.double()


def expanded(decoder, pos_mlp, query, origin, vectors, positions, visible, dis_thresh, normalize):
    """Keys of each query on their own: selected vectors near it and an empty one at (1, 1), which is never relative."""
    outputs = []
    for b, q in [(b, q) for b in range(len(query)) for q in range(query.shape[1])]:
        offset = positions[b] - origin[b, q]
        chosen = visible[b] & (offset.norm(dim=-1) <= dis_thresh)
        keys = torch.cat([vectors[b, chosen], torch.zeros(1, WIDTH, dtype=torch.float64)])
        where = offset[chosen] if normalize else positions[b, chosen]
        pos = pos_mlp(torch.cat([where, torch.ones(1, 2, dtype=torch.float64)]))
        own = pos_mlp(torch.zeros(1, 1, 2, dtype=torch.float64))
        outputs.append(decoder(query[b, q][None, None], keys[None], own, pos[None])[0, 0])
    return torch.stack(outputs).view_as(query)


@pytest.mark.parametrize('normalize', [True, False])
def test_keys_projected_once_are_the_keys_projected_per_agent(decoder, normalize):
    pos_mlp = nn.Linear(2, WIDTH).double()
    origin, positions = some(2, 5, 2, seed=3).sigmoid(), some(2, 7, 2, seed=4).sigmoid()
    visible = torch.rand(2, 7, generator=torch.Generator().manual_seed(5)) > 0.3
    query, vectors = some(2, 5, WIDTH, seed=1), some(2, 7, WIDTH, seed=2)
    leaves = [query, vectors, *pos_mlp.parameters(), *decoder.parameters()]
    for leaf in leaves:
        leaf.requires_grad_()
    arguments = (decoder, pos_mlp, query, origin, vectors, positions, visible, 0.3, normalize)
    ours, true = attend_map(*arguments), expanded(*arguments)
    torch.testing.assert_close(ours, true)
    probe = some(2, 5, WIDTH, seed=6)
    for a, b in zip(*(torch.autograd.grad((out * probe).sum(), leaves) for out in (ours, true))):
        torch.testing.assert_close(a, b)


def test_an_agent_that_sees_nothing_attends_to_the_empty_vector(decoder):
    pos_mlp = nn.Linear(2, WIDTH).double()
    positions = torch.full((1, 3, 2), 0.9, dtype=torch.float64)
    arguments = (decoder, pos_mlp, some(1, 2, WIDTH), torch.zeros(1, 2, 2).double(), some(1, 3, WIDTH), positions)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    out = attend_map(*arguments, nothing, 0.2, True)
    torch.testing.assert_close(out, expanded(*arguments, nothing, 0.2, True))
    assert out.isfinite().all()


def test_selection_for_the_plan_is_a_mask(decoder):
    """Keys of too low a score do not exist; with ``fix_pad`` there is one more, empty and at (1, 1)."""
    pos_mlp = nn.Linear(2, WIDTH).double()
    query, keys, positions, scores = (
        some(1, 1, WIDTH),
        some(1, 6, WIDTH, seed=1),
        some(1, 6, 2).sigmoid(),
        some(1, 6, 3),
    )
    best = scores.sigmoid().amax(-1)[0]
    threshold = float(best.median())
    kept = best > threshold
    out = attend_all(decoder, pos_mlp, query, keys, positions, scores, threshold, True)
    selected = torch.cat([keys[:, kept], torch.zeros(1, 1, WIDTH).double()], 1)
    where = torch.cat([positions[:, kept], torch.ones(1, 1, 2).double()], 1)
    true = decoder(query, selected, pos_mlp(torch.zeros(1, 1, 2).double()), pos_mlp(where))
    torch.testing.assert_close(out, true)


def test_position_of_a_vector_is_its_point_nearest_to_the_corner():
    points = torch.tensor([[[[0.9, 0.1], [0.4, 0.4], [0.1, 0.9]], [[0.0, 0.2], [0.1, 0.1], [0.5, 0.5]]]])
    torch.testing.assert_close(nearest_point(points), torch.tensor([[[0.4, 0.4], [0.1, 0.1]]]))
