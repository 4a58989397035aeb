"""Matching: costs of the original, the cheapest pairs, hard cases."""

import pytest
import torch
from mmdet3d.registry import TASK_UTILS
from vad_goldens import TRAIN_CFG, arrays, tensors, train_outputs, train_sample

from vadslim.vad import assigners
from vadslim.vad.coders import normalize_boxes, normalize_points


def golden(key):
    return torch.tensor(arrays('golden_losses.npz')[key])


@pytest.fixture()
def agents():
    """Matcher, and a prediction that is the ground truth itself under 40 queries, the first ones in order."""
    gt = train_sample().gt_instances_3d
    boxes = gt.bboxes_3d.clone()
    boxes[:, 2] += boxes[:, 5] / 2
    code = torch.randn(40, 10, generator=torch.Generator().manual_seed(0)) * 20
    logits = torch.full((40, 10), -4.0)
    code[: len(boxes)] = normalize_boxes(boxes)
    logits[range(len(boxes)), gt.labels_3d] = 4.0
    return TASK_UTILS.build(TRAIN_CFG['assigner']), logits, code, gt.labels_3d, boxes


@pytest.mark.parametrize(
    ('cost', 'given', 'expected'),
    [
        (assigners.FocalLossCost(0.8), ('det/in/logits', 'det/in/labels'), 'det/FocalLossCost_w0.8'),
        (assigners.BBox3DL1Cost(0.1), ('det/in/bbox_pred', 'det/in/bbox_gt'), 'det/BBox3DL1Cost_w0.1'),
        (
            assigners.BBoxL1Cost(box_format='xywh'),
            ('map/in/boxes_a', 'map/in/boxes_b'),
            'map/BBoxL1Cost_xywh_w1',
        ),
        (assigners.IoUCost(), ('map/in/boxes_a', 'map/in/boxes_b'), 'map/IoUCost_giou_w1'),
    ],
)
def test_costs_equal_the_original(cost, given, expected):
    torch.testing.assert_close(cost(*map(golden, given)), golden(expected), rtol=1e-6, atol=1e-6)


def test_points_cost_equals_the_original():
    points, orderings = golden('map/in/pts_pred'), golden('map/in/gt_shift_pts')
    cost = assigners.OrderedPtsL1Cost(0.4)(points, orderings)
    assert cost.shape == (12, 5, 19)
    torch.testing.assert_close(cost.flatten(1), golden('map/OrderedPtsL1Cost_w0.4'), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('layer', range(3))
def test_assignments_equal_the_original(layer):
    gt, outputs = train_sample(), {k: v[layer, 0] for k, v in train_outputs().items() if 'all' in k}
    boxes = gt.gt_instances_3d.bboxes_3d.clone()
    boxes[:, 2] += boxes[:, 5] / 2
    match = TASK_UTILS.build(TRAIN_CFG['assigner']).assign(
        outputs['all_cls_scores'], outputs['all_bbox_preds'], gt.gt_instances_3d.labels_3d, boxes
    )
    expected = tensors('golden_train.npz', 'assign/assigner/layer')[str(layer)]
    assert torch.equal(match.gt_inds(300), expected)
    match = TASK_UTILS.build(TRAIN_CFG['map_assigner']).assign(
        *(outputs[f'map_all_{key}'] for key in ('cls_scores', 'bbox_preds', 'pts_preds')),
        *(gt.gt_map[key] for key in ('labels', 'bboxes', 'pts')),
    )
    expected = tensors('golden_train.npz', 'assign/map_assigner/layer')[str(layer)]
    assert torch.equal(match.gt_inds(100), expected)
    expected = tensors('golden_train.npz', 'orderindex/map_assigner/layer')[str(layer)]
    assert torch.equal(match.order_index, expected)
    assert torch.equal(match.orders, expected[match.queries, match.gts])


def test_a_perfect_prediction_is_matched_to_itself(agents):
    assigner, *args = agents
    match = assigner.assign(*args)
    assert torch.equal(match.queries, torch.arange(9))
    assert torch.equal(match.gts, torch.arange(9))


def test_permuted_queries_permute_the_assignment(agents):
    assigner, logits, code, labels, boxes = agents
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    plain = assigner.assign(logits, code, labels, boxes).gt_inds(40)
    permuted = assigner.assign(logits[order], code[order], labels, boxes).gt_inds(40)
    assert torch.equal(permuted, plain[order])


def test_velocity_does_not_count_but_may_be_missing(agents):
    assigner, logits, code, labels, boxes = agents
    boxes[:, 7:] = float('nan')
    assert torch.equal(assigner.assign(logits, code, labels, boxes).gts, torch.arange(9))


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_predictions_that_are_no_numbers_are_matched_last(agents, bad):
    assigner, logits, code, labels, boxes = agents
    code[3] = bad
    match = assigner.assign(logits, code, labels, boxes)
    assert 3 not in match.queries
    assert sorted(match.gts.tolist()) == list(range(9))
    match = assigner.assign(logits * bad, code * bad, labels, boxes)
    assert sorted(match.gts.tolist()) == list(range(9))


def test_more_ground_truth_than_queries(agents):
    assigner, logits, code, labels, boxes = agents
    match = assigner.assign(logits[:4], code[:4], labels, boxes)
    assert match.queries.tolist() == [0, 1, 2, 3]
    assert match.gts.tolist() == [0, 1, 2, 3]


def test_no_ground_truth(agents):
    assigner, logits, code, labels, boxes = agents
    assert not assigner.assign(logits, code, labels[:0], boxes[:0]).gt_inds(40).any()
    gt = train_sample().gt_map[:0]
    match = TASK_UTILS.build(TRAIN_CFG['map_assigner']).assign(
        torch.zeros(5, 3), torch.rand(5, 4), torch.rand(5, 20, 2), gt.labels, gt.bboxes, gt.pts
    )
    assert not match.gt_inds(5).any()
    assert match.orders.shape == (0,)


def test_map_vectors_are_matched_in_their_best_ordering():
    gt = train_sample().gt_map
    crossing = int((gt.labels == 1).nonzero()[0])  # closed: its points may start at any corner
    points = normalize_points(gt.pts[:, 0])
    points[crossing] = normalize_points(gt.pts[crossing, 2])
    logits = torch.full((len(gt), 3), -3.0)
    logits[range(len(gt)), gt.labels] = 3.0
    rects = torch.full((len(gt), 4), 0.5)
    match = TASK_UTILS.build(TRAIN_CFG['map_assigner']).assign(logits, rects, points, gt.labels, gt.bboxes, gt.pts)
    assert torch.equal(match.gts, torch.arange(len(gt)))
    assert match.orders[crossing] == 2


def test_resample_keeps_ends_and_halves_steps():
    line = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [3.0, 2.0]]])
    expected = torch.tensor([[[0.0, 0.0], [0.5, 1.0], [1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]])
    torch.testing.assert_close(assigners.resample(line, 5), expected)
    assert assigners.resample(line, 3) is line


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="BBoxL1Cost: box_format is 'yxhw', allowed"):
        assigners.BBoxL1Cost(box_format='yxhw')
    with pytest.raises(ValueError, match="IoUCost: iou_mode is 'diou', allowed"):
        assigners.IoUCost(iou_mode='diou')
    with pytest.raises(ValueError, match='VADHungarianAssigner: iou_cost.weight is 1.0, only 0'):
        TASK_UTILS.build({**TRAIN_CFG['assigner'], 'iou_cost': {'type': 'IoUCost', 'weight': 1.0}})
