"""The benchmark of the evaluation, in small."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from vadslim.vad.metrics import MapTask, MotionTask, PlanningTask

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks' / 'evaluate_metrics.py'


def test_times_of_all_tasks(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), '--samples', '3'])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0
    for name in ('detection', 'map', 'motion', 'planning'):
        assert any(line.startswith(name) and 's for 3 samples' in line for line in lines), name
    assert lines[-1].startswith('together')


def test_its_samples_are_like_those_of_a_network():
    """Some predictions are right and some are not, in every task: the work is as much as it would be."""
    tool = runpy.run_path(str(TOOL))
    frame, elements = tool['sample'](np.random.default_rng(0), 'token')
    truth = [(element['type'], np.array(element['pts'])) for element in elements]
    task = MapTask()
    pred = frame['pred_map']
    score = task.score_lines(pred['pts'], pred['labels'], pred['scores'], truth)
    assert 0 < score.hits[0].sum() <= score.hits[2].sum() < len(truth) + 1
    motion = MotionTask()
    metrics = motion.summarize([motion.score(frame)])
    assert metrics['hit_car'] > 0 and metrics['fp_car'] > 0
    assert PlanningTask().score(frame)[0].min() > 0
