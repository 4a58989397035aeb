"""Plan losses: values and gradients of the original, and what they are for."""

import pytest
import torch
from vad_goldens import arrays, tensors

from vadslim.vad.coders import normalize_points
from vadslim.vad.planning_losses import PlanCollisionLoss, PlanMapBoundLoss, PlanMapDirectionLoss

MAP = ('ego_fut_preds', 'lane_preds', 'lane_score_preds')
AGENTS = ('ego_fut_preds', 'agent_preds', 'agent_fut_preds', 'agent_score_preds', 'agent_fut_cls_preds')
STRAIGHT = torch.tensor([0.0, 1.0]).repeat(1, 6, 1)  # 6 m forward in 3 s


@pytest.mark.parametrize('case', range(6))
@pytest.mark.parametrize(
    ('name', 'loss', 'arguments'),
    [
        ('bound', PlanMapBoundLoss(), MAP),
        ('dir', PlanMapDirectionLoss(loss_weight=0.5), MAP),
        ('col', PlanCollisionLoss(), AGENTS),
    ],
)
def test_equal_to_the_original(case, name, loss, arguments):
    golden = arrays('golden_losses.npz')
    given = tensors('golden_losses.npz', f'plan{case}/in/')
    inputs = [given[key].requires_grad_('score' not in key and 'cls' not in key) for key in arguments]
    before = [x.detach().clone() for x in inputs]
    weight = given['weight'][..., None].repeat(1, 1, 2) if name == 'col' else given['weight']

    value = loss(*inputs, weight=weight)
    value.backward()

    assert value.item() == pytest.approx(float(golden[f'plan{case}/loss_{name}']), rel=1e-6)
    for key, tensor, old in zip(arguments, inputs, before):
        assert torch.equal(tensor, old), f'{key} was changed'
        if tensor.requires_grad:
            expected = torch.tensor(golden[f'plan{case}/grad_{name}/{key}'])
            torch.testing.assert_close(tensor.grad, expected, rtol=1e-6, atol=1e-7)


def vector(points, label, num_points=20):
    """One map vector with a certain class: normalised points (1, 1, P, 2) and scores (1, 1, 3)."""
    start, end = (torch.tensor(p, dtype=torch.float32) for p in points)
    t = torch.linspace(0, 1, num_points)[:, None]
    scores = torch.zeros(1, 1, 3)
    scores[..., label] = 0.9
    return normalize_points(start + t * (end - start))[None, None], scores


def test_boundary_loss_is_the_missing_distance():
    points, scores = vector([(0.4, -1.0), (0.4, 18.0)], label=2)  # a point on every metre
    loss = PlanMapBoundLoss(reduction='none')(STRAIGHT, points, scores)
    torch.testing.assert_close(loss, torch.full((1, 6), 0.6), atol=1e-5, rtol=0)


def test_boundary_loss_ends_where_the_plan_crosses():
    points, scores = vector([(-9.5, 3.5), (9.5, 3.5)], label=2)
    loss = PlanMapBoundLoss(reduction='none')(STRAIGHT, points, scores)
    assert loss[0, 2] > 0  # at 3 m the boundary lies 0.5 m ahead
    assert not loss[0, 3:].any()  # the step to 4 m crosses it


@pytest.mark.parametrize('loss', [PlanMapBoundLoss(), PlanMapDirectionLoss()])
def test_map_losses_ignore_other_classes_and_low_scores(loss):
    points, scores = vector([(0.4, -1.0), (1.4, 18.0)], label=1)
    assert loss(STRAIGHT, points, scores) == 0
    own = torch.zeros(1, 1, 3)
    own[..., loss.cls_idx] = 0.49
    assert loss(STRAIGHT, points, own) == 0
    own[..., loss.cls_idx] = 0.51
    assert loss(STRAIGHT, points, own) > 0


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('degrees', [0.0, 10.0, -35.0])
def test_direction_loss_is_the_angle_to_the_divider(degrees, reverse):
    angle = torch.deg2rad(torch.tensor(degrees))
    ends = [(0.5, 0.0), (0.5, 19.0)]
    points, scores = vector(ends[::-1] if reverse else ends, label=0)
    plan = torch.stack([angle.sin(), angle.cos()]).mul(0.3).repeat(1, 6, 1)
    loss = PlanMapDirectionLoss(reduction='none')(plan, points, scores)
    torch.testing.assert_close(loss, angle.abs().expand(1, 6), atol=1e-5, rtol=0)


def test_direction_loss_is_zero_for_a_standing_car():
    points, scores = vector([(0.5, 0.0), (15.0, 1.0)], label=0)
    assert PlanMapDirectionLoss()(STRAIGHT * 0.15, points, scores) == 0


def collision(label, score, mode_scores=(1.0, 0.0), offset=(1.0, 1.0)):
    """An agent at a constant offset from the plan in its first mode, far away in its second."""
    futures = torch.stack([STRAIGHT, STRAIGHT * 40], 1)[None]
    scores = torch.zeros(1, 1, 10)
    scores[..., label] = score
    args = torch.tensor(offset)[None, None], futures, scores, torch.tensor(mode_scores)[None, None]
    return PlanCollisionLoss(reduction='none')(STRAIGHT, *args)


def test_collision_loss_is_the_missing_distance_along_each_axis():
    torch.testing.assert_close(collision(label=4, score=0.9), torch.tensor([0.5, 2.0]).expand(1, 6, 2))


@pytest.mark.parametrize(
    'change',
    [{'label': 5}, {'score': 0.4}, {'mode_scores': (0.0, 1.0)}, {'offset': (2.9, 2.9)}],
    ids=['no vehicle', 'unsure', 'other mode', 'far'],
)
def test_collision_loss_ignores(change):
    assert not collision(**{'label': 0, 'score': 0.9, **change}).any()


def test_unknown_reduction():
    with pytest.raises(ValueError, match="PlanCollisionLoss: reduction is 'avg', allowed: 'mean'"):
        PlanCollisionLoss(reduction='avg')
