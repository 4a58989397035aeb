"""What operators cost, against sums done by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vadslim.analysis.complexity import count
from vadslim.analysis.operators import SAMPLE_MACS

B, Q, K, D, H = 2, 5, 7, 12, 3
X, Y = torch.zeros(B, Q, D), torch.zeros(B, K, D)


class Call(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def attend(q, k, v):
    """Attention written out."""
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def heads(x):
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


PROJECTIONS = (2 * B * Q + 2 * B * K) * D * D  # queries and output, keys and values
SCORES = B * H * Q * K


@pytest.mark.parametrize(
    'model, inputs, macs, activations',
    [
        (nn.Linear(12, 4), [X], B * Q * 12 * 4, B * Q * 4),
        (
            nn.Conv2d(6, 8, 3, stride=2, dilation=2, groups=2),  # 11 x 15 -> 4 x 6
            [torch.zeros(B, 6, 11, 15)],
            B * 8 * 4 * 6 * 3 * 9,
            B * 8 * 4 * 6,
        ),
        (nn.Conv1d(4, 4, 5, groups=4), [torch.zeros(B, 4, 9)], B * 4 * 5 * 5, B * 4 * 5),
        (nn.Conv3d(2, 3, (1, 2, 2)), [torch.zeros(1, 2, 3, 4, 4)], 3 * 3 * 3 * 3 * 2 * 4, 3 * 3 * 3 * 3),
        (
            nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),  # each of 5 x 4 inputs reaches 9 outputs of 2 channels
            [torch.zeros(B, 6, 5, 4)],
            B * 6 * 5 * 4 * 9 * 2,
            B * 4 * 11 * 9,
        ),
        (Call(attend), [X, Y, Y], 2 * B * Q * K * D, B * Q * K + B * Q * D),
        (Call(F.scaled_dot_product_attention), [heads(X), heads(Y), heads(Y)], 2 * B * Q * K * D, SCORES + B * Q * D),
        (
            Call(lambda q, k: torch.einsum('bqd,bkd->bqk', q, k)),
            [X, Y],
            B * Q * K * D,
            B * Q * K,
        ),
        (nn.Embedding(10, 4), [torch.zeros(3, 5, dtype=torch.long)], 0, 0),
        (nn.Sequential(nn.BatchNorm1d(Q), nn.LayerNorm(D), nn.ReLU(), nn.MaxPool1d(2)), [X], 0, 0),
        # gates of the input and of the state
        (nn.GRU(D, 5), [X], B * Q * 3 * 5 * (D + 5), 2 * B * Q * 3 * 5),
        (nn.LSTM(D, 5), [X], B * Q * 4 * 5 * (D + 5), 2 * B * Q * 4 * 5),
        (
            nn.LSTM(D, 5, 2, bidirectional=True),
            [X],
            2 * B * Q * 4 * 5 * (D + 5 + 10 + 5),
            2 * 4 * B * Q * 4 * 5,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else '',
)
def test_products_by_hand(model, inputs, macs, activations):
    counted = count(model, lambda m: m(*inputs))
    assert (counted.macs, counted.activations, counted.uncounted) == (macs, activations, [])


@pytest.mark.parametrize('weights', [False, True])
def test_attention_has_its_scores_whether_fused_or_not(weights):
    attention = nn.MultiheadAttention(D, H, batch_first=True)
    counted = count(attention, lambda m: m(X, Y, Y, need_weights=weights))
    assert counted.macs == PROJECTIONS + 2 * B * Q * K * D
    assert counted.activations == (3 * B * Q + 2 * B * K) * D + SCORES


def test_deformable_attention_costs_the_same_in_torch_and_in_the_kernel():
    mmcv = pytest.importorskip('mmcv.ops.multi_scale_deform_attn')
    shapes = torch.tensor([[4, 6], [2, 3]])
    value, locations = torch.zeros(B, 24 + 6, H, 4), torch.zeros(B, Q, H, 2, 3, 2)
    weights = torch.zeros(B, Q, H, 2, 3)
    samples = B * Q * H * 2 * 3 * 4

    counted = count(Call(mmcv.multi_scale_deformable_attn_pytorch), lambda m: m(value, shapes, locations, weights))
    assert (counted.macs, counted.sampling_macs, counted.activations) == (0, SAMPLE_MACS * samples, samples)

    class MultiScaleDeformableAttnFunction(torch.autograd.Function):  # there is no compiled one on a CPU
        forward = staticmethod(lambda ctx, value, *_: value)

    starts = torch.tensor([0, 24])
    run = MultiScaleDeformableAttnFunction.apply
    kernel = count(Call(run), lambda m: m(value, shapes, starts, locations, weights, 64))
    assert (kernel.macs, kernel.sampling_macs, kernel.activations) == (0, SAMPLE_MACS * samples, samples)


def test_what_nobody_counts_is_listed():
    counted = count(nn.Bilinear(3, 4, 5), lambda m: m(torch.zeros(2, 3), torch.zeros(2, 4)))
    assert counted.uncounted == ['aten._trilinear (1x)']
