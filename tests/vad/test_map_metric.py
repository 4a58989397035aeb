"""Map metric: the original's numbers, a slow reference, and hard cases."""

import json
import pickle

import numpy as np
import pytest
import shapely
from scipy.spatial.distance import cdist
from vad_goldens import DATA, arrays

from vadslim.cli import UserError
from vadslim.nuscenes_data.vector_map import MAP_CLASSES
from vadslim.vad.metric_parity import _map_sample
from vadslim.vad.metrics.map import MapTask, average_precision, chamfer_distances, match, resample

INPUTS = arrays('golden_metrics_inputs.npz')
GOLDEN = json.loads((DATA / 'golden_metrics.json').read_text())
SAMPLES = [_map_sample(INPUTS, i) for i in range(3)]


def straight(x: float, y: float, length: float = 10.0, heading: float = 90.0, points: int = 20) -> np.ndarray:
    """A line from (x, y), degrees counter-clockwise from the x axis."""
    along = np.linspace(0, length, points)[:, None]
    return np.array([x, y]) + along * [np.cos(np.deg2rad(heading)), np.sin(np.deg2rad(heading))]


def score(task, lines, truth, labels=None, scores=None):
    labels = np.zeros(len(lines), int) if labels is None else np.array(labels)
    scores = np.linspace(0.9, 0.1, len(lines)) if scores is None else np.array(scores)
    return task.score_lines(lines, labels, scores, truth)


@pytest.mark.parametrize('flag', [True, False])
def test_equal_to_the_original(flag):
    task = MapTask(same_gt_sample_num=flag)
    scores = [task.score_lines(*sample) for sample in SAMPLES]
    golden, metrics = GOLDEN['map'][f'same_gt_sample_num_flag={flag}'], task.summarize(scores)
    assert metrics['NuscMap_chamfer/mAP'] == pytest.approx(golden['mAP'], abs=1e-6)
    for name, curves in task.curves(scores).items():
        assert metrics[f'NuscMap_chamfer/{name}_AP'] == pytest.approx(golden['mean_per_class'][name], abs=1e-6)
        for threshold, curve in zip(task.thresholds, curves):
            expected = golden['per_threshold'][str(threshold)][name]
            assert metrics[f'NuscMap_chamfer/{name}_AP_thr_{threshold}'] == pytest.approx(expected['ap'], abs=1e-6)
            np.testing.assert_allclose(curve.recall, expected['recall'], atol=1e-6)
            np.testing.assert_allclose(curve.precision, expected['precision'], atol=1e-6)


def test_resampling_is_that_of_shapely():
    rng = np.random.default_rng(0)
    lines = rng.normal(0, 10, (20, 7, 2))
    lines[3, 2:5] = lines[3, 1]  # points that coincide
    lines[4] = lines[4, 0]  # no length at all
    lines[5, -1] = lines[5, 0]  # closed
    for line, points in zip(lines, resample(lines, 100)):
        shape = shapely.linestrings(line)
        at = shapely.line_interpolate_point(shape, np.linspace(0, shape.length, 100))
        np.testing.assert_allclose(points, shapely.get_coordinates(at), atol=1e-12)


def slow_distances(lines, others):
    """As defined: every pair in full, and the surroundings of every line."""
    around = [
        shapely.buffer([shapely.linestrings(line) for line in side], 2.0, cap_style='flat', join_style='mitre')
        for side in (lines, others)
    ]
    result = np.full((len(lines), len(others)), np.inf)
    for i, j in np.ndindex(result.shape):
        if around[0][i].intersects(around[1][j]):
            apart = cdist(lines[i], others[j])
            result[i, j] = (apart.min(0).mean() + apart.min(1).mean()) / 2
    return result


@pytest.mark.parametrize('size', [0.3, 1.0, 4.0, 20.0])
def test_shortcuts_change_nothing(size):
    """Lines of all lengths, near and far, along and across each other."""
    rng = np.random.default_rng(int(10 * size))
    headings = rng.choice([0, 90, 91, 180, 37], 60)
    lines = np.stack([straight(*rng.uniform(-3, 3, 2), size * rng.uniform(0, 1.5), heading) for heading in headings])
    lines[::3] += rng.normal(0, size / 50, lines[::3].shape)
    lines[-1] = lines[-1, 0]
    lines = resample(lines)
    full = slow_distances(lines[:40], lines[40:])
    np.testing.assert_allclose(chamfer_distances(lines[:40], lines[40:]), full, atol=1e-12)
    near = np.where(full <= 1.5, full, np.inf)
    assert 0 < np.isfinite(near).sum() < near.size
    np.testing.assert_allclose(chamfer_distances(lines[:40], lines[40:], 1.5), near, atol=1e-12)


def test_far_pairs_are_not_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr('vadslim.vad.metrics.map.cdist', lambda a, b, kind: seen.append(len(a)) or cdist(a, b, kind))
    lines = resample(np.stack([straight(x, 0) for x in np.arange(-15, 15, 1.0)]))
    chamfer_distances(lines, lines[:1], 1.5)
    assert seen.count(100) < 6  # of 30


