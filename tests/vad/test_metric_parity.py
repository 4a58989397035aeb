"""Metrics of stored inputs, by the command: equal to the original's, and on other inputs too."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from vad_goldens import DATA, arrays

from vadslim.vad.metric_parity import evaluate_inputs

INPUTS = dict(arrays('golden_metrics_inputs.npz'))
GOLDEN = json.loads((DATA / 'golden_metrics.json').read_text())
TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'misc' / 'parity.py'


def compare(mine, golden, key=''):
    if isinstance(golden, dict):
        assert set(mine) == set(golden), key
        for name, value in golden.items():
            compare(mine[name], value, f'{key}/{name}')
    elif isinstance(golden, list):
        assert len(mine) == len(golden), key
        for i, (a, b) in enumerate(zip(mine, golden)):
            compare(a, b, f'{key}[{i}]')
    elif isinstance(golden, str):
        assert isinstance(mine, str), key
    elif isinstance(golden, int):
        assert mine == golden and type(mine) is type(golden), key
    else:
        assert mine == pytest.approx(golden, rel=1e-6, abs=1e-6), key


def parity(monkeypatch, inputs: Path, out: Path) -> int:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), '--metrics', str(inputs), '--out', str(out)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    return end.value.code


def test_the_command_equals_the_original(monkeypatch, tmp_path):
    assert parity(monkeypatch, DATA / 'golden_metrics_inputs.npz', tmp_path / 'x.json') == 0
    compare(json.loads((tmp_path / 'x.json').read_text()), GOLDEN)


def test_a_damaged_file_is_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / 'inputs.npz').write_bytes((DATA / 'golden_metrics_inputs.npz').read_bytes()[:5000])
    assert parity(monkeypatch, tmp_path / 'inputs.npz', tmp_path / 'x.json') == 2
    assert 'not a whole npz file' in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'x.json').exists()


def keys(start: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in INPUTS.items() if key.startswith(start)}


def test_arrays_of_something_else():
    with pytest.raises(ValueError, match='holds neither'):
        evaluate_inputs({'losses/values': np.zeros(3)})


def test_other_numbers_of_everything():
    inputs = {**keys('motion/gt'), **keys('planning/plan/far'), **keys('planning/gt/gt_straight'), **keys('map/1/')}
    inputs |= {key.replace('case2', 'case7'): value for key, value in keys('motion/case2').items()}
    report = evaluate_inputs(inputs)
    assert set(report['planning']) == {'far|gt_straight', 'invalid_flag'}
    compare(report['planning']['far|gt_straight'], GOLDEN['planning']['far|gt_straight'])
    compare(report['motion'], {'case7': GOLDEN['motion']['case2']})
    assert report['motion_aggregate']['ADE_pedestrian'] == pytest.approx(2.321833372116089)
    divider = report['map']['same_gt_sample_num_flag=True']['per_threshold']['0.5']['divider']
    assert divider['num_gts'] == sum(int(value) == 0 for key, value in inputs.items() if key.endswith('/type'))


def test_nothing_predicted():
    inputs = {**keys('motion/'), **{key: value for key, value in keys('map/').items() if '/gt' in key}}
    for key in list(inputs):
        if '/pred_' in key:
            inputs[key] = inputs[key][:0]
    report = evaluate_inputs(inputs)
    for case in report['motion'].values():
        assert case['matched_pred_index_per_gt'] == [-1] * 9
        assert case['metric']['gt_car'] == 3 and case['metric']['fp_car'] == 0
    assert report['motion_aggregate']['EPA_car'] == 0 and np.isnan(report['motion_aggregate']['ADE_car'])
    results = report['map']['same_gt_sample_num_flag=True']
    assert results['mAP'] == 0
    assert results['per_threshold']['0.5']['boundary'] == {
        'ap': 0.0,
        'num_gts': 9,
        'num_dets': 0,
        'recall': [],
        'precision': [],
    }


def test_no_true_line_of_a_class_and_no_agents():
    inputs = {key: value for key, value in INPUTS.items() if not key.startswith('motion/gt')}
    inputs |= {f'motion/gt_{key}': INPUTS[f'motion/gt_{key}'][:0] for key in ('boxes', 'labels', 'attr')}
    for key, value in keys('map/').items():
        if key.endswith('/type') and value == 1:
            del inputs[key], inputs[key.replace('/type', '/pts')]
    report = evaluate_inputs(inputs)
    assert report['planning_occupancy']['vehicle_cells_per_step'] == [0] * 6
    assert report['motion']['case0']['matched_pred_index_per_gt'] == []
    results, golden = report['map']['same_gt_sample_num_flag=True'], GOLDEN['map']['same_gt_sample_num_flag=True']
    row, expected = results['per_threshold']['1.0'], golden['per_threshold']['1.0']
    assert row['ped_crossing']['num_gts'] == 0 and row['ped_crossing']['ap'] == 0
    assert row['ped_crossing']['num_dets'] == expected['ped_crossing']['num_dets']
    assert row['mAP'] == pytest.approx((expected['divider']['ap'] + expected['boundary']['ap']) / 2, abs=1e-6)
    two = golden['mean_per_class']['divider'] + golden['mean_per_class']['boundary']
    assert results['mAP'] == pytest.approx(two / 3, abs=1e-6)
