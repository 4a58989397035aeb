"""Motion metric: the original's numbers and hard cases."""

import json

import numpy as np
import pytest
from vad_goldens import DATA, arrays

from vadslim.vad.metrics.motion import MotionTask, match_centres, motion_counts

INPUTS = arrays('golden_metrics_inputs.npz')
GOLDEN = json.loads((DATA / 'golden_metrics.json').read_text())
GT = tuple(INPUTS[f'motion/gt_{key}'] for key in ('boxes', 'labels', 'attr'))


def sample(case):
    """The case as the metric gets it."""
    keys = {'bboxes_3d': 'boxes', 'scores_3d': 'scores', 'labels_3d': 'labels', 'trajs_3d': 'trajs'}
    return {
        'pred_instances_3d': {key: INPUTS[f'motion/case{case}/pred_{name}'] for key, name in keys.items()},
        'gt_instances_3d': dict(zip(('bboxes_3d', 'labels_3d', 'attr_labels'), GT)),
    }


@pytest.mark.parametrize('case', range(3))
def test_equal_to_the_original(case):
    given, golden = sample(case), GOLDEN['motion'][f'case{case}']
    pred = given['pred_instances_3d']
    sure = pred['scores_3d'] > 0.6
    matched = match_centres(pred['bboxes_3d'][sure, :2], pred['labels_3d'][sure], GT[0][:, :2], GT[1])
    assert matched.tolist() == golden['matched_pred_index_per_gt']
    assert MotionTask().score(given) == pytest.approx(golden['metric'], rel=1e-6, abs=1e-6)


def test_summary_equals_the_original():
    task = MotionTask()
    summary = task.summarize([task.score(sample(case)) for case in range(3)])
    golden = dict(GOLDEN['motion_aggregate'])
    for name in ('gt', 'hit', 'fp'):
        for kind in task.classes:
            golden[f'{name}_{kind}'] = sum(
                GOLDEN['motion'][f'case{case}']['metric'][f'{name}_{kind}'] for case in range(3)
            )
    assert summary == pytest.approx(golden, rel=1e-6)


def test_a_perfect_prediction():
    boxes, labels, attrs = GT
    trajs = np.full((9, 6, 12), 50, np.float32)
    trajs[:, 2] = attrs[:, :12]
    summary = MotionTask().summarize([motion_counts(boxes, labels, trajs, *GT)])
    for name in ('car', 'pedestrian'):
        assert summary[f'ADE_{name}'] == summary[f'FDE_{name}'] == summary[f'MR_{name}'] == 0
        assert summary[f'EPA_{name}'] == 1


@pytest.mark.parametrize('num_agents', [0, 9])
@pytest.mark.parametrize('num_predictions', [0, 9])
def test_nothing_predicted_or_nothing_there(num_agents, num_predictions):
    pred = GT[0][:num_predictions], GT[1][:num_predictions], np.zeros((num_predictions, 6, 12), np.float32)
    counts = motion_counts(*pred, *(value[:num_agents] for value in GT))
    assert counts['gt_car'] == (3 if num_agents else 0)
    assert counts['fp_car'] == (4 if num_predictions and not num_agents else 0)
    assert counts['cnt_ade_car'] == (4 if num_predictions and num_agents else 0)
    if not num_agents or not num_predictions:
        assert np.isnan(MotionTask().summarize([counts])['ADE_car'])
