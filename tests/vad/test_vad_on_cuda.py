"""The network on CUDA: on a real device where there is one, else on one that is claimed (see claimed_cuda.py)."""

import copy
from contextlib import nullcontext

import pytest
import torch
from claimed_cuda import claimed_cuda, cuda_autocast
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from mmdet3d.registry import MODELS
from test_detector import HW, narrow
from torch import nn

from vadslim.vad import deformable_attention
from vadslim.vad.example import example_frames, example_queue

REAL = torch.cuda.is_available()
TOLERANCE = 1e-4 if REAL else 1e-5


class KernelOnTheCPU(torch.autograd.Function):
    """Takes what mmcv's kernel takes, and refuses what it refuses."""

    taken: list[tuple[int, int]] = []

    @staticmethod
    def forward(ctx, value, sizes, starts, locations, weights, step):
        for tensor in (value, sizes, starts, locations, weights):
            assert tensor.is_cuda and tensor.is_contiguous()
        assert value.dtype == locations.dtype == weights.dtype == torch.float32
        assert sizes.dtype == starts.dtype == torch.int64
        assert len(value) % min(len(value), step) == 0
        assert locations.shape[1] > 0, 'no kernel can be launched for no queries'
        shapes = [tuple(size) for size in sizes.tolist()]
        assert starts.tolist() == [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))]
        KernelOnTheCPU.taken.append(locations.shape[:2])
        return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


@pytest.fixture(autouse=True)
def device(monkeypatch):
    if REAL:
        monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    else:
        monkeypatch.setattr(deformable_attention, '_has_cuda_kernel', lambda: True)
        monkeypatch.setattr(deformable_attention, 'MultiScaleDeformableAttnFunction', KernelOnTheCPU)
    with nullcontext() if REAL else claimed_cuda():
        yield


@pytest.fixture(scope='module')
def model():
    """Without anything random."""
    torch.manual_seed(0)
    model = MODELS.build(narrow())
    model.pts_bbox_head.init_weights()
    model.grid_mask = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


@pytest.fixture(scope='module')
def losses(model):
    """On the CPU."""
    inputs, samples = example_queue(HW)
    with torch.no_grad():
        return model.train()(inputs, samples, mode='loss')


def losses_on_cuda(model):
    inputs, samples = example_queue(HW)  # the targets are left on the CPU
    return copy.deepcopy(model).to('cuda:0').train()({'img': inputs['img'].to('cuda:0')}, samples, mode='loss')


def test_losses_are_those_on_the_cpu(model, losses):
    KernelOnTheCPU.taken.clear()
    ours = losses_on_cuda(model)
    assert REAL or len(KernelOnTheCPU.taken) > 30
    assert ours.keys() == losses.keys()
    for name, value in ours.items():
        assert value.is_cuda
        assert value.item() == pytest.approx(losses[name].item(), rel=TOLERANCE, abs=1e-6), name
    if REAL:
        sum(ours.values()).backward()


def test_autocast_by_the_rules_of_cuda(model, losses):
    with torch.autocast('cuda', torch.float16) if REAL else cuda_autocast(torch.float16):
        ours = losses_on_cuda(model)
    assert all(value.dtype == torch.float32 for value in ours.values())
    total, true = (sum(x.item() for x in part.values()) for part in (ours, losses))
    assert total != true and total == pytest.approx(true, rel=0.01)


def test_predictions_frame_by_frame(model):
    on_cuda = copy.deepcopy(model).to('cuda:0').eval()
    model.eval()
    for inputs, (sample,) in example_frames(HW):
        with torch.no_grad():
            (true,) = model(inputs, [sample.clone()], mode='predict')
            (ours,) = on_cuda({'img': inputs['img'].to('cuda:0')}, [sample.clone()], mode='predict')
        for kind in ('pred_instances_3d', 'pred_map', 'pred_ego'):
            for name, value in ours.get(kind).items():
                assert value.is_cuda
                torch.testing.assert_close(value.cpu(), true.get(kind).get(name), rtol=TOLERANCE, atol=1e-4)


def test_a_tensor_in_the_wrong_place_is_found():
    with pytest.raises(RuntimeError, match=r'on cpu|same device'):
        torch.ones(2).to('cuda:0') + torch.ones(2)
