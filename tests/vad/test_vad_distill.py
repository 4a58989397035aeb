"""VAD learns from VAD: nothing where the two are one, finite numbers and gradients where the student is slim."""

import copy

import pytest
import torch
from mmengine.config import Config
from vad_random import build_random, some_units

from vadslim.hooks.distill_hook import distill
from vadslim.hooks.distill_loss import DistillLoss, Kept
from vadslim.pruning import depth_edit, find_groups, grid_edit, make_structure, resize
from vadslim.vad.example import example_queue

SMALL = {
    'pts_bbox_head.bev_h': 12,
    'pts_bbox_head.bev_w': 8,
    'pts_bbox_head.positional_encoding.row_num_embed': 12,
    'pts_bbox_head.positional_encoding.col_num_embed': 8,
    'pts_bbox_head.transformer.rotate_center': [4, 6],
    'pts_bbox_head.num_query': 16,
    'pts_bbox_head.map_num_vec': 8,
    'use_grid_mask': True,
}
HEAD = 'pts_bbox_head'


@pytest.fixture(scope='module')
def teacher():
    return build_random('VAD_nano_synthetic', SMALL).requires_grad_(False)


@pytest.fixture(scope='module')
def losses():
    return [DistillLoss(**loss) for loss in Config.fromfile('configs/VAD/VAD_nano_synthetic.py').distillation.losses]


def test_every_config_says_what_to_compare(losses):
    for name in ('VAD_tiny_stage_2', 'VAD_base_e2e'):
        settings = Config.fromfile(f'configs/VAD/{name}.py').distillation
        assert [loss.name for loss in losses] == [loss.name for loss in settings.losses]
    names = ['plan', 'bev', 'cls', 'bbox', 'traj', 'traj_cls', 'map_cls', 'map_pts']
    assert [loss.name for loss in losses] == names


def test_a_student_that_is_the_teacher_has_nothing_to_learn(teacher, losses):
    student = copy.deepcopy(teacher)
    distill(student, teacher, losses, Kept())
    masked = (student.grid_mask, teacher.grid_mask)
    inputs, samples = example_queue((32, 64))
    for training in (False, True):
        for mask in masked:
            mask.training = training
            mask.prob = 1.0
        said = student(inputs, samples, mode='loss')
        terms = {name: value.item() for name, value in said.items() if 'distill' in name}
        assert len(terms) == len(losses)
        assert all(abs(value) < 1e-5 for value in terms.values()), terms
    masked[1].training = False  # the two see different images: it matters
    assert student(inputs, samples, mode='loss')['loss_distill_plan'] > 1e-3


def test_a_slim_student_gets_finite_losses_and_gradients(teacher, losses):
    groups = [group for group in find_groups(teacher) if not group.protected]
    kept = {group.name: some_units(group, 0.4) for group in groups if group.on or group.kind == 'query'}
    edits = [depth_edit(teacher, f'{HEAD}.transformer.decoder.layers', [1]), grid_edit(teacher, 'bev', (6, 4))]
    structure = make_structure(teacher, groups, kept, edits=edits)
    student = resize(teacher, structure).requires_grad_(True)
    student.train()
    distill(student, teacher.eval(), losses, Kept(structure))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    said = student(*example_queue((32, 64)), mode='loss')
    terms = {name: value for name, value in said.items() if 'distill' in name}
    assert all(torch.isfinite(value) and value > 0 for value in terms.values()), terms
    sum(terms.values()).backward()
    for name in ('img_backbone.conv1', f'{HEAD}.bev_embedding', f'{HEAD}.ego_fut_decoder.0'):
        assert student.get_submodule(name).weight.grad.abs().sum() > 0, name
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
