"""The frame on which VAD is counted: its sizes, and that it is the same work each time."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from vadslim.analysis import count, find_example
from vadslim.slimming.network import load_network
from vadslim.vad.counting import image_hw

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'VAD'


@pytest.mark.parametrize(
    'name, hw', [('VAD_tiny_stage_2', (384, 640)), ('VAD_base_e2e', (736, 1280)), ('VAD_nano_synthetic', (96, 160))]
)
def test_image_size_follows_the_test_pipeline(name, hw):
    assert image_hw(Config.fromfile(CONFIGS / f'{name}.py')) == hw


def test_without_a_pipeline():
    assert image_hw(None) == image_hw({'test_dataloader': None}) == (384, 640)


def test_every_run_is_the_same_work_and_leaves_no_trace(monkeypatch):
    network = load_network(CONFIGS / 'VAD_nano_synthetic.py', [], None, 0, 'cpu')
    model = network.model
    example = find_example(model, network.cfg)
    assert example.label.startswith('6 x 96 x 160')
    with torch.no_grad():
        first, second = example.run(model), example.run(model)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert model.prev_frame_info['prev_bev'] is None
    counted = count(model, example.run)
    assert counted == count(model, example.run)
    assert example.fixed_work
    monkeypatch.setattr('vadslim.analysis.complexity.count', None)  # what it would fall back to, were a value needed
    assert counted == example.count(model)
    assert counted.sampling_macs > 0 and counted.uncounted == []
    # the temporal part takes part: without a previous view the map decoder does the same, the encoder as well
    assert counted.modules['pts_bbox_head.transformer.encoder'][1] > 0
    # one convolution by hand: 6 images of 96 x 160, stride 2, 3 -> 16 channels, 7 x 7
    assert counted.modules['img_backbone.conv1'] == (3 * 16 * 49, 6 * 48 * 80 * 16 * 3 * 49)
