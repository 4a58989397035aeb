"""StructureHook in a real Runner: checkpoints tell their structure, and wrong ones are refused by tensor names."""

import logging

import pytest
import torch

from vadslim.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from vadslim.hooks import StructureHook
from vadslim.pruning import Structure, depth_edit, find_groups, make_structure, resize, slice_state_dict
from vadslim.testing import ToyNet, toy_config, toy_frames, toy_runner


@pytest.fixture(scope='module')
def slim(tmp_path_factory):
    """A slim checkpoint, its structure and its config."""
    folder = tmp_path_factory.mktemp('slim')
    model = ToyNet().eval()
    groups = [group for group in find_groups(model, toy_frames()) if not group.protected]
    structure = make_structure(model, groups, {g.name: list(range(g.num_units // 2)) for g in groups})
    state = slice_state_dict(model.state_dict(), structure)
    save_checkpoint({'meta': {'structure': structure.to_dict()}, 'state_dict': state}, folder / 'slim.pth')
    architecture = {'type': 'vadslim.ToyNet'}
    config = {'type': 'vadslim.SlimModel', 'architecture': architecture, 'structure': structure.to_dict()}
    return folder / 'slim.pth', structure, config


def runner_with(folder, **changes):
    return toy_runner(toy_config(folder, epochs=1, **changes))


def test_structure_travels_through_training(slim, tmp_path):
    file, structure, model = slim
    runner_with(tmp_path / 'a', model=model, load_from=str(file)).train()
    saved = load_checkpoint(tmp_path / 'a' / 'epoch_1.pth')
    assert Structure.from_dict(saved['meta']['structure']) == structure
    resumed = {'load_from': str(tmp_path / 'a' / 'epoch_1.pth'), 'resume': True, 'model': model}
    config = toy_config(tmp_path / 'b', epochs=2, **resumed)
    toy_runner(config).train()
    again = load_checkpoint(tmp_path / 'b' / 'epoch_2.pth')
    assert again['meta']['structure'] == saved['meta']['structure']
    plain = resize(ToyNet(), structure)
    plain.load_state_dict(again['state_dict'])  # strict


def test_dense_checkpoints_have_none(tmp_path):
    runner_with(tmp_path).train()
    assert 'structure' not in load_checkpoint(tmp_path / 'epoch_1.pth')['meta']


def test_slim_checkpoint_in_a_dense_model_names_ten_tensors(slim, tmp_path):
    with pytest.raises(CheckpointError) as error:
        runner_with(tmp_path, load_from=str(slim[0])).train()
    text = str(error.value)
    assert 'conv1.weight is (4, 3, 3, 3), the model has (8, 3, 3, 3)' in text
    assert text.count('the model has') == 10
    assert 'more' in text
    assert '\n' not in text


def test_other_units_of_the_same_shape_are_refused(slim, tmp_path):
    file, structure, model = slim
    dense = ToyNet().eval()
    groups = [group for group in find_groups(dense, toy_frames()) if not group.protected]
    halves = {group.name: list(range(group.num_units // 2, group.num_units)) for group in groups}
    other = make_structure(dense, groups, halves)
    model = {**model, 'structure': other.to_dict()}
    with pytest.raises(CheckpointError, match='kept other units of'):
        runner_with(tmp_path, model=model, load_from=str(file)).train()


def test_other_layers_of_the_same_shape_are_refused():
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    first, last = (make_structure(model, [], {}, edits=[depth_edit(model, 'layers', [n])]) for n in (0, 1))
    slim = resize(model, first)
    slim.structure = first
    checkpoint = {'meta': {'structure': first.to_dict()}, 'state_dict': slim.state_dict()}
    StructureHook().after_load_checkpoint(Fake(slim), checkpoint)
    checkpoint['meta']['structure'] = last.to_dict()
    with pytest.raises(CheckpointError, match='kept other layers'):
        StructureHook().after_load_checkpoint(Fake(slim), checkpoint)


class Fake:
    """A Runner with nothing but a model, and a log."""

    logger = logging.getLogger(__name__)

    def __init__(self, model):
        self.model = model


def test_only_declared_exceptions():
    model = ToyNet()
    state = {f'module.{name}': value for name, value in model.state_dict().items()}  # saved by DDP
    StructureHook().after_load_checkpoint(Fake(model), {'state_dict': dict(state)})
    StructureHook().after_load_checkpoint(Fake(model), model.state_dict())  # a bare state dict
    state['module.extra.weight'] = torch.zeros(1)
    del state['module.classifier.weight'], state['module.classifier.bias']
    with pytest.raises(CheckpointError) as error:
        StructureHook(allow_missing=['*.bias']).after_load_checkpoint(Fake(model), {'state_dict': state})
    assert str(error.value).endswith('ToyNet: classifier.weight is missing; extra.weight is not in the model')
    hook = StructureHook(allow_missing=['classifier.*'], allow_unexpected=['extra.*'])
    hook.after_load_checkpoint(Fake(model), {'state_dict': state})
    state['module.bn1.bias'] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r'bn1.bias is \(3,\)'):
        hook.after_load_checkpoint(Fake(model), {'state_dict': state})
    with pytest.raises(TypeError, match='allow_missing'):
        StructureHook(allow_missing='classifier.*')
