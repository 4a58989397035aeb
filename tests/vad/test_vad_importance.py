"""Importance on VAD-nano with data of its own: queues of frames, and the losses of the plan alone."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from vadslim.nuscenes_data import converter
from vadslim.pruning import Activation, Hessian, PatternError, PlanningTaylor, Taylor, find_groups
from vadslim.registry import MODELS
from vadslim.slimming.batches import loss_batches

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'VAD' / 'VAD_nano_synthetic.py'


@pytest.fixture(scope='module')
def scene(synthetic_root, tmp_path_factory):
    """Model, Groups that are declared, and a batch of two samples of two frames."""
    folder = tmp_path_factory.mktemp('importance')
    train, _ = [path for path, _ in converter.convert(synthetic_root, folder, synthetic_root, 'v1.0-mini')]
    cfg = Config.fromfile(CONFIG)
    cfg.train_dataloader.dataset.update(data_root=f'{synthetic_root}/', ann_file=str(train))
    cfg.train_dataloader.batch_size = 2
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    groups = [group for group in find_groups(model) if not group.protected]
    return model, groups, list(loss_batches(cfg, 1, workers=0))


def test_the_plan_alone(scene):
    model, groups, batches = scene
    assert batches[0].data['inputs']['img'][0].shape[:2] == (2, 6)  # a history frame and the current one
    before = copy.deepcopy(model.state_dict())
    every, plan = (criterion(model, groups, batches) for criterion in (Taylor(), PlanningTaylor()))
    for scores in (every, plan):
        assert all(np.isfinite(values).all() and (values >= 0).all() for values in scores.values())
    decoder = 'pts_bbox_head.ego_fut_decoder.0'
    # what only the plan reads is worth the same to it as to all; the boxes of an inner layer do nothing for it
    np.testing.assert_allclose(plan[decoder], every[decoder], rtol=1e-4)
    boxes = 'pts_bbox_head.reg_branches.0.0'
    assert plan[boxes].max() < 1e-6 * every[boxes].max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert model.prev_frame_info['prev_bev'] is None


def test_a_loss_that_vad_does_not_have(scene):
    model, groups, batches = scene
    with pytest.raises(PatternError, match="'loss_plan_regg' matches no loss; the nearest is loss_plan_reg"):
        Taylor('loss_plan_regg')(model, groups, batches)


def test_second_order_and_activations_pass_through_grid_sampling(scene):
    """Sampling has no second derivative; heads of deformable attention are read by its projection."""
    model, groups, batches = scene
    heads = [group for group in groups if 'heads' in group.name]
    for criterion in (Hessian(probes=1), Activation()):
        scores = criterion(model, heads, batches)
        assert all((values > 1e-20).all() for values in scores.values())
