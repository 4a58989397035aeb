"""Geometry and the two attentions of the encoder against straightforward computations."""

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope

from vadslim.vad.bev_encoder import cell_centers, find_visibility, pillar_points, project_points
from vadslim.vad.example import camera_matrices
from vadslim.vad.transformer import ego_shift, rotate_view

PC_RANGE = [-15.0, -30.0, -2.0, 15.0, 30.0, 2.0]
LIKE = torch.zeros((), dtype=torch.float64)


def meta(scale=0.1, turn=0.0, shape=(96, 160)):
    """Six cameras, the car turned by so many radians under them."""
    around = np.eye(4)
    around[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    return {'lidar2img': [m @ around for m in camera_matrices(scale)], 'img_shape': [(*shape, 3)] * 6}


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cells_and_pillars():
    cells = cell_centers(2, 4, LIKE)
    assert (
        cells[0].tolist() == [0.125, 0.25] and cells[1].tolist() == [0.375, 0.25] and cells[4].tolist() == [0.125, 0.75]
    )
    points = pillar_points(2, 4, 4, PC_RANGE, LIKE)
    torch.testing.assert_close(points[5, :, :2], torch.tensor([[-3.75, 15.0]] * 4, dtype=torch.float64))
    torch.testing.assert_close(points[5, :, 2], torch.linspace(-1.5, 1.5, 4, dtype=torch.float64))


def test_projection_of_a_point_ahead():
    """A point 10 m ahead of the front camera is seen where pinhole and scale put it, by that camera alone."""
    point = torch.tensor([[[0.02 + 1.0, 0.75 + 10.0, -0.33 - 0.5]]], dtype=torch.float64)
    xy, inside = project_points(point, [meta()])
    assert inside[0, :, 0, 0].tolist() == [True] + [False] * 5
    x, y = (816 + 1266 * 0.1) * 0.1 / 160, (491 + 1266 * 0.05) * 0.1 / 96
    torch.testing.assert_close(xy[0, 0, 0, 0], torch.tensor([x, y], dtype=torch.float64))


def test_autocast_does_not_round_the_geometry():
    points = pillar_points(6, 6, 4, PC_RANGE, LIKE).float()
    view = torch.rand(1, 2, 20, 20)
    true = *project_points(points, [meta()]), rotate_view(view, [7.3], (10, 10))
    with torch.autocast('cpu', torch.bfloat16):
        ours = *project_points(points, [meta()]), rotate_view(view, [7.3], (10, 10))
    assert all(torch.equal(a, b) for a, b in zip(ours, true))


def test_each_sample_has_its_own_visibility():
    points = pillar_points(6, 6, 4, PC_RANGE, LIKE)
    metas = [meta(), meta(turn=0.7)]
    both = find_visibility(*project_points(points, metas))
    alone = [find_visibility(*project_points(points, [m])) for m in metas]
    assert alone[0].counts != alone[1].counts
    assert both.counts == alone[0].counts + alone[1].counts
    split = sum(alone[0].counts)
    torch.testing.assert_close(both.rows, torch.cat([alone[0].rows, alone[1].rows + 36]))
    torch.testing.assert_close(both.points[split:], alone[1].points)
    torch.testing.assert_close(both.cameras, torch.cat([a.cameras for a in alone]))


@pytest.fixture(scope='module')
def encoder():
    init_default_scope('mmdet3d')
    attention = {'type': 'MSDeformableAttention3D', 'embed_dims': 16, 'num_heads': 2, 'num_points': 8, 'num_levels': 1}
    layers = {
        'type': 'BEVFormerLayer',
        'attn_cfgs': [
            {'type': 'TemporalSelfAttention', 'embed_dims': 16, 'num_heads': 2, 'num_levels': 1},
            {'type': 'SpatialCrossAttention', 'embed_dims': 16, 'deformable_attention': attention},
        ],
        'feedforward_channels': 24,
        'operation_order': ('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'),
    }
    cfg = {'type': 'BEVFormerEncoder', 'num_layers': 2, 'pc_range': PC_RANGE, 'transformerlayers': layers}
    torch.manual_seed(0)
    return MODELS.build(cfg).double().eval()


def test_spatial_attention_averages_over_the_cameras_that_see_a_pillar(encoder):
    """Camera by camera over all pillars, then zero where it does not see: the padded way."""
    attention = encoder.layers[0].attentions[1]
    points = pillar_points(6, 6, 4, PC_RANGE, LIKE)
    metas = [meta(), meta(turn=0.7)]
    xy, inside = project_points(points, metas)
    visibility = find_visibility(xy, inside)
    query, features = some(2, 36, 16), some(12, 6 * 10, 16, seed=1)
    shapes = [(6, 10)]
    out = attention(query, features, shapes, visibility)

    deformable = attention.deformable_attention
    for b in range(2):
        total = torch.zeros(36, 16, dtype=torch.float64)
        for camera in range(6):
            at = xy[b, camera]
            seen = inside[b, camera].any(-1)
            everywhere = deformable(query[b], features[b * 6 + camera][None], shapes, at, torch.arange(36), [36])
            total[seen] += everywhere[seen]
        count = inside[b].any(-1).sum(0).clamp(min=1)[:, None]
        torch.testing.assert_close(out[b], query[b] + attention.output_proj(total / count))


def test_samples_of_a_batch_do_not_mix(encoder):
    """In the original, batches beyond one sample shared the first sample's visibility and mixed the views."""
    metas = [meta(), meta(turn=0.7)]
    query, pos, previous = some(2, 36, 16), some(2, 36, 16, seed=1), some(2, 36, 16, seed=2)
    features, shift = some(12, 60, 16, seed=3), torch.tensor([[0.01, 0.02], [-0.03, 0.0]], dtype=torch.float64)
    for prev_bev in (previous, None):
        both = encoder(query, features, [(6, 10)], metas, (6, 6), pos, shift, prev_bev)
        for b in range(2):
            one = slice(b, b + 1)
            alone = encoder(
                query[one],
                features[b * 6 : b * 6 + 6],
                [(6, 10)],
                metas[one],
                (6, 6),
                pos[one],
                shift[one],
                None if prev_bev is None else prev_bev[one],
            )
            torch.testing.assert_close(both[one], alone)


def test_a_view_that_no_camera_sees_passes_through(encoder):
    """Visibility may be empty: the spatial attention then adds the bias of its projection only."""
    attention = encoder.layers[0].attentions[1]
    away = meta()
    away['lidar2img'] = [-np.eye(4)] * 6
    points = pillar_points(2, 2, 4, PC_RANGE, LIKE).abs()
    visibility = find_visibility(*project_points(points, [away]))
    assert sum(visibility.counts) == 0
    query = some(1, 4, 16)
    out = attention(query, some(6, 60, 16), [(6, 10)], visibility)
    torch.testing.assert_close(out, query + attention.output_proj.bias)


def test_rotation_about_the_middle_and_about_a_corner():
    view = torch.arange(16.0).view(1, 1, 4, 4)
    turned = rotate_view(view, [90.0], (2, 2))
    torch.testing.assert_close(turned[0, 0], torch.rot90(view[0, 0]))
    corner = rotate_view(view, [90.0], (4, 4))  # everything leaves, nothing is known
    assert corner.abs().sum() == 0
    half = rotate_view(view, [180.0], (2, 1))  # about the middle of the upper half
    torch.testing.assert_close(half[0, 0, :2], view[0, 0, :2].flip(0, 1))
    assert half[0, 0, 2:].abs().sum() == 0
    both = rotate_view(view.repeat(2, 1, 1, 1), [0.0, 180.0], (2, 2))
    torch.testing.assert_close(both[0], view[0])
    torch.testing.assert_close(both[1, 0], view[0, 0].flip(0, 1))


def test_rotation_takes_the_nearest_cell():
    view = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    turned = rotate_view(view, [7.3], (10, 10))
    known = set(view.flatten().tolist()) | {0.0}
    assert set(turned.flatten().tolist()) <= known  # nothing is interpolated
    assert (turned == 0).any()


@pytest.mark.parametrize(('heading', 'expected'), [(0.0, (0.0, 0.1)), (90.0, (0.2, 0.0)), (180.0, (0.0, -0.1))])
def test_shift_of_a_move_along_global_x(heading, expected):
    """3 m along the global x axis: forward when the car heads there, to the side otherwise."""
    can_bus = np.zeros(18)
    can_bus[0], can_bus[-2] = 3.0, np.radians(heading)
    shift = ego_shift([{'can_bus': can_bus}], (20, 10), (1.5, 1.5))
    np.testing.assert_allclose(shift, [expected], atol=1e-12)