def test_lines_one_after_the_other_do_not_match():
    """1 m from end to end, chamfer distance below 1.5 m: but they lie beside nothing of each other."""
    lines = resample(np.stack([straight(0, 0, 0.2), straight(0.5, 0, 0.2)]))
    truth = resample(straight(0, 1.2, 0.2)[None])
    assert np.isinf(chamfer_distances(lines, truth)).tolist() == [[True], [True]]
    assert chamfer_distances(lines[:1], resample(straight(1.0, 0, 0.2)[None]))[0, 0] == pytest.approx(1.0, abs=1e-3)


def test_the_best_prediction_of_a_line_is_the_hit():
    distances = np.array([[0.4, 9], [0.1, 9], [9, 1.2], [9, 9]])
    assert match(distances, np.array([0.9, 0.5, 0.7, 0.8]), 0.5).tolist() == [True, False, False, False]
    assert match(distances, np.array([0.5, 0.9, 0.7, 0.8]), 1.5).tolist() == [False, True, True, False]
    assert not match(np.zeros((2, 0)), np.array([0.5, 0.9]), 0.5).any()


def test_a_line_is_not_matched_to_the_second_nearest():
    """As in the original: a prediction whose nearest line is taken is a false positive, other lines or not."""
    assert match(np.array([[0.1, 0.3], [0.2, 0.4]]), np.array([0.9, 0.8]), 0.5).tolist() == [True, False]


def test_perfect_and_shifted():
    truth = [(0, straight(0, 0)), (1, straight(5, 0, 3, 20)), (2, straight(-9, -20, 40))]
    lines, labels = [line for _, line in truth], [label for label, _ in truth]
    task = MapTask()
    assert set(task.summarize([score(task, lines, truth, labels)]).values()) == {1.0}
    metrics = task.summarize([score(task, [line + [0.7, 0.0] for line in lines], truth, labels)])
    assert metrics['NuscMap_chamfer/divider_AP_thr_0.5'] == 0
    assert metrics['NuscMap_chamfer/divider_AP_thr_1.0'] == 1
    assert metrics['NuscMap_chamfer/divider_AP'] == pytest.approx(2 / 3)
    swapped = task.summarize([score(task, lines, truth, [1, 2, 0])])
    assert swapped['NuscMap_chamfer/mAP'] == 0


def test_exactly_at_the_threshold_is_a_hit():
    task = MapTask()
    assert score(task, [straight(0.5, 0)], [(0, straight(0, 0))]).hits[:, 0].tolist() == [True, True, True]


def test_nothing_predicted_or_nothing_there():
    task = MapTask()
    line, truth = [straight(0, 0)], [(0, straight(0, 0))]
    nothing = score(task, [], [])
    assert set(task.summarize([nothing]).values()) == {0.0}  # as the original counts
    assert task.summarize([score(task, [], truth)])['NuscMap_chamfer/mAP'] == 0
    assert task.summarize([score(task, line, [])])['NuscMap_chamfer/mAP'] == 0
    half = task.summarize([score(task, line, truth), score(task, line, []), score(task, [], truth)])
    assert half['NuscMap_chamfer/divider_AP'] == pytest.approx(0.5)  # one of two lines, before the wrong one
    assert half['NuscMap_chamfer/mAP'] == pytest.approx(0.5 / 3)  # classes without lines count as 0
    assert np.isnan(task.summarize([])['NuscMap_chamfer/mAP'])


def test_what_is_no_line_does_not_exist():
    broken = np.full((20, 2), np.nan)
    result = score(MapTask(), [broken, straight(0, 0)[:1], straight(0, 0)], [(0, straight(0, 0))])
    assert len(result.scores) == 1 and result.hits.all()


def test_samples_are_small_and_do_not_mix():
    """100 predictions go between processes in less than 2 kB; lines of other samples match nothing."""
    task = MapTask()
    rng = np.random.default_rng(0)
    lines = list(rng.normal(0, 9, (100, 20, 2)).astype(np.float32))
    result = score(task, lines, [(0, straight(0, 0))], rng.integers(0, 3, 100), rng.random(100).astype(np.float32))
    assert len(pickle.dumps(result)) < 2000
    there, elsewhere = straight(0, 0), straight(10, 0)
    results = [score(task, [elsewhere], [(0, there)]), score(task, [there], [(0, elsewhere)])]
    assert task.summarize(results)['NuscMap_chamfer/mAP'] == 0


def test_average_precision():
    example = GOLDEN['average_precision_area_example']
    assert average_precision(example['recall'], example['precision']) == pytest.approx(example['ap'])
    assert average_precision([], []) == 0


def test_arguments():
    with pytest.raises(UserError, match='thresholds'):
        MapTask(thresholds=[0.5, -1])
    with pytest.raises(RuntimeError, match='prepare'):
        MapTask().score({})
    assert MapTask().classes == MAP_CLASSES
