"""Losses of map vectors and the classification loss: values of the original."""

import pytest
import torch
from vad_goldens import FOCAL, arrays

from vadslim.vad.losses import build_loss
from vadslim.vad.map_losses import PtsDirCosLoss, PtsL1Loss

POINTS = {key: torch.tensor(arrays('golden_losses.npz')[f'map/in/pts_{key}']) for key in ('pred', 'target', 'weight')}


def golden(key):
    return pytest.approx(float(arrays('golden_losses.npz')[key]), rel=1e-6)


def test_points_equal_the_original():
    loss = build_loss({'type': 'PtsL1Loss', 'loss_weight': 0.4})
    assert loss(**POINTS, avg_factor=7.0).item() == golden('map/PtsL1Loss_w0.4_avg7')


def test_directions_equal_the_original():
    loss = build_loss({'type': 'PtsDirCosLoss', 'loss_weight': 0.005})
    steps = [POINTS[key][:, 1:] - POINTS[key][:, :-1] for key in ('pred', 'target')]
    value = loss(*steps, POINTS['weight'][:, :-1, 0], avg_factor=7.0)
    assert value.item() == golden('map/PtsDirCosLoss_w0.005_avg7')


def test_classification_equals_the_original():
    loss = build_loss({**FOCAL, 'loss_weight': 0.8})
    inputs = arrays('golden_losses.npz')
    logits, labels = (torch.tensor(inputs[f'det/in/{key}']) for key in ('logits', 'focal_targets'))
    assert loss(logits, labels, torch.ones(12), avg_factor=5.0).item() == golden('det/FocalLoss_w0.8_avg5')


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_reductions(reduction):
    pred, target = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    value = PtsL1Loss(reduction, loss_weight=2.0)(pred, target)
    assert value.sum() == {'none': 24, 'mean': 2, 'sum': 24}[reduction]
    ahead, back = torch.tensor([0.0, 1.0]).expand(2, 3, 2), torch.tensor([0.0, -3.0]).expand(2, 3, 2)
    value = PtsDirCosLoss(reduction)(ahead, back)
    assert value.shape == ((2, 3) if reduction == 'none' else ())
    assert value.sum().item() == pytest.approx({'none': 12, 'mean': 2, 'sum': 12}[reduction])
    assert PtsDirCosLoss(reduction)(ahead, ahead * 5).sum().item() == pytest.approx(0, abs=1e-6)
