"""Planning metric: the original's numbers and what they mean."""

import json

import numpy as np
import pytest
from mmengine.evaluator import Evaluator
from vad_goldens import DATA, arrays, small_sample

from vadslim.cli import UserError
from vadslim.vad.metrics import PlanningTask, VADNuScenesMetric
from vadslim.vad.metrics.planning import box_collisions, planning_metrics, planning_steps, rasterize

INPUTS = arrays('golden_metrics_inputs.npz')
GOLDEN = json.loads((DATA / 'golden_metrics.json').read_text())
CASES = sorted(key for key in GOLDEN['planning'] if '|' in key)
STRAIGHT = np.stack([np.zeros(6), np.arange(1, 7) * 2.0], -1).astype(np.float32)


@pytest.fixture(scope='module')
def occupancy():
    return np.bitwise_or(*rasterize(INPUTS['motion/gt_boxes'], INPUTS['motion/gt_attr']))


def scene(*agents):
    """Occupancy of standing cars along y, given by x, y and changes of other columns."""
    boxes, attrs = np.zeros((len(agents), 9), np.float32), np.zeros((len(agents), 34), np.float32)
    boxes[:, 3:7] = 2.0, 4.0, 1.5, -np.pi
    attrs[:, 12:18], attrs[:, 27] = 1, 17
    for i, (x, y, *changes) in enumerate(agents):
        boxes[i, :2] = x, y
        for (kind, column), value in changes:
            (boxes if kind == 'box' else attrs)[i, column] = value
    return np.bitwise_or(*rasterize(boxes, attrs))


def test_occupancy_equals_the_original():
    boxes, attrs = INPUTS['motion/gt_boxes'].copy(), INPUTS['motion/gt_attr'].copy()
    vehicles, humans = rasterize(boxes, attrs)
    assert np.array_equal(np.packbits(vehicles, axis=-1), INPUTS['planning/segmentation'])
    assert np.array_equal(np.packbits(humans, axis=-1), INPUTS['planning/pedestrian'])
    assert vehicles.sum((1, 2)).tolist() == GOLDEN['planning_occupancy']['vehicle_cells_per_step']
    assert np.array_equal(boxes, INPUTS['motion/gt_boxes']), 'the boxes were changed'
    assert np.array_equal(attrs, INPUTS['motion/gt_attr'])


