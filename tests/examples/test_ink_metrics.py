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


def test_key_points_are_paired_one_to_one():
    """Of two peaks near one end one counts; a peak 3 pixels off and a joint where none is are wrong."""
    heat, target = torch.full((2, 2, 9, 16), 0.1), torch.full((2, 2, 9, 16), 0.2)
    target[0, 0, 4, 2] = target[0, 0, 4, 12] = target[0, 1, 1, 8] = 1
    heat[0, 0, 4, 2], heat[0, 0, 4, 4], heat[0, 0, 4, 5] = 0.9, 0.8, 0.7  # the last one is no peak
    heat[0, 0, 7, 12], heat[0, 1, 2, 9], heat[1, 1, 3, 3] = 0.9, 0.51, 0.9
    samples = []
    for number in range(2):
        samples.append(sample([[0.0]], [[0.0]], 0, keypoints=heat[number]))
        samples[-1]['targets']['keypoints'] = target[number]
    metric = SkeletonMetric()
    metric.process(None, samples)
    metrics = metric.evaluate(2)
    assert metrics['skeleton/ends'] == 2 * 1 / (3 + 2)
    assert metrics['skeleton/joints'] == 2 * 1 / (2 + 1)
