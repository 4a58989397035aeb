"""All losses together: the original's numbers, batches, hard ground truth, two ranks."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet3d.registry import HOOKS
from torch import nn
from vad_goldens import HEAD_CFG, TRAIN_CFG, arrays, tensors, train_outputs, train_sample

import vadslim.vad.epoch_hook
import vadslim.vad.map_losses
import vadslim.vad.planning_losses  # noqa: F401, registers the losses
from vadslim.vad.coders import normalize_boxes, normalize_points, normalize_rects
from vadslim.vad.losses import VADCriterion


def criterion(**changes) -> VADCriterion:
    return VADCriterion.from_head_cfg(TRAIN_CFG, **{**HEAD_CFG, **changes})


def stacked(outputs, times):
    """The outputs repeated along the batch axis."""
    return {key: torch.cat([value] * times, 0 if key == 'ego_fut_preds' else 1) for key, value in outputs.items()}


def test_losses_equal_the_original():
    golden = arrays('golden_train.npz')
    losses = criterion()(train_outputs(), [train_sample()])
    assert set(losses) == set(golden['loss_names'].tolist())
    for name, value in zip(golden['loss_names'].tolist(), golden['loss_values']):
        assert losses[name].item() == pytest.approx(float(value), rel=1e-5), name
    assert sum(losses.values()).item() == pytest.approx(float(golden['loss_total']), rel=1e-5)


def test_assignments_equal_the_original():
    agents, vectors = criterion().match(train_outputs(), [train_sample()])
    expected = tensors('golden_train.npz', 'assign/')
    for layer in range(3):
        assert torch.equal(agents[layer][0].gt_inds(300), expected[f'assigner/layer{layer}'])
        assert torch.equal(vectors[layer][0].gt_inds(100), expected[f'map_assigner/layer{layer}'])


def test_it_has_no_state():
    assert not criterion().state_dict()


def test_a_perfect_prediction_has_no_regression_loss():
    sample, outputs = train_sample(), train_outputs()
    gt, vectors = sample.gt_instances_3d, sample.gt_map
    n, m = len(gt), len(vectors)
    boxes = gt.bboxes_3d.clone()
    boxes[:, 2] += boxes[:, 5] / 2
    outputs['all_cls_scores'][:] = -10
    outputs['all_cls_scores'][:, 0, range(n), gt.labels_3d] = 10
    outputs['all_bbox_preds'][:, 0, :n] = normalize_boxes(boxes)
    outputs['all_traj_preds'][:, 0, :n] = 100
    outputs['all_traj_preds'][:, 0, :n, 3] = gt.attr_labels[:, :12]
    outputs['all_traj_cls_scores'][:] = -10
    # without a last step every mode is as good as any, and the first one counts
    whole = gt.attr_labels[:, 17].bool()
    outputs['all_traj_preds'][:, 0, :n, 0] = torch.where(whole[:, None], 100, gt.attr_labels[:, :12])
    outputs['all_traj_cls_scores'][:, 0, range(n), torch.where(whole, 3, 0)] = 10
    outputs['map_all_cls_scores'][:] = -10
    outputs['map_all_cls_scores'][:, 0, range(m), vectors.labels] = 10
    outputs['map_all_pts_preds'][:, 0, :m] = normalize_points(vectors.pts[:, 0])
    outputs['map_all_bbox_preds'][:, 0, :m] = normalize_rects(vectors.bboxes)
    outputs['ego_fut_preds'][0, 2] = sample.gt_ego.fut_trajs
    weighted = {'loss_map_bbox': {'type': 'L1Loss'}, 'loss_map_iou': {'type': 'GIoULoss'}}

    losses = criterion(**weighted)(outputs, [sample])

    for name, value in losses.items():
        if not name.startswith(('loss_plan_bound', 'loss_plan_col', 'loss_plan_dir')):
            assert value < 1e-4, name
    worse = copy.deepcopy(outputs)
    worse['all_bbox_preds'][-1, 0, 0, 0] += 0.9
    assert criterion()(worse, [sample])['loss_bbox'].item() == pytest.approx(0.1 * 0.9 / n, rel=1e-3)


def test_permuted_queries_have_the_same_losses():
    outputs, sample = train_outputs(), train_sample()
    agents = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    vectors = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    permuted = {
        key: value[:, :, vectors if key.startswith('map_') else agents] if '_all_' in f'_{key}' else value
        for key, value in outputs.items()
    }
    plain, other = criterion()(outputs, [sample]), criterion()(permuted, [sample])
    for name in plain:
        torch.testing.assert_close(other[name], plain[name], rtol=1e-4, atol=1e-6)


def test_a_batch_of_equal_samples_has_the_losses_of_one():
    plain = criterion()(train_outputs(), [train_sample()])
    batch = criterion()(stacked(train_outputs(), 3), [train_sample() for _ in range(3)])
    for name in plain:
        torch.testing.assert_close(batch[name], plain[name], rtol=1e-4, atol=1e-6)


def test_a_sample_without_ground_truth_in_the_batch():
    empty = train_sample()
    empty.gt_instances_3d = empty.gt_instances_3d[:0]
    empty.gt_map = empty.gt_map[:0]
    plain = criterion()(train_outputs(), [train_sample()])
    both = criterion()(stacked(train_outputs(), 2), [empty, train_sample()])
    for name in plain:
        if 'cls' not in name and 'plan' not in name:  # both have losses of their own for the empty sample
            torch.testing.assert_close(both[name], plain[name], rtol=1e-4, atol=1e-6)

    outputs = {key: value.requires_grad_() for key, value in train_outputs().items()}
    losses = criterion()(outputs, [empty])
    assert losses['loss_bbox'] == losses['loss_traj'] == losses['loss_map_pts'] == losses['loss_map_dir'] == 0
    sum(losses.values()).backward()
    for key in (
        'all_cls_scores',
        'all_bbox_preds',
        'all_traj_preds',
        'map_all_pts_preds',
        'map_all_bbox_preds',
    ):
        assert outputs[key].grad is not None, f'{key} has no gradient: DDP would wait for it'
        assert outputs[key].grad.isfinite().all()


def test_agents_without_velocity_are_classified_but_not_regressed():
    sample = train_sample()
    sample.gt_instances_3d.bboxes_3d[:, 7:] = float('nan')
    plain, losses = criterion()(train_outputs(), [train_sample()]), criterion()(train_outputs(), [sample])
    assert losses['loss_bbox'] == losses['loss_traj'] == 0
    assert losses['loss_cls'] == plain['loss_cls']
    assert losses['loss_traj_cls'] == plain['loss_traj_cls']


def test_future_steps_beyond_valid_fut_ts_do_not_count():
    outputs, sample = train_outputs(), train_sample()
    outputs['all_traj_preds'][..., 1:, :] = outputs['all_traj_preds'][..., :1, :]  # equal modes: the first one counts
    later = copy.deepcopy(outputs)
    later['all_traj_preds'][..., 6:] += 5
    short, whole = criterion(valid_fut_ts=3), criterion()
    assert short(later, [sample])['loss_traj'] == short(outputs, [sample])['loss_traj'] > 0
    assert whole(later, [sample])['loss_traj'] > whole(outputs, [sample])['loss_traj']


def test_inputs_stay_untouched_and_half_precision_is_lifted():
    outputs, sample = train_outputs(), train_sample()
    before, boxes = copy.deepcopy(outputs), sample.gt_instances_3d.bboxes_3d.clone()
    plain = criterion()(outputs, [sample])
    assert all(torch.equal(outputs[key], before[key]) for key in outputs)
    assert torch.equal(sample.gt_instances_3d.bboxes_3d, boxes)
    half = criterion()({key: value.bfloat16() for key, value in outputs.items()}, [sample])
    assert all(value.dtype == torch.float32 for value in half.values())
    assert half['loss_cls'].item() == pytest.approx(plain['loss_cls'].item(), rel=0.02)


def test_diverged_outputs_give_finite_losses():
    outputs = {key: torch.full_like(value, float('nan')) for key, value in train_outputs().items()}
    assert all(value.isfinite() for value in criterion()(outputs, [train_sample()]).values())


def test_traj_warmup():
    sample, outputs = train_sample(), train_outputs()
    plain = criterion()(outputs, [sample])['loss_traj'].item()
    warm = criterion(use_traj_lr_warmup=True, tot_epoch=60)
    with pytest.raises(RuntimeError, match='needs custom_hooks'):
        warm(outputs, [sample])
    model = nn.Module()
    model.criterion = warm
    hook = HOOKS.build({'type': 'CustomSetEpochInfoHook'})
    values = []
    for epoch in (0, 19.5, 60):
        hook.before_train_epoch(SimpleNamespace(model=model, epoch=epoch))
        values.append(warm(outputs, [sample])['loss_traj'].item() / plain)
    assert values == pytest.approx([0.0, 0.55, 1.1], abs=1e-3)
    with pytest.raises(ValueError, match='use_traj_lr_warmup needs tot_epoch'):
        criterion(use_traj_lr_warmup=True)


@pytest.mark.parametrize('label', [-1, 10])
def test_a_label_that_is_no_class_is_an_error(label):
    sample = train_sample()
    sample.gt_instances_3d.labels_3d[0] = label
    with pytest.raises((RuntimeError, IndexError)):
        criterion()(train_outputs(), [sample])


def test_softmax_scores_are_refused():
    with pytest.raises(ValueError, match='loss_cls, loss_traj_cls and loss_map_cls need use_sigmoid=True'):
        criterion(loss_map_cls={'type': 'CrossEntropyLoss'})
