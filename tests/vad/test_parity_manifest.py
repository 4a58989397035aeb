"""Names, shapes, order and trainability of all parameters are those of the published checkpoints."""

import pytest
import torch
from mmdet3d.registry import MODELS
from vad_reference import NAMES, config, stored

from vadslim.checkpoint import load_checkpoint


@pytest.mark.parametrize('name', NAMES)
def test_state_dict_and_frozen_parameters(name):
    manifest = stored('manifests.json.gz')[name.split('_')[1]]
    model = MODELS.build(config(name).model)
    state = [[key, list(value.shape), str(value.dtype).split('.')[1]] for key, value in model.state_dict().items()]
    assert state == manifest['state_dict']
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == set(manifest['requires_grad_false'])
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest['num_parameters']


def test_a_published_checkpoint_loads_strictly(tmp_path):
    manifest = stored('manifests.json.gz')['tiny']['state_dict']
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape, dtype in manifest:
        value = torch.rand(shape, generator=generator)
        state[key] = value.to(getattr(torch, dtype))
    path = tmp_path / 'VAD_tiny.pth'  # as mmcv 1 writes it
    torch.save({'meta': {'mmcv_version': '1.4.0', 'epoch': 12, 'iter': 1000}, 'state_dict': state}, path)

    model = MODELS.build(config('VAD_tiny_stage_2').model)
    model.load_state_dict(load_checkpoint(path)['state_dict'], strict=True)

    key = 'pts_bbox_head.transformer.map_decoder.layers.2.attentions.0.attn.in_proj_weight'
    assert torch.equal(model.state_dict()[key], state[key])


@pytest.mark.parametrize(
    ('name', 'epochs', 'cls', 'bbox', 'map_cls', 'pts', 'plan'),
    [
        ('VAD_tiny_stage_1', 48, 2.0, 0.25, 2.0, 1.0, (0.0, 0.0, 0.0, 0.0)),
        ('VAD_tiny_stage_2', 12, 0.8, 0.1, 0.8, 0.4, (1.0, 1.0, 1.0, 0.5)),
        ('VAD_tiny_e2e', 60, 2.0, 0.25, 2.0, 1.0, (1.0, 1.0, 1.0, 0.5)),
        ('VAD_base_stage_1', 48, 2.0, 0.25, 2.0, 1.0, (0.0, 0.0, 0.0, 0.0)),
        ('VAD_base_stage_2', 12, 0.8, 0.1, 0.8, 0.4, (1.0, 1.0, 1.0, 0.5)),
        ('VAD_base_e2e', 60, 2.0, 0.25, 2.0, 1.0, (1.0, 1.0, 1.0, 0.5)),
    ],
)
def test_the_stages_weigh_and_match_as_published(name, epochs, cls, bbox, map_cls, pts, plan):
    cfg = config(name)
    head, matchers = cfg.model.pts_bbox_head, cfg.model.train_cfg.pts
    assert cfg.train_cfg.max_epochs == epochs
    assert (head.loss_cls.loss_weight, matchers.assigner.cls_cost.weight) == (cls, cls)
    assert (head.loss_bbox.loss_weight, matchers.assigner.reg_cost.weight) == (bbox, bbox)
    assert (head.loss_map_cls.loss_weight, matchers.map_assigner.cls_cost.weight) == (map_cls, map_cls)
    assert (head.loss_map_pts.loss_weight, matchers.map_assigner.pts_cost.weight) == (pts, pts)
    names = ('loss_plan_reg', 'loss_plan_bound', 'loss_plan_col', 'loss_plan_dir')
    assert tuple(head[loss].loss_weight for loss in names) == plan
