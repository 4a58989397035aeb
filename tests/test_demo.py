"""The parts of the demonstration that need no training."""

import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from vadslim import demo
from vadslim.cli import UserError
from vadslim.options import load_config, merge_texts


def sample(command: int, length: float, plan: float) -> dict:
    """A frame in which the car drives straight on, and a network plans a path of another length."""
    line = torch.stack([torch.full((20,), 2.0), torch.linspace(-30, 30, 20)], -1)
    steps = torch.zeros(3, 6, 2)
    steps[command, :, 1] = plan / 6
    return {
        'fut_valid_flag': True,
        'gt_ego': {'fut_trajs': torch.tensor([[0.0, length / 6]] * 6), 'fut_cmd': torch.eye(3)[command]},
        'gt_map': {'labels': torch.tensor([0]), 'pts': line[None, None]},
        'gt_instances_3d': {'bboxes_3d': torch.tensor([[4.0, 9.0, -1.0, 2.0, 4.5, 1.6, -3.14, 0.0, 0.0]])},
        'pred_ego': {'fut_preds': steps},
    }


def test_plan_is_the_one_for_the_command():
    path = demo.plan_of(sample(1, 10.0, 12.0))
    np.testing.assert_allclose(path[-1], [0.0, 12.0], rtol=1e-6)


def test_picture_is_drawn(tmp_path):
    import cv2

    frames = [sample(command, 10.0 + command, 12.0) for command in (0, 1, 2, 2)]
    others = [sample(command, 10.0 + command, 3.0) for command in (0, 1, 2, 2)]
    demo.draw({'dense': frames, 'slim': others}, tmp_path / 'plans.png')
    picture = cv2.imread(str(tmp_path / 'plans.png'))
    colors = {tuple(color) for color in picture.reshape(-1, 3)[:, ::-1].tolist()}
    assert {(0x1F, 0x78, 0xB4), (0xE3, 0x1A, 0x1C), (0x8A, 0x94, 0xA6)} <= colors  # both plans, the divider


@pytest.mark.parametrize(
    ('line', 'shown'),
    [
        (
            '11/22 - mmengine - INFO - Epoch(train)  [3][80/80]  eta: 0:21:01  loss: 15.8  d0: 0.7',
            'eta: 0:21:01',
        ),
        ('11/22 - mmengine - INFO - paramwise_options', ''),
        ('rendering keyframes', 'rendering keyframes'),
    ],
)
def test_progress_of_a_line(line, shown):
    assert shown in demo.progress(line) if shown else demo.progress(line) == ''


def test_a_step_that_fails_ends_the_demonstration(tmp_path):
    script = tmp_path / 'fails.py'
    script.write_text('import sys; print("working"); sys.exit("error: no such data")')
    steps = demo.Steps(Console(file=sys.stderr), tmp_path / 'logs', total=1)
    with pytest.raises(UserError, match=r'exit code 1: error: no such data \(whole output: .*1-try.log'):
        steps('try: something', str(script))
    assert 'working' in (tmp_path / 'logs' / '1-try.log').read_text()


def test_options_of_the_short_training():
    """They are options of the config; warm-up and cosine go by steps."""
    cfg = load_config(demo.ROOT / demo.CONFIG)
    merge_texts(cfg, ['train_cfg.max_epochs=2', *demo.SHORT])
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.by_epoch, warm_up.end) == (False, 40)
    assert cosine.by_epoch and cosine.convert_to_iter_based is True
