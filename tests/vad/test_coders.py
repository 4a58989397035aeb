"""Decoding: the original's boxes and map vectors, and the way back."""

import math

import pytest
import torch
from mmdet3d.registry import TASK_UTILS
from vad_goldens import PC_RANGE, arrays, tensors, train_sample

from vadslim.vad import coders

BOX_CODER = {
    'type': 'CustomNMSFreeCoder',
    'post_center_range': [-20, -35, -10.0, 20, 35, 10.0],
    'pc_range': PC_RANGE,
    'max_num': 100,
    'voxel_size': [0.15, 0.15, 4],
    'num_classes': 10,
}
MAP_CODER = {
    'type': 'MapNMSFreeCoder',
    'post_center_range': [-20, -35, -20, -35, 20, 35, 20, 35],
    'pc_range': PC_RANGE,
    'max_num': 50,
    'voxel_size': [0.15, 0.15, 4],
    'num_classes': 3,
}


@pytest.mark.parametrize('frame', [0, 1])
def test_boxes_equal_the_original(frame):
    expected = tensors('golden_tiny_test_small.npz', f'frame{frame}/decoded/')
    decoded = TASK_UTILS.build(BOX_CODER).decode(tensors('golden_tiny_test_small.npz', f'frame{frame}/head/'))
    assert len(decoded) == 1
    for name, golden in (('bboxes', 'boxes'), ('scores', 'scores'), ('labels', 'labels'), ('trajs', 'trajs')):
        torch.testing.assert_close(decoded[0][f'{name}_3d'], expected[f'{golden}_3d'], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('frame', [0, 1])
def test_map_vectors_equal_the_original(frame):
    expected = tensors('golden_tiny_test_small.npz', f'frame{frame}/decoded/map_')
    decoded = TASK_UTILS.build(MAP_CODER).decode(tensors('golden_tiny_test_small.npz', f'frame{frame}/head/'))
    for name, golden in (('bboxes', 'boxes'), ('scores', 'scores'), ('labels', 'labels'), ('pts', 'pts')):
        torch.testing.assert_close(decoded[0][name], expected[f'{golden}_3d'], rtol=1e-6, atol=1e-5)


def test_box_codes_are_invertible():
    boxes = train_sample().gt_instances_3d.bboxes_3d
    for columns in (9, 7):
        code = coders.normalize_boxes(boxes[:, :columns])
        assert code.shape == (9, columns + 1)
        torch.testing.assert_close(coders.denormalize_boxes(code), boxes[:, :columns], rtol=1e-6, atol=1e-6)


def test_box_code_of_a_known_box():
    code = coders.normalize_boxes(torch.tensor([1.0, 2.0, 3.0, math.e, math.e**2, 1.0, math.pi / 2, 4.0, 5.0]))
    torch.testing.assert_close(code, torch.tensor([1.0, 2.0, 1.0, 2.0, 3.0, 0.0, 1.0, 0.0, 4.0, 5.0]))


def test_points_and_rectangles_are_invertible():
    gt = train_sample().gt_map
    points = coders.normalize_points(gt.pts[:, 0], PC_RANGE)
    assert points.min() >= 0
    assert points.max() <= 1
    torch.testing.assert_close(coders.denormalize_points(points, PC_RANGE), gt.pts[:, 0], rtol=0, atol=1e-5)
    rects = coders.normalize_rects(gt.bboxes, PC_RANGE)
    torch.testing.assert_close(coders.denormalize_rects(rects, PC_RANGE), gt.bboxes, rtol=0, atol=1e-5)
    whole = coders.normalize_rects(torch.tensor([-15.0, -30.0, 15.0, 30.0]), PC_RANGE)
    assert whole.tolist() == [0.5, 0.5, 1.0, 1.0]


def one_sample(scores, centres=None):
    """Head outputs of queries with one class each, score and centre given."""
    logits = torch.full((1, 1, len(scores), 10), -20.0)
    logits[0, 0, range(len(scores)), range(len(scores))] = torch.tensor(scores).logit()
    boxes = torch.zeros(1, 1, len(scores), 10)
    if centres is not None:
        boxes[0, 0][:, [0, 1, 4]] = torch.tensor(centres)
    trajs = torch.arange(len(scores)).float()[None, None, :, None, None].expand(1, 1, -1, 6, 12)
    modes = trajs[..., 0].logit(eps=0.1)
    return {
        'all_cls_scores': logits,
        'all_bbox_preds': boxes,
        'all_traj_preds': trajs,
        'all_traj_cls_scores': modes,
    }


def decode(outputs, **changes):
    return TASK_UTILS.build({**BOX_CODER, 'max_num': 4, **changes}).decode(outputs)[0]


def test_range_limits_the_gravity_centre_and_z_becomes_the_bottom():
    decoded = decode(one_sample([0.9, 0.8, 0.7], [[0.0, 0.0, 10.0], [20.1, 0.0, 0.0], [0.0, -35.0, -10.0]]), max_num=3)
    assert decoded.labels_3d.tolist() == [0, 2]
    assert decoded.bboxes_3d[:, 2].tolist() == [9.5, -10.5]  # exp(0) = 1 m high
    assert decoded.trajs_3d[:, 0, 0].tolist() == [0, 2]
    torch.testing.assert_close(decoded.traj_scores_3d[:, 0], torch.tensor([0.1, 0.9]))  # of queries 0 and 2


def test_scores_come_best_first():
    decoded = decode(one_sample([0.2, 0.9, 0.5]), max_num=3)
    assert decoded.labels_3d.tolist() == [1, 2, 0]
    torch.testing.assert_close(decoded.scores_3d, torch.tensor([0.9, 0.5, 0.2]))


@pytest.mark.parametrize(
    ('threshold', 'scores', 'kept'),
    [
        (0.3, [0.2, 0.9, 0.5], [1, 2]),
        (0.6, [0.2, 0.5, 0.4], [1]),  # nothing above 0.6: the threshold falls to 0.4374
        (0.6, [0.002, 0.001, 0.003], [2, 0, 1]),  # nor above 0.01: everything
    ],
)
def test_score_threshold(threshold, scores, kept):
    assert decode(one_sample(scores), max_num=3, score_threshold=threshold).labels_3d.tolist() == kept


def test_fewer_pairs_than_max_num():
    outputs = one_sample([0.9, 0.8])
    assert len(decode(outputs, max_num=1000)) == 20
    assert len(decode({key: value[:, :, :0] for key, value in outputs.items()})) == 0


def test_number_of_classes_is_checked():
    with pytest.raises(ValueError, match='VADBoxCoder: num_classes is 7, the scores have 10 classes'):
        decode(one_sample([0.9]), num_classes=7)


def test_outputs_stay_untouched():
    outputs = {
        key: torch.tensor(value) for key, value in arrays('golden_tiny_test_small.npz').items() if 'frame0/head' in key
    }
    outputs = {key.removeprefix('frame0/head/'): value for key, value in outputs.items()}
    before = {key: value.clone() for key, value in outputs.items()}
    TASK_UTILS.build(BOX_CODER).decode(outputs)
    TASK_UTILS.build(MAP_CODER).decode(outputs)
    assert all(torch.equal(outputs[key], before[key]) for key in outputs)


def test_half_precision_is_lifted():
    outputs = {key: value.bfloat16() for key, value in one_sample([0.9, 0.8]).items()}
    assert decode(outputs).bboxes_3d.dtype == torch.float32
