"""Real models of transformers, saved in every way: headers tell their names, shapes and numbers of parameters."""

import json

import pytest
import torch
from hf_models import CASES, FILE, build, truth
from llm_files import TINY

from vadslim.analysis.headers import read_headers
from vadslim.analysis.model_structure import analyse

transformers = pytest.importorskip('transformers', minversion='5')
hub = pytest.importorskip('huggingface_hub')


@pytest.fixture(scope='module', autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()  # numbers of special words, which these small vocabularies lack
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope='module', params=['llama', 'tied llama', 'bert', 'vit'])
def model(request):
    config = CASES.get(request.param, {**TINY, 'tie_word_embeddings': True, 'head_dim': 12})
    return build(config)


def test_the_stored_shapes_are_those_of_transformers():
    """If not: python tests/analysis/hf_models.py writes them again."""
    stored = json.loads(FILE.read_text())
    assert list(stored) == list(CASES)
    for name, config in CASES.items():
        assert truth(config) == stored[name], name


def as_safetensors(model, folder):
    model.save_pretrained(folder)


def as_shards(model, folder):
    model.save_pretrained(folder, max_shard_size='5KB')
    assert (folder / 'model.safetensors.index.json').is_file()


def as_state_dict(model, folder):
    torch.save(model.state_dict(), folder / 'pytorch_model.bin')


def as_shards_of_state_dicts(model, folder):
    hub.save_torch_state_dict(model.state_dict(), folder, max_shard_size='5KB', safe_serialization=False)
    assert (folder / 'pytorch_model.bin.index.json').is_file()


def as_whole_model(model, folder):
    torch.save({'model': model, 'tokenizer': object}, folder / 'pruned_model.bin')


def as_whole_model_of_old(model, folder):
    torch.save({'model': model, 'tokenizer': object}, folder / 'a.bin', _use_new_zipfile_serialization=False)


def as_config(model, folder):
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


WAYS = [
    *(as_safetensors, as_shards, as_state_dict, as_shards_of_state_dicts),
    *(as_whole_model, as_whole_model_of_old, as_config),
]


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize('way', WAYS)
def test_every_way_of_saving(model, way, tmp_path):
    way(model, tmp_path)
    headers = read_headers(tmp_path)
    structure = analyse(headers)
    assert structure.total == model.num_parameters()
    assert len(structure.layers) == model.config.num_hidden_layers
    if way in (as_safetensors, as_shards, as_config):  # whose names are those of old, for some kinds of models
        return
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if way is as_shards_of_state_dicts:  # of what is tied, it writes one
        state = {name: shape for name, shape in state.items() if name in headers.tensors}
    assert {name: entry.shape for name, entry in headers.tensors.items()} == state
    if way in (as_whole_model, as_whole_model_of_old):
        assert f'{type(model).__module__}.{type(model).__name__}' in headers.classes
