"""tools/analysis_tools/visualization.py on a synthetic data set: pictures, video, choices and mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from vadslim import cli, visualize
from vadslim.checkpoint import load_info
from vadslim.vad.datasets import infos as numbers


@pytest.fixture(scope='module')
def results(nano_config, tmp_path_factory) -> Path:
    """A result file in which a car stands ten metres ahead in each frame and the plan goes there."""
    content = {'meta': {'format': 'vadslim results 1'}, 'results': {}, 'map_results': {}, 'plan_results': {}}
    for info in load_info(nano_config.parent / 'both.pkl')['infos']:
        token, ahead = info['token'], numbers.lidar2global(info) @ [0, 10, -1, 1]
        box = dict(detection_name='car', detection_score=0.8, size=[1.9, 4.5, 1.6], rotation=[1.0, 0, 0, 0])
        content['results'][token] = [{**box, 'translation': ahead[:3].tolist(), 'velocity': [0.0, 0.0]}]
        line = [[3.0, float(y)] for y in range(-20, 21)]
        content['map_results'][token] = [{'cls_name': 'boundary', 'pts': line, 'score': 0.9}]
        plans = np.tile(np.linspace(1, 9, 6)[:, None] * [0, 1], (3, 1, 1))
        content['plan_results'][token] = {'plans': plans.tolist(), 'command': 2}
    path = tmp_path_factory.mktemp('results') / 'results_nusc.json'
    path.write_text(json.dumps(content))
    return path


def run(config: Path, results: Path, out: Path, *more) -> int:
    base = ['--result-path', results, '--save-path', out, '--config', config, '--dpi', 40]
    return cli.run(visualize.main, [str(part) for part in [*base, *more]])


def error_of(capsys, *arguments) -> str:
    assert run(*arguments) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith('error: '))
    return line


def changed(results: Path, folder: Path, change) -> Path:
    content = json.loads(results.read_text())
    change(content)
    path = folder / 'changed.json'
    path.write_text(json.dumps(content))
    return path


def test_pictures_and_video(nano_config, results, tmp_path, capsys):
    for _ in range(2):  # the second run finds the output of the first
        assert run(nano_config, results, tmp_path, '--video', '--interval', 5) == 0
    assert 'written: 5 pictures and vis.mp4' in capsys.readouterr().err
    pictures = sorted(path for path in tmp_path.iterdir() if path.suffix == '.png')
    assert [path.name[:8] for path in pictures] == ['0001_000', '0001_005', '0001_010', '0002_003', '0002_008']
    assert len(list(tmp_path.iterdir())) == 6  # nothing is left over
    shapes = {cv2.imread(str(path)).shape for path in pictures}
    film = cv2.VideoCapture(str(tmp_path / 'vis.mp4'))
    frames = []
    while (read := film.read())[0]:
        frames.append(read[1])
    assert len(frames) == 5 and {frame.shape for frame in frames} == shapes
    for path, frame in zip(pictures, frames):  # compression changes little
        assert abs(cv2.imread(str(path)).astype(int) - frame).mean() < 6


def test_choices(nano_config, results, tmp_path):
    token = json.loads(results.read_text())['results']
    token = list(token)[-1]
    assert run(nano_config, results, tmp_path / 'a', '--frames', token[:12], '--format', 'jpg') == 0
    assert [path.name.endswith(f'{token}.jpg') for path in (tmp_path / 'a').iterdir()] == [True]
    assert run(nano_config, results, tmp_path / 'b', '--scenes', 2, '--max-frames', 2) == 0
    assert sorted(path.name[:8] for path in (tmp_path / 'b').iterdir()) == ['0002_000', '0002_001']


def test_compare_is_a_panel_wider(nano_config, results, tmp_path, capsys):
    def lose(content):
        for section in ('results', 'map_results', 'plan_results'):
            for token in list(content[section])[2:]:
                del content[section][token]

    other = changed(results, tmp_path, lose)
    assert run(nano_config, results, tmp_path / 'one', '--max-frames', 1) == 0
    assert run(nano_config, results, tmp_path / 'two', '--compare', other, '--max-frames', 3) == 0
    assert 'changed.json lacks 22 of 24 frames' in capsys.readouterr().err
    (one,) = (tmp_path / 'one').iterdir()
    two = tmp_path / 'two'
    assert len(list(two.iterdir())) == 2
    assert cv2.imread(str(two / one.name)).shape[1] > cv2.imread(str(one)).shape[1] + 50


def test_names_of_result_files():
    assert visualize.default_names(['a/results_nusc.json']) == ['prediction']
    assert visualize.default_names(['x/dense/results_nusc.json', 'x/slim/results_nusc.json']) == ['dense', 'slim']
    assert visualize.default_names(['a.json', 'a.json']) == ['first', 'second']


def test_mistakes(nano_config, results, tmp_path, capsys):
    def strangers(content):
        content['results'] = {f'x{token}': rows for token, rows in content['results'].items()}
        content['map_results'] = content['plan_results'] = {}

    def nothing(content):
        content.update(results={}, map_results={}, plan_results={})

    out = tmp_path / 'out'
    file = tmp_path / 'file'
    file.write_text('{')
    assert 'none of its 24 frames is among the 24' in error_of(
        capsys, nano_config, changed(results, tmp_path, strangers), out
    )
    assert 'holds no frame' in error_of(capsys, nano_config, changed(results, tmp_path, nothing), out)
    assert 'no folder to write into' in error_of(capsys, nano_config, results, file / 'x')
    assert str(file) in error_of(capsys, nano_config, file, out)
    assert 'cannot be read' in error_of(capsys, nano_config, tmp_path / 'none.json', out)
    assert 'there are scenes 1 to 2' in error_of(capsys, nano_config, results, out, '--scenes', 7)
    assert '--frames zzz: no such frame' in error_of(capsys, nano_config, results, out, '--frames', 'zzz')
    assert '3 names for 1 result files' in error_of(capsys, nano_config, results, out, '--names', 'a', 'b', 'c')
    assert '1.5 is not a score' in error_of(capsys, nano_config, results, out, '--score-thr', 1.5)
    toy = tmp_path / 'toy.py'
    toy.write_text("test_dataloader = dict(dataset=dict(type='mmdet.CocoDataset', lazy_init=True))")
    assert 'pictures are drawn of VADNuScenesDataset' in error_of(capsys, toy, results, out)
    assert not list(out.iterdir())


def test_ctrl_c_leaves_whole_files_only(nano_config, results, tmp_path, capsys, monkeypatch):
    draw = visualize.draw

    def stop_at_the_third(dataset, shot, *rest):
        if shot.frame == 2:
            raise KeyboardInterrupt
        return draw(dataset, shot, *rest)

    monkeypatch.setattr(visualize, 'draw', stop_at_the_third)
    assert run(nano_config, results, tmp_path, '--video') == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == 'interrupted'
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == ['0001_000', '0001_001']  # and no half video


def test_the_tool_runs():
    tool = Path(__file__).resolve().parents[1] / 'tools' / 'analysis_tools' / 'visualization.py'
    done = subprocess.run([sys.executable, str(tool)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('error: the following arguments are required: --result-path, --save-path')
