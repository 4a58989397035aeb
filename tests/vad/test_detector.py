"""Temporal state, modes and errors of the detector, on a narrow VAD with all its modules."""

import copy

import pytest
import torch
from mmdet3d.registry import MODELS
from torch import nn
from vad_reference import config

from vadslim.vad.detector import VAD, GridMask, evaluating
from vadslim.vad.example import example_frames, example_queue

HW = (64, 96)


def narrow(width=32):
    """VAD_tiny_stage_2 with all streams ``width`` wide, 10 x 10 cells, 20 objects, 8 vectors of 5 points."""
    cfg = config('VAD_tiny_stage_2').model

    def shrink(value):
        if isinstance(value, dict):
            for key in value:
                if key in ('embed_dims', 'in_channels') and value[key] == 256:
                    value[key] = width
                else:
                    shrink(value[key])
        elif isinstance(value, (list, tuple)):
            for entry in value:
                shrink(entry)

    shrink(cfg)
    cfg.img_backbone.update(depth=18, base_channels=8)
    cfg.img_neck.update(in_channels=[64], out_channels=width)
    cfg.pts_bbox_head.update(bev_h=10, bev_w=10, num_query=20, map_num_vec=8, map_num_pts_per_vec=20)
    cfg.pts_bbox_head.positional_encoding.update(num_feats=width // 2, row_num_embed=10, col_num_embed=10)
    cfg.pts_bbox_head.bbox_coder.max_num = 5
    cfg.pts_bbox_head.map_bbox_coder.max_num = 4
    cfg.data_preprocessor = None
    return cfg


@pytest.fixture(scope='module')
def built():
    torch.manual_seed(0)
    model = MODELS.build(narrow())
    model.pts_bbox_head.init_weights()
    return model


@pytest.fixture
def model(built):
    return copy.deepcopy(built).eval()


def bev(model, frame):
    inputs, samples = frame
    with torch.no_grad():
        return model(inputs, [sample.clone() for sample in samples], mode='tensor')['bev_embed']


def test_no_width_is_written_into_the_code(model):
    """All streams are 32 wide and learn: no tensor of the network is without a gradient."""
    model.train()
    inputs, samples = example_queue(HW)
    losses = model(inputs, samples, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert total.isfinite() and silent == []


def test_the_previous_frame_counts_within_a_scene_only(model):
    first, second = example_frames(HW)
    alone = bev(model, second)
    model.reset_history()
    bev(model, first)
    assert not torch.allclose(bev(model, second), alone)

    model.reset_history()
    bev(model, first)
    second[1][0].set_metainfo({'scene_token': 'another'})
    assert torch.equal(bev(model, second), alone)


def test_turning_to_evaluation_forgets(model):
    first, second = example_frames(HW)
    alone = bev(model, second)
    model.reset_history()
    bev(model, first)
    model.eval()
    assert torch.equal(bev(model, second), alone)


def test_poses_are_absolute_in_prediction_and_relative_in_training(model):
    """A queue in training and the same frames one by one give the same view."""
    frames = example_frames(HW, 3)
    views = [bev(model, frame) for frame in frames]
    inputs, samples = example_queue(HW, 3)
    with torch.no_grad():
        outputs = model.queue_outputs(inputs['img'], samples)
    torch.testing.assert_close(outputs['bev_embed'], views[-1])


def test_metas_are_left_alone_and_no_state_is_saved(model):
    inputs, samples = example_frames(HW, 1)[0]
    before = copy.deepcopy(samples[0].metainfo)
    names = set(model.state_dict())
    with torch.no_grad():
        model(inputs, samples, mode='tensor')
    assert (samples[0].metainfo['can_bus'] == before['can_bus']).all()
    assert set(model.state_dict()) == names


def test_samples_of_a_batch_do_not_mix(model):
    """Without video, two samples at once are the same two one by one."""
    model.video_test_mode = False
    frames = example_frames(HW)
    apart = [model(inputs, samples, mode='tensor') for inputs, samples in frames]
    img = torch.cat([inputs['img'] for inputs, _ in frames])
    together = model({'img': img}, [samples[0] for _, samples in frames], mode='tensor')
    for name, value in together.items():
        dim = {'ego_fut_preds': 0}.get(name, 1)
        torch.testing.assert_close(value, torch.cat([out[name] for out in apart], dim), rtol=1e-4, atol=1e-4)


def test_autocast_trains_and_leaves_the_geometry_alone(model):
    """As ``--amp`` does, here in bfloat16: losses near those in single precision, a gradient everywhere."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    model.train()
    inputs, samples = example_queue(HW)
    true, _ = model.parse_losses(model(inputs, samples, mode='loss'))
    with torch.autocast('cpu', torch.bfloat16):
        total, _ = model.parse_losses(model(inputs, samples, mode='loss'))
    total.backward()
    assert total.item() == pytest.approx(true.item(), rel=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_video_needs_single_frames_one_by_one(model):
    (inputs, samples), _ = example_frames(HW)
    with pytest.raises(ValueError, match='batch size of 1, not 2'):
        model({'img': inputs['img'].repeat(2, 1, 1, 1, 1, 1)}, samples * 2, mode='predict')
    with pytest.raises(ValueError, match='one by one, but 3'):
        model({'img': inputs['img'].repeat(1, 3, 1, 1, 1, 1)}, samples, mode='predict')
    with pytest.raises(ValueError, match='allowed are loss, predict, tensor'):
        model(inputs, samples, mode='train')


def test_the_car_can_be_given_its_history_and_status():
    cfg = narrow()
    cfg.pts_bbox_head.update(ego_his_encoder={}, ego_lcf_feat_idx=[0, 1, 4])
    model = MODELS.build(cfg).eval()
    (inputs, (sample,)), _ = example_frames(HW)
    plans = []
    for speed in (1.0, 5.0):
        sample.gt_ego.lcf_feat[1] = speed
        model.reset_history()
        plans.append(model(inputs, [sample], mode='tensor')['ego_fut_preds'])
    assert plans[0].shape == (1, 3, 6, 2)
    assert not torch.allclose(*plans)


def test_history_is_without_dropout_and_gradients_and_restores_the_modes():
    net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), nn.Dropout())
    net.train()
    net[2].eval()
    with pytest.raises(KeyError), evaluating(net):
        assert not torch.is_grad_enabled() and not any(module.training for module in net.modules())
        raise KeyError
    assert torch.is_grad_enabled()
    assert [module.training for module in net] == [True, True, False]


def test_grid_mask_blackens_the_same_squares_everywhere_in_training_only():
    torch.manual_seed(1)
    mask = GridMask(prob=1.0)
    img = torch.ones(2, 3, 40, 60)
    out = mask(img)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert (out == out[:1, :1]).all()
    assert torch.equal(mask.eval()(img), img)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'pts_bbox_head.bev_hh': 5}, r"unknown keys \['bev_hh'\]"),
        ({'pts_bbox_head.as_two_stage': True}, 'as_two_stage=True: only False'),
        ({'pts_bbox_head.map_query_embed_type': 'none'}, 'allowed are instance_pts, all_pts'),
        ({'pretrained': {'img': 'torchvision://resnet50'}}, 'local file is allowed; nothing is downloaded'),
    ],
)
def test_what_cannot_be_built_is_said(changes, message):
    cfg = narrow()
    for path, value in changes.items():
        target, *keys = cfg, *path.split('.')
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value
    with pytest.raises(ValueError, match=message):
        VAD(**{key: value for key, value in cfg.items() if key != 'type'})


def test_the_backbone_begins_with_a_local_file(tmp_path, model):
    state = {name: torch.full_like(value, 0.25) for name, value in model.img_backbone.state_dict().items()}
    torch.save(state, tmp_path / 'resnet.pth')
    cfg = narrow()
    cfg.pretrained = {'img': str(tmp_path / 'resnet.pth')}
    fresh = MODELS.build(cfg)
    fresh.init_weights()
    assert (fresh.img_backbone.layer2[0].conv1.weight == 0.25).all()
