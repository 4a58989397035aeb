"""Predicted MACs of detectors against counts of the slim networks themselves."""

import pytest
import torch
from mmdet.registry import MODELS
from vad_random import build_random

from vadslim.analysis import Macs, Params, count, count_params
from vadslim.pruning import StructuredPruner, find_groups, make_structure, resize
from vadslim.pruning.structure import check_kept, removed_positions
from vadslim.vad.example import example_frames, run_example


def slimmed(model, groups, **options):
    pruner = StructuredPruner(**options)
    kept = pruner.plan(model, groups)
    slim = resize(model, make_structure(model, groups, kept))
    return slim, removed_positions(groups, check_kept(groups, kept))


def test_vad():
    """Exact for widths; where numbers of tokens (queries) fall as well, the check corrects the search."""
    model = build_random('VAD_nano_synthetic', {'use_grid_mask': False})
    frames = example_frames((96, 160), 1)
    groups = find_groups(model, frames)
    cost = Macs(model, lambda m: run_example(m, frames))
    slim, removed = slimmed(model, groups, ratio=0.4)
    assert Params(model)(removed) == count_params(slim)
    assert cost(removed) == pytest.approx(cost.check(slim), rel=1e-4)
    found = StructuredPruner(targets='*').search(model, groups, cost, 0.5)
    assert found.scale > 1.01 and found.counted == pytest.approx(found.predicted, rel=0.01)
    assert 0.95 * found.goal < found.counted <= 1.01 * found.goal


def test_resnet_50_and_fpn():
    backbone = MODELS.build(dict(type='ResNet', depth=50, out_indices=(1, 2, 3), norm_eval=True, style='caffe'))
    neck = MODELS.build(dict(type='FPN', in_channels=[512, 1024, 2048], out_channels=64, num_outs=3))
    model = torch.nn.Sequential(backbone, neck).eval()
    images = torch.zeros(1, 3, 64, 96)
    groups = find_groups(model, images)
    cost = Macs(model, lambda m: m(images))
    for ratio in (0.3, 0.7):
        slim, removed = slimmed(model, groups, ratio=ratio)
        assert cost(removed) == count(slim, lambda m: m(images)).macs < (1 - ratio) * cost.dense
        assert Params(model)(removed) == count_params(slim)
