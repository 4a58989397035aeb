"""SlimModel: an ordinary model with smaller tensors, built from a config under any scope, fetching nothing."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from vadslim.checkpoint import CheckpointError, save_checkpoint
from vadslim.hooks.slim_model import without_pretrained
from vadslim.pruning import Structure, StructureError, find_groups, make_structure, resize
from vadslim.testing import ToyNet, toy_frames


def slim_structure(model, ratio=0.5):
    """Keep the last units of every Group that may be pruned."""
    model.eval()
    groups = [group for group in find_groups(model, toy_frames()) if not group.protected]
    kept = {g.name: list(range(int(g.num_units * ratio), g.num_units)) for g in groups if g.num_units > 3}
    return make_structure(model, groups, kept)


@pytest.fixture(scope='module')
def structure():
    return slim_structure(ToyNet())


@pytest.fixture(params=['file', 'dict', 'object', 'checkpoint'])
def source(request, structure, tmp_path):
    if request.param == 'dict':
        return structure.to_dict()
    if request.param == 'object':
        return structure
    if request.param == 'checkpoint':
        save_checkpoint({'meta': {'structure': structure.to_dict()}, 'state_dict': {}}, tmp_path / 'slim.pth')
        return str(tmp_path / 'slim.pth')
    structure.save(tmp_path / 'structure.json')
    return str(tmp_path / 'structure.json')


def test_builds_an_ordinary_slim_model(source, structure):
    config = {'type': 'vadslim.SlimModel', 'architecture': {'type': 'vadslim.ToyNet'}, 'structure': source}
    given = copy.deepcopy(config)
    model = MODELS.build(config)
    assert config == given
    assert type(model) is ToyNet
    assert model.structure == structure
    dense, wanted = ToyNet(), resize(ToyNet(), structure)
    assert list(model.state_dict()) == list(dense.state_dict())
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in wanted.state_dict().items()}
    assert model.conv1.weight.shape[0] == 4
    assert model.ffn[0].weight.shape[0] == 16
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()  # the Runner's call
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(toy_frames()).sum().backward()
    copy.deepcopy(model)
    pickle.dumps(model)


def test_under_the_scope_of_mmdet3d(structure):
    pytest.importorskip('mmdet3d')
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        model = MODELS.build(
            {
                'type': 'vadslim.SlimModel',
                'architecture': {'type': 'vadslim.ToyNet'},
                'structure': structure.to_dict(),
                'data_preprocessor': {'type': 'mmengine.ImgDataPreprocessor', 'mean': [1.0] * 3, 'std': [2.0] * 3},
            }
        )
    assert model.structure == structure
    assert type(model.data_preprocessor).__name__ == 'ImgDataPreprocessor'


def test_pretrained_weights_are_never_fetched(structure):
    architecture = {
        'type': 'vadslim.ToyNet',
        'pretrained': 'torchvision://resnet50',  # ToyNet refuses to be built with it
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'https://nowhere/x.pth'},
    }
    model = MODELS.build({'type': 'vadslim.SlimModel', 'architecture': architecture, 'structure': structure.to_dict()})
    assert model.init_cfg is None
    nested = {'neck': [{'init_cfg': [{'type': 'Pretrained', 'checkpoint': 'x'}, {'type': 'Xavier'}]}]}
    assert without_pretrained(nested) == {'neck': [{'init_cfg': [{'type': 'Xavier'}]}]}


def test_wrong_structures_are_named(structure, tmp_path):
    def build(source, **architecture):
        architecture = {'type': 'vadslim.ToyNet', **architecture}
        return MODELS.build({'type': 'vadslim.SlimModel', 'architecture': architecture, 'structure': source})

    with pytest.raises(StructureError, match='not the dense one of this structure: ffn.0.weight'):
        build(structure, hidden=24)
    structure.save(tmp_path / 'structure.json')
    with pytest.raises(StructureError, match='structure.json is not one of ToyNet in this config: .*ffn.0.weight'):
        build(str(tmp_path / 'structure.json'), hidden=24)
    with pytest.raises(StructureError, match='nowhere.json'):
        build(str(tmp_path / 'nowhere.json'))
    save_checkpoint({'state_dict': {}}, tmp_path / 'dense.pth')
    with pytest.raises(CheckpointError, match='not a slim checkpoint'):
        build(str(tmp_path / 'dense.pth'))
    with pytest.raises(StructureError):
        build({'format': 1})
    assert Structure.from_dict(structure.to_dict()) == structure
