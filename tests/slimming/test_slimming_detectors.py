"""Detectors of MMDetection: their Groups are proven, and the command slims and trains them as they are."""

import copy
from dataclasses import replace

import detectors
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from vadslim.checkpoint import load_checkpoint
from vadslim.hooks.slim_model import without_pretrained
from vadslim.pruning import (
    Index,
    ProofError,
    Structure,
    StructuredPruner,
    check_group,
    find_groups,
    make_structure,
    resize,
)
from vadslim.slimming import main

NETS = ('RETINANET', 'FCOS', 'FASTER_RCNN')
SLIM = 'vad_structured_pruned.pth'


def detector(name):
    """In training mode, as a Runner builds it; with batch norms that have seen something."""
    import mmdet.models  # noqa: F401  registers them

    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(Config(without_pretrained(copy.deepcopy(getattr(detectors, name))))).train()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for tensor, low, high in ((part.weight, 0.5, 1.5), (part.bias, 0, 1), (part.running_var, 0.5, 2)):
                torch.nn.init.uniform_(tensor, low, high)
    return model


IMAGE = torch.randn(1, 3, 64, 96)
PROPOSALS = torch.tensor([[4.0, 4, 40, 50], [0, 0, 95, 63], [30, 20, 44, 30], [-60, -40, 150, 110]])


def run(model):
    """Backbone, neck and heads; those of a two-stage detector look at given boxes (mmcv's NMS knows float32 only)."""
    image = IMAGE.to(next(model.parameters()).dtype)
    if not hasattr(model, 'roi_head'):
        return model(image, mode='tensor')
    features = model.extract_feat(image)
    boxes = [InstanceData(bboxes=PROPOSALS.to(image.dtype))]
    return model.rpn_head(features), model.roi_head.forward(features, boxes, None)


@pytest.fixture(scope='module', params=NETS)
def found(request):
    """(name, model, its Groups)"""
    model = detector(request.param)
    return request.param, model, find_groups(model, run)


def flags(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}, [m.training for m in model.modules()]


def free(groups):
    return [group.name for group in groups if not group.protected]


def test_what_is_found(found):
    name, model, groups = found
    assert (sum(p.requires_grad for p in model.parameters()), model.backbone.bn1.training) == {
        'RETINANET': (154, False),
        'FCOS': (84, False),
        'FASTER_RCNN': (75, False),
    }[name]
    frozen = [group.name for group in groups if group.protected.startswith('frozen')]
    assert frozen and all(n.startswith(('backbone.conv1', 'backbone.layer1')) for n in frozen)
    inside = 'backbone.layer3.1.conv1.channels'  # of a residual block; and its stream, that the neck reads
    stream = 'backbone.layer3.0.conv3.channels' if name == 'RETINANET' else 'backbone.layer3.0.conv2.channels'
    heads = {
        'RETINANET': [f'bbox_head.{part}_convs.{i}.conv.channels' for part in ('cls', 'reg') for i in (0, 1)],
        'FCOS': [f'bbox_head.{part}_convs.{i}.conv.channels' for part in ('cls', 'reg') for i in (0, 1)],
        'FASTER_RCNN': ['rpn_head.rpn_conv.channels', *(f'roi_head.bbox_head.shared_fcs.{i}.neurons' for i in (0, 1))],
    }
    assert {inside, stream, 'neck.lateral_convs.0.conv.channels', *heads[name]} <= {*free(groups)}
    # RoIAlign's output has a number of channels that stands in the config
    assert ('neck.fpn_convs.0.conv.channels' in free(groups)) == (name != 'FASTER_RCNN')
    outputs = [group for group in groups if group.protected.startswith('open: reaches an output')]
    assert outputs and all('head' in group.name for group in outputs)


@pytest.mark.parametrize('ratio', [0.3, 0.7])
def test_slim_equals_masked(found, ratio):
    _, model, groups = found
    kept = StructuredPruner(ratio, importance='Random').plan(model, groups)
    assert sum(len(kept[name]) < group.num_units for name, group in zip(kept, groups)) == len(free(groups))
    before = flags(model)
    check_group(model, groups, kept, run)
    slim = resize(model, make_structure(model, groups, kept))
    assert flags(slim) == flags(model) == before  # what is frozen, which norms are in which mode
    assert flags(slim.eval().train()) == before  # and they stay so
    assert not any(module.training for module in slim.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_a_broken_index_fails_the_proof(found):
    """One Group of each part: its positions in a weight that reads it are those of the next unit."""
    _, model, groups = found
    parts = {}
    for group in groups:
        if not group.protected:
            parts.setdefault('.'.join(group.name.split('.')[:2]), group)
    assert len(parts) >= 6
    for group in list(parts.values())[::2]:
        kept = {group.name: list(range(0, group.num_units, 2))}
        check_group(model, group, kept, run)
        part = next(part for part in group.slices if part.tensor.endswith('weight') and part.dim == 1)
        shifted = replace(part, index=Index.of([*part.index[1:], part.index[0]]))
        broken = replace(group, slices=[shifted if other is part else other for other in group.slices])
        with pytest.raises(ProofError):
            check_group(model, broken, kept, run)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current one, with pictures in it."""
    monkeypatch.chdir(tmp_path)
    detectors.write_pictures(tmp_path / 'data')
    return tmp_path


def write_config(name):
    Config(detectors.config(getattr(detectors, name), 'data')).dump('detector.py')
    return ['detector.py', 'random', '--pruning-ratio', '0.5', '--latency', '0', '--output-dir', 'out']


@pytest.mark.parametrize('name', ['RETINANET', 'FASTER_RCNN'])
def test_a_dry_run(name, folder, capsys):
    assert main([*write_config(name), '--dry-run']) == 0
    said = capsys.readouterr().out
    assert 'one forward of the first batch of test_dataloader' in said and 'dry run: nothing was written' in said
    assert 'neck.lateral_convs.0.conv.channels' in said
    assert not (folder / 'out').exists()


def test_the_whole_command(folder):
    assert main([*write_config('FASTER_RCNN'), '--fine-tune', '--fine-tune-epochs', '1']) == 0
    before, after = (load_checkpoint(f'out/{file}') for file in (SLIM, 'fine_tuned/epoch_1.pth'))
    structure = Structure.load('out/structure.json')
    expected = {
        'backbone.layer1.0.conv1.weight': 8,  # frozen
        'backbone.layer2.0.conv1.weight': 8,
        'neck.lateral_convs.0.conv.weight': 8,
        'rpn_head.rpn_conv.weight': 8,
        'roi_head.bbox_head.shared_fcs.0.weight': 12,
    }
    assert {key: len(before['state_dict'][key]) for key in expected} == expected
    assert after['meta']['structure'] == before['meta']['structure'] == structure.to_dict()
    moved = {key for key, value in after['state_dict'].items() if not torch.equal(value, before['state_dict'][key])}
    assert any(key.startswith('neck') for key in moved) and any('roi_head' in key for key in moved)
    assert not any(key.startswith(('backbone.conv1', 'backbone.layer1')) or 'running' in key for key in moved)
    assert all(value.isfinite().all() for value in after['state_dict'].values())
