"""What the files that other tests read hold, as the headers say it; that they take no disk."""

import json
import sys

import pytest
from llm_files import (
    LLAMA_3_8B,
    SHORTGPT_7,
    TINY,
    layer_shapes,
    llama_shapes,
    write_llama,
    write_pickled,
    write_slicegpt,
)

from vadslim.analysis.headers import read_headers


def shapes(path):
    return {name: entry.shape for name, entry in read_headers(path).tensors.items()}


def total(path):
    return sum(entry.count for entry in read_headers(path).tensors.values())


@pytest.mark.parametrize('shards', [1, 4])
def test_llama_3_8b(tmp_path, shards):
    folder = write_llama(tmp_path / 'llama', shards=shards)
    headers = read_headers(folder)
    assert total(folder) == 8_030_261_248
    assert len(headers.files) == (1 if shards == 1 else 5) and headers.config['num_hidden_layers'] == 32
    per_layer = [entry.count for name, entry in headers.tensors.items() if name.startswith('model.layers.7.')]
    assert sum(per_layer) == 218_112_000
    assert sum(file.stat().st_size for file in folder.iterdir()) > 16_060_522_496
    assert sum(file.stat().st_blocks * 512 for file in folder.iterdir()) < 500_000


def test_pruned_llamas(tmp_path):
    short = write_llama(tmp_path / 'short', layers=SHORTGPT_7)
    assert total(short) == 6_503_477_248
    assert read_headers(short).config['num_hidden_layers'] == 25
    assert shapes(short) == llama_shapes({**LLAMA_3_8B, 'num_hidden_layers': 25})
    gaps = shapes(write_llama(tmp_path / 'gaps', TINY, layers=(0, 2), renumber=False))
    assert 'model.layers.2.mlp.up_proj.weight' in gaps and not any('.1.' in name for name in gaps)
    narrow = {'model.layers.0.mlp.down_proj.weight': (16, 4)}
    mixed = write_llama(
        tmp_path / 'mixed', TINY, drop=['model.layers.1.*'], empty=['*.2.self_attn.*'], changes=narrow, shards=2
    )
    assert set(llama_shapes(TINY)) - set(shapes(mixed)) == set(layer_shapes(TINY, 'model.layers.1'))
    assert shapes(mixed)['model.layers.2.self_attn.q_proj.weight'] == (0, 16)
    assert shapes(mixed)['model.layers.0.mlp.down_proj.weight'] == (16, 4)
    tied = shapes(write_llama(tmp_path / 'tied', {**TINY, 'tie_word_embeddings': True}))
    assert 'lm_head.weight' not in tied
    only = read_headers(write_llama(tmp_path / 'only', TINY, shards=0))
    assert only.kind == 'config' and not only.tensors


@pytest.mark.parametrize('weights', ['pt', 'safetensors'])
def test_slicegpt(tmp_path, weights):
    folder = write_slicegpt(tmp_path / 'sliced', weights=weights)
    read = shapes(folder)
    assert read['model.embed_tokens.weight'] == (100, 8) and read['lm_head.weight'] == (100, 16)
    assert read['model.layers.0.self_attn.o_proj.weight'] == (8, 16)
    assert read['model.layers.0.mlp_shortcut_Q'] == (8, 8) and read['model.layers.2.mlp_shortcut_Q'] == (8, 16)
    assert read['model.layers.2.mlp.down_proj.weight'] == (16, 40)
    sizes = json.loads((folder / 'Llama-3-8B-Instruct_0.2.json').read_text())
    assert sizes['embedding_dimensions'] == {'0': 8} and sizes['mlp_output_dimensions'] == {'0': 8, '1': 8, '2': 16}


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('wrapped', [False, True])
def test_pickled(tmp_path, legacy, wrapped):
    known = sys.modules.get('transformers')
    path = write_pickled(
        tmp_path / 'm' / 'pruned_model.bin', TINY, [0], zero_attention=[1], zero_mlp=[2], wrapped=wrapped, legacy=legacy
    )
    assert sys.modules.get('transformers') is known
    read = shapes(path.parent)
    gone = set(llama_shapes(TINY)) - set(read)
    assert set(read) < set(llama_shapes(TINY))  # no inv_freq: it is not kept
    assert gone == {
        *layer_shapes(TINY, 'model.layers.0'),
        *(name for name in layer_shapes(TINY, 'model.layers.1') if 'self_attn' in name),
        *(name for name in layer_shapes(TINY, 'model.layers.2') if 'mlp' in name),
    }
    classes = set(read_headers(path).classes)
    assert {f'pruning_tool.layers.{name}' for name in ('IdentityDecoderLayer', 'ZeroAttention', 'ZeroMLP')} < classes
    assert 'transformers.models.llama.modeling_llama.LlamaForCausalLM' in classes
    tied = read_headers(write_pickled(tmp_path / 'tied.bin', {**TINY, 'tie_word_embeddings': True})).tensors
    assert tied['lm_head.weight'].storage == tied['model.embed_tokens.weight'].storage
