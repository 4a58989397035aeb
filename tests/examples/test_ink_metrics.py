"""The metric of skeletons, on counts made by hand."""

import pytest
import torch

from vadslim.examples.ink.metrics import SkeletonMetric


def sample(predicted, true, stage, **maps):
    return {
        'maps': {'skeleton': torch.tensor(predicted)[None, None], **maps},
        'targets': {
            'skeleton': torch.tensor(true)[None, None],
            **{name: torch.zeros_like(m) for name, m in maps.items()},
        },
        'stage': torch.tensor(stage),
    }


def test_counts():
    metric = SkeletonMetric()
    metric.process(None, [sample([0.9, 0.6, 0.5, 0.1], [1.0, 0.0, 1.0, 1.0], 0)])  # 1 found, 2 predicted, 3 true
    metric.process(None, [sample([0.9, 0.9, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], 4)])  # 2, 2, 2
    metrics = metric.evaluate(2)
    assert metrics == {
        'skeleton/f1': 2 * 3 / 9,
        'skeleton/precision': 3 / 4,
        'skeleton/recall': 3 / 5,
        'skeleton/iou': 3 / 6,
        'skeleton/f1_stage_0': 2 / 5,
        'skeleton/f1_stage_4': 1,
    }


def test_errors_on_the_skeleton():
    """Angles between lines: a tangent map of (-1, 0) is 90 degrees from (1, 0); half of what the maps turn by."""
    one = sample([1.0, 1.0], [1.0, 0.0], 0, tangent=torch.zeros(2, 1, 2), width=torch.full((1, 1, 2), 3.0))
    one['targets']['tangent'][0] = 1
    one['maps']['tangent'][:, 0, 0] = torch.tensor([0.0, -0.2])
    two = sample([0.0], [1.0], 0, tangent=torch.tensor([[[-0.5]], [[0.0]]]), width=torch.full((1, 1, 1), 1.0))
    two['targets']['tangent'][0] = 1
    metric = SkeletonMetric()
    metric.process(None, [one, two])
    metrics = metric.evaluate(2)
    assert metrics['skeleton/tangent'] == pytest.approx((45 + 90) / 2)
    assert metrics['skeleton/width'] == pytest.approx((3 + 1) / 2)
    assert 'skeleton/offset' not in metrics and 'skeleton/f1_stage_0' not in metrics


def test_nothing_found():
    metric = SkeletonMetric(threshold=0.9)
    metric.process(None, [sample([0.5], [0.0], 0)])
    assert set(metric.evaluate(1).values()) == {0}
