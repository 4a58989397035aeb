"""What a picture shows, from annotations, a network and a result file."""

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData
from pyquaternion import Quaternion

from vadslim.vad.boxes import to_nuscenes_boxes
from vadslim.vad.pictures.view import View, command, from_results, predicted, truth

CLASSES = ('car', 'pedestrian')
BOXES = np.array([[4.0, 9.0, -1.5, 1.9, 4.5, 1.6, 0.3, 2.0, 1.0], [-3.0, -7.0, -1.7, 0.6, 0.7, 1.8, -2.5, 0.0, 0.5]])
LINE = np.column_stack([np.full(20, 3.0), np.linspace(-20, 20, 20)])


def pose() -> np.ndarray:
    matrix = Quaternion(axis=[0, 0, 1], degrees=70).transformation_matrix
    matrix[:3, 3] = 600, 1100, 1.8
    return matrix


def content() -> dict:
    rows = []
    for name, score, box in zip(CLASSES, (0.9, 0.4), to_nuscenes_boxes(BOXES)):
        future = box.center[:2] + np.arange(1, 7)[:, None] * [0.0, 1.0]
        box.rotate(Quaternion(matrix=pose()))
        box.translate(pose()[:3, 3])
        rows.append(
            {
                'translation': box.center.tolist(),
                'size': box.wlh.tolist(),
                'rotation': box.orientation.elements.tolist(),
                'velocity': box.velocity[:2].tolist(),
                'detection_name': name,
                'detection_score': score,
                'fut_traj': [future.tolist()] * 2,
                'fut_score': [0.8, 0.2],
            }
        )
    lines = [{'cls_name': 'boundary', 'pts': LINE.tolist(), 'score': 0.6}]
    lines.append({'cls_name': 'divider', 'pts': LINE.tolist(), 'score': 0.1})
    plans = [np.full((6, 2), float(i)).tolist() for i in range(3)]
    sections = {'results': rows, 'map_results': lines, 'plan_results': {'plans': plans, 'command': 1}}
    return {name: {'token': part} for name, part in sections.items()}


def of_results(thr=0.3, **changes) -> View:
    return from_results({**content(), **changes}, 'token', pose(), CLASSES, thr, 0.5)


def test_a_result_files_boxes_come_back_into_the_lidar_frame():
    view = of_results()
    wrapped = view.boxes.copy()
    wrapped[:, 6] = BOXES[:, 6] + np.remainder(view.boxes[:, 6] - BOXES[:, 6] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(wrapped, BOXES, atol=1e-9)
    assert view.kinds.tolist() == [0, 1]
    np.testing.assert_allclose(view.futures[:, :, -1], (BOXES[:, None, :2] + (0, 6)).repeat(2, 1))
    assert view.future_scores.tolist() == [[0.8, 0.2]] * 2
    ((kind, points),) = view.map_lines
    assert kind == 2
    np.testing.assert_allclose(points, LINE)
    np.testing.assert_allclose(view.plan, 1.0)


def test_thresholds_and_missing_parts():
    assert of_results(0.5).kinds.tolist() == [0]
    empty = of_results(0.95, map_results={}, plan_results={})
    assert (
        empty.boxes.shape == (0, 9) and len(empty.futures) == 0 and list(empty.map_lines) == [] and empty.plan is None
    )
    no_command = {'token': {**content()['plan_results']['token'], 'command': None}}
    np.testing.assert_allclose(of_results(plan_results=no_command).plan, 2.0)  # straight on


def sample() -> dict:
    attributes = torch.zeros(2, 34)
    attributes[:, 1:12:2] = 1.0  # a metre ahead per step
    attributes[0, 12:18] = torch.tensor([1.0, 1, 1, 0, 0, 0])
    future = torch.tensor([[0.0, 2.0]] * 6)
    return BaseDataElement(
        gt_instances_3d=InstanceData(
            bboxes_3d=torch.tensor(BOXES), labels_3d=torch.tensor([0, 1]), attr_labels=attributes
        ),
        gt_map=InstanceData(labels=torch.tensor([1]), pts=torch.tensor(LINE)[None, None]),
        gt_ego=BaseDataElement(fut_trajs=future, fut_masks=torch.ones(6), fut_cmd=torch.tensor([0.0, 1.0, 0.0])),
        pred_instances_3d=InstanceData(
            bboxes_3d=torch.tensor(BOXES),
            labels_3d=torch.tensor([1, 0]),
            scores_3d=torch.tensor([0.2, 0.7]),
            trajs_3d=torch.ones(2, 6, 12),
            traj_scores_3d=torch.full((2, 6), 0.5),
        ),
        pred_map=InstanceData(
            labels=torch.tensor([0, 2]), pts=torch.tensor(np.stack([LINE] * 2)), scores=torch.tensor([0.9, 0.2])
        ),
        pred_ego=BaseDataElement(fut_preds=torch.stack([torch.full((6, 2), float(i)) for i in range(3)])),
    ).to_dict()


def test_truth_of_a_sample():
    view = truth(sample())
    np.testing.assert_allclose(view.boxes, BOXES)
    np.testing.assert_allclose(view.futures[0, 0, :3], BOXES[0, :2] + [[0, 1], [0, 2], [0, 3]])
    assert np.isnan(view.futures[0, 0, 3:]).all() and np.isnan(view.futures[1]).all()
    np.testing.assert_allclose(view.plan[-1], [0, 12])
    assert view.driven and command(sample()) == 1 and view.map_lines[0][0] == 1


def test_a_frame_without_annotations():
    assert truth({}).plan is None and command({}) is None and len(truth({}).boxes) == 0


def test_prediction_of_a_sample():
    view = predicted(sample(), 0.5, 0.5)
    np.testing.assert_allclose(view.boxes, BOXES[1:])
    np.testing.assert_allclose(view.futures[0, 0, -1], BOXES[1, :2] + 6)
    assert [kind for kind, _ in view.map_lines] == [0]
    np.testing.assert_allclose(view.plan[-1], [6, 6])  # the plan for the command left
    assert not view.driven
