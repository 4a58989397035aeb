"""Deformable sampling against a loop over points, without padding, and with heads removed."""

import math

import pytest
import torch

from vadslim.vad.deformable_attention import CustomMSDeformableAttention, MSDeformableAttention3D, deformable_sampling

SHAPES = [(3, 5), (2, 2)]


def bilinear(image, x, y):
    """Value (C,) of image (h, w, C) at (x, y) in [0, 1] from corner to corner; outside is zero."""
    h, w, _ = image.shape
    x, y = x * w - 0.5, y * h - 0.5
    out = torch.zeros_like(image[0, 0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < h and 0 <= column < w:
                out = out + (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return out


def by_hand(value, locations, weights):
    """value (N, H, C), locations (Q, H, L, P, 2), weights (Q, H, L, P) -> (Q, H * C)."""
    rows = []
    for at_query, w_query in zip(locations, weights):
        heads = []
        for head, (at_head, w_head) in enumerate(zip(at_query, w_query)):
            total, start = 0, 0
            for (h, w), at_level, w_level in zip(SHAPES, at_head, w_head):
                image = value[start : start + h * w, head].view(h, w, -1)
                start += h * w
                for (x, y), weight in zip(at_level.tolist(), w_level):
                    total = total + weight * bilinear(image, x, y)
            heads.append(total)
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def some(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('counts', [[4, 4], [5, 3], [0, 8]])
def test_sampling_equals_a_loop_over_points(counts):
    heads, channels, points = 2, 3, 2
    size = sum(h * w for h, w in SHAPES)
    value = some(2, size, heads, channels)
    locations = some(8, heads, 2, points, 2, seed=1) * 1.4 - 0.2  # some points lie outside
    weights = some(8, heads, 2, points, seed=2)
    out = deformable_sampling(value, SHAPES, locations, weights, counts)
    maps = torch.tensor([0] * counts[0] + [1] * counts[1])
    true = torch.cat([by_hand(value[m], locations[i : i + 1], weights[i : i + 1]) for i, m in enumerate(maps)])
    torch.testing.assert_close(out, true)


def test_no_row_at_all_gives_an_empty_result_with_the_right_width():
    value = some(2, 19, 2, 3)
    out = deformable_sampling(value, SHAPES, some(0, 2, 2, 1, 2), some(0, 2, 2, 1), [0, 0])
    assert out.shape == (0, 6)


def test_offsets_are_in_cells_of_their_level():
    attention = CustomMSDeformableAttention(8, num_heads=2, num_levels=2, num_points=1).double()
    attention.init_weights()
    with torch.no_grad():
        attention.sampling_offsets.bias.copy_(torch.tensor([1.0, 2.0] * 4))
    offsets, weights = attention.predict_points(some(1, 3, 8), SHAPES)
    (h0, w0), (h1, w1) = SHAPES
    expected = torch.tensor([[1 / w0, 2 / h0], [1 / w1, 2 / h1]], dtype=torch.float64)
    torch.testing.assert_close(offsets[0, 0, 0, 0, :, 0], expected)
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(1, 3, 2, 1, dtype=torch.float64))


def test_initial_heads_look_around_and_points_farther_and_farther():
    attention = CustomMSDeformableAttention(8, num_heads=4, num_levels=1, num_points=2)
    attention.init_weights()
    bias = attention.sampling_offsets.bias.detach().view(4, 2, 2)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(bias[:, 0], directions)
    torch.testing.assert_close(bias[:, 1], 2 * directions)


def test_points_of_pillars_belong_to_heights_in_turn():
    """With offsets of zero, point p of a head reads the image where height p mod 2 of the pillar is seen."""
    attention = MSDeformableAttention3D(4, num_heads=1, num_levels=1, num_points=4).double()
    torch.nn.init.zeros_(attention.sampling_offsets.weight)
    torch.nn.init.zeros_(attention.sampling_offsets.bias)
    torch.nn.init.zeros_(attention.attention_weights.weight)
    with torch.no_grad():
        attention.attention_weights.bias.copy_(torch.tensor([0.0, 30.0, 0.0, 30.0]))  # points 1 and 3: height 1
    features = some(1, 6, 4)
    at = torch.tensor([[[0.5 / 3, 0.5 / 2], [2.5 / 3, 1.5 / 2]]], dtype=torch.float64)  # centres of cells 0 and 5
    out = attention(some(2, 4), features, [(2, 3)], at, torch.tensor([1]), [1])
    torch.testing.assert_close(out, attention.value_proj(features)[0, 5:6])


def test_a_head_is_removed_by_smaller_parameters_alone():
    attention = CustomMSDeformableAttention(12, num_heads=3, num_levels=1, num_points=2, dropout=0.0).double()
    torch.nn.init.normal_(attention.sampling_offsets.weight, generator=torch.Generator().manual_seed(3))
    arguments = {
        'query': some(1, 5, 12),
        'key': None,
        'value': some(1, 6, 12, seed=4),
        'reference_points': some(1, 5, 2, seed=5),
        'shapes': [(2, 3)],
    }
    with torch.no_grad():
        attention.output_proj.weight[:, 4:8] = 0  # head 1 is not listened to
        expected = attention(**arguments)
        for name, rows in (('value_proj', 4), ('sampling_offsets', 4), ('attention_weights', 2)):
            layer = getattr(attention, name)
            keep = [i for i in range(3 * rows) if not rows <= i < 2 * rows]
            layer.weight = torch.nn.Parameter(layer.weight[keep])
            layer.bias = torch.nn.Parameter(layer.bias[keep])
        keep = [*range(4), *range(8, 12)]
        attention.output_proj.weight = torch.nn.Parameter(attention.output_proj.weight[:, keep])
        attention.num_heads = 2
        torch.testing.assert_close(attention(**arguments), expected)


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match='embed_dims=10 is not divisible by num_heads=4'):
        CustomMSDeformableAttention(10, num_heads=4)