@pytest.mark.parametrize('case', CASES)
def test_metrics_equal_the_original(case, occupancy):
    plan, truth = (INPUTS[f'planning/{kind}/{name}'] for kind, name in zip(('plan', 'gt'), case.split('|')))
    steps = planning_steps(plan, truth, occupancy)
    assert steps[1].tolist() == GOLDEN['planning_per_step'][case]['obj_coll']
    assert steps[2].tolist() == GOLDEN['planning_per_step'][case]['obj_box_coll']
    golden = GOLDEN['planning'][case]
    expected = [[golden[f'{name}_{second}s'] for second in (1, 2, 3)] for name in PlanningTask.metrics]
    np.testing.assert_allclose(planning_metrics(plan, truth, occupancy), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('frame', [0, 1])
def test_metrics_of_model_outputs_equal_the_original(frame):
    evaluator = Evaluator([VADNuScenesMetric(tasks=('motion', 'planning'))])
    evaluator.process(data_samples=[small_sample(frame)])
    metrics = evaluator.evaluate(1)
    golden = arrays('golden_tiny_test_small.npz')
    golden = dict(zip(golden[f'frame{frame}/metric_keys'].tolist(), golden[f'frame{frame}/metric_values'].tolist()))
    for name, value in golden.items():
        if name.startswith('plan'):
            assert metrics[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    for name in ('car', 'pedestrian'):
        epa = (golden[f'hit_{name}'] - 0.5 * golden[f'fp_{name}']) / golden[f'gt_{name}']
        assert metrics[f'EPA_{name}'] == pytest.approx(epa, rel=1e-6)
        assert np.isnan(metrics[f'ADE_{name}'])  # nothing was matched


def test_a_perfect_plan_has_no_error(occupancy):
    for name in ('gt_straight', 'gt_hits_car1'):
        truth = INPUTS[f'planning/gt/{name}']
        assert not planning_metrics(truth, truth, occupancy).any()


def test_displacement_is_the_mean_up_to_each_time():
    free = np.zeros((6, 200, 200), np.uint8)
    plan = STRAIGHT + np.arange(6)[:, None] * np.float32([0.6, 0.8])  # 0, 1, ... 5 m off
    np.testing.assert_allclose(planning_metrics(plan, STRAIGHT, free)[0], [0.5, 1.5, 2.5], rtol=1e-6)


def test_collision_is_where_the_car_is():
    ahead = scene((0, 8.0))
    assert box_collisions(STRAIGHT, ahead).tolist() == [False, True, True, True, True, False]
    assert not box_collisions(STRAIGHT + np.float32([5, 0]), ahead).any()
    away = STRAIGHT + np.float32([-8, 0])
    assert planning_metrics(STRAIGHT, away, ahead)[2].tolist() == pytest.approx([0.5, 0.75, 4 / 6])


def test_steps_at_which_the_truth_collides_do_not_count():
    assert not planning_metrics(STRAIGHT, STRAIGHT + np.float32([0.1, 0]), scene((0, 8.0)))[1:].any()


@pytest.mark.parametrize(
    'change', [(('attr', slice(12, 18)), 0), (('attr', 27), 9)], ids=['future unknown', 'a traffic cone']
)
def test_agents_that_are_not_drawn(change):
    assert scene((0, 8.0)).any()
    assert not scene((0, 8.0, change)).any()


def test_agents_move_and_turn():
    moving = scene((0, 10.0, (('attr', slice(0, 12)), [0, 2.0] * 6)))
    rows = [np.flatnonzero(step.any(1)).mean() for step in moving]
    np.testing.assert_allclose(np.diff(rows), -4, atol=1e-6)  # 2 m a step are 4 rows up
    along, across = scene((0, 8.0))[0], scene((0, 8.0, (('box', 6), -np.pi / 2)))[0]
    assert (np.ptp(np.argwhere(along), 0) > np.ptp(np.argwhere(across), 0)).tolist() == [True, False]


def test_agents_outside_the_grid():
    assert not scene((80.0, 0.0), (0.0, -500.0)).any()
    assert scene((50.0, 0.0))[0, :, -1].any()


def test_no_agents():
    empty = np.bitwise_or(*rasterize(np.zeros((0, 9), np.float32), np.zeros((0, 34), np.float32)))
    assert empty.shape == (6, 200, 200)
    assert not empty.any()


def test_only_samples_with_a_whole_future_count():
    good, other, bad = small_sample(0), small_sample(1), small_sample(1)
    other.set_metainfo({'sample_idx': 'other'})
    bad.set_metainfo({'sample_idx': 'bad', 'fut_valid_flag': False})
    bad.gt_ego.fut_trajs.fill_(1e4)

    def evaluate(*samples):
        metric = VADNuScenesMetric(tasks=['planning'])
        metric.process(None, [sample.to_dict() for sample in samples])
        return metric.evaluate(len(samples))

    first, second, both = evaluate(good), evaluate(other), evaluate(good, bad, other)
    names = ('L2', 'obj_col', 'obj_box_col')
    assert list(both) == [f'plan_{name}_{at}{s}s' for at in ('', 'at_') for name in names for s in (1, 2, 3)]
    for name, value in both.items():
        assert value == pytest.approx((first[name] + second[name]) / 2, abs=1e-7)
    assert all(np.isnan(value) for value in evaluate(bad).values())


def test_values_at_the_horizon_are_those_of_the_step():
    task = PlanningTask()
    names = ('straight|gt_hits_car1', 'toward_ped|gt_straight', 'quirk_point_col|gt_hits_car1')
    occupancy = np.bitwise_or(*rasterize(INPUTS['motion/gt_boxes'], INPUTS['motion/gt_attr']))
    pairs = [
        [INPUTS[f'planning/{kind}/{part}'] for kind, part in zip(('plan', 'gt'), name.split('|'))] for name in names
    ]
    metrics = task.summarize([planning_steps(*pair, occupancy) for pair in pairs])
    per_step = [GOLDEN['planning_per_step'][name] for name in names]
    for second in (1, 2, 3):
        step = 2 * second - 1
        offsets = [np.hypot(*(plan - truth)[step]) for plan, truth in pairs]
        assert metrics[f'plan_L2_at_{second}s'] == pytest.approx(np.mean(offsets), rel=1e-6)
        for name, key in (('obj_col', 'obj_coll'), ('obj_box_col', 'obj_box_coll')):
            expected = np.mean([case[key][step] for case in per_step])
            assert metrics[f'plan_{name}_at_{second}s'] == pytest.approx(expected, abs=1e-7)
        both = [GOLDEN['planning'][name][f'plan_L2_{second}s'] for name in names]
        assert metrics[f'plan_L2_{second}s'] == pytest.approx(np.mean(both), rel=1e-6)  # as ever
    assert metrics['plan_obj_col_at_2s'] > 0 and metrics['plan_obj_box_col_at_2s'] > 0


def test_the_plan_of_the_given_command_counts():
    values = []
    for command in range(3):
        sample = small_sample(0)
        sample.gt_ego.fut_cmd[:] = 0
        sample.gt_ego.fut_cmd[command] = 1
        sample.pred_ego.fut_preds[:] = sample.gt_ego.fut_trajs
        sample.pred_ego.fut_preds[command, 0, 0] += command
        values.append(PlanningTask().score(sample.to_dict())[0, 0])
    assert values == pytest.approx([0, 1, 2], abs=1e-5)


def test_unknown_task():
    with pytest.raises(UserError, match="unknown task 'lanes', allowed: detection, map, motion, planning"):
        VADNuScenesMetric(tasks=['lanes'])


def test_prefix_and_task_arguments():
    metric = VADNuScenesMetric(tasks=[{'type': 'motion', 'score_threshold': 2.0}], prefix='val')
    metric.process(None, [small_sample(0).to_dict()])
    metrics = metric.evaluate(1)
    assert metrics['val/EPA_car'] == 0  # nothing is that sure: no hits, no false positives
