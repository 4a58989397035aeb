"""Shapes from a config alone equal those in files of transformers; a wrong config is one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hf_models import FILE
from llm_files import LLAMA_3_8B, TINY, llama_shapes

from vadslim.analysis import config_families
from vadslim.analysis.config_families import Family
from vadslim.analysis.config_shapes import tensors_of
from vadslim.analysis.headers import HeaderError, Headers
from vadslim.analysis.model_structure import analyse

CASES = json.loads(FILE.read_text())


def shapes(config):
    return {name: entry.shape for name, entry in tensors_of(config).items()}


def count(tensors):
    """Parameters; what is tied counts once."""
    return sum({entry.storage: entry.count for entry in tensors.values()}.values())


@pytest.mark.parametrize('name', CASES)
def test_as_transformers_saves_it(name):
    case = CASES[name]
    tensors = tensors_of(case['config'])
    own = {name: list(entry.shape) for name, entry in tensors.items() if entry.storage[1] == name}
    assert own == case['shapes']
    assert count(tensors) == case['parameters']


@pytest.mark.parametrize('name', CASES)
def test_parts_are_told(name):
    """Of a folder that has no weights: all parameters, and of every layer what they are for."""
    case = CASES[name]
    structure = analyse(Headers(Path(name), 'config', config=case['config']))
    layers = case['config'].get('num_hidden_layers', case['config'].get('n_layer'))
    assert (structure.total, len(structure.layers)) == (case['parameters'], layers)
    for layer in structure.layers:
        assert set(+layer.parts) <= {'attention', 'mlp', 'norm'} and layer.parts['attention'] and layer.parts['mlp']


def test_all_families_have_a_case():
    assert {case['config']['model_type'] for case in CASES.values()} == set(config_families.FAMILIES)


def test_llama_3_8b():
    tensors = tensors_of(LLAMA_3_8B)
    assert shapes(LLAMA_3_8B) == llama_shapes(LLAMA_3_8B)
    assert list(tensors)[:2] == ['model.embed_tokens.weight', 'model.layers.0.self_attn.q_proj.weight']
    assert list(tensors)[-2:] == ['model.norm.weight', 'lm_head.weight']
    assert count(tensors) == 8_030_261_248
    layer = {name: entry.count for name, entry in tensors.items() if name.startswith('model.layers.31.')}
    assert sum(layer.values()) == 218_112_000
    assert sum(size for name, size in layer.items() if 'self_attn' in name) == 41_943_040
    assert sum(size for name, size in layer.items() if 'mlp' in name) == 176_160_768
    assert tensors['lm_head.weight'].count == 525_336_576 and tensors['lm_head.weight'].dtype == 'BF16'


def numbers(hidden, middle, layers, heads, kv_heads, vocab, **more):
    return {
        'hidden_size': hidden, 'intermediate_size': middle, 'num_hidden_layers': layers, 'num_attention_heads': heads,
        'num_key_value_heads': kv_heads, 'vocab_size': vocab, **more,
    }  # fmt: skip


#: as their configs say it, and what ``num_parameters`` of transformers says of them
PUBLISHED = {
    'Mistral-7B': ('mistral', numbers(4096, 14336, 32, 32, 8, 32000), 7_241_732_096),
    'Qwen2-7B': ('qwen2', numbers(3584, 18944, 28, 28, 4, 152064), 7_615_616_512),
    'Qwen3-8B': ('qwen3', numbers(4096, 12288, 36, 32, 8, 151936, head_dim=128), 8_190_735_360),
    'gemma-7b': ('gemma', numbers(3072, 24576, 28, 16, 16, 256000, head_dim=256), 8_537_680_896),
    'gemma-2-9b': ('gemma2', numbers(3584, 14336, 42, 16, 8, 256000, head_dim=256), 9_241_705_984),
    'gemma-3-1b': ('gemma3_text', numbers(1152, 6912, 26, 4, 1, 262144, head_dim=256), 999_885_952),
    'Phi-3-mini': ('phi3', numbers(3072, 8192, 32, 32, 32, 32064), 3_821_079_552),
    'Mixtral-8x7B': ('mixtral', numbers(4096, 14336, 32, 32, 8, 32000, num_local_experts=8), 46_702_792_704),
    'gpt2': ('gpt2', {'vocab_size': 50257, 'n_embd': 768, 'n_layer': 12, 'n_head': 12}, 124_439_808),
    'pythia-6.9b': ('gpt_neox', numbers(4096, 16384, 32, 32, 32, 50432), 6_857_302_016),
    'ViT-B/16': ('vit', numbers(768, 3072, 12, 12, 12, 1, num_labels=1000), 86_567_656),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_models(name):
    kind, config, parameters = PUBLISHED[name]
    assert count(tensors_of({'model_type': kind, **config})) == parameters


def test_tied_heads():
    for kind, given, tied in [
        ('llama', {}, False),
        ('llama', {'tie_word_embeddings': True}, True),
        ('gemma', {}, True),
    ]:
        tensors = tensors_of({'model_type': kind, **numbers(16, 40, 2, 2, 1, 100, head_dim=8), **given})
        same = tensors['lm_head.weight'].storage == tensors['model.embed_tokens.weight'].storage
        assert same == tied and tensors['lm_head.weight'].shape == (100, 16)


def test_types():
    for given, kind in [
        ({}, 'F32'),
        ({'torch_dtype': 'bfloat16'}, 'BF16'),
        ({'dtype': 'float16', 'torch_dtype': None}, 'F16'),
        ({'torch_dtype': 'auto'}, 'F32'),
        ({'dtype': 'torch.float64'}, 'F64'),
    ]:
        config = {key: value for key, value in TINY.items() if key != 'torch_dtype'}
        assert {entry.dtype for entry in tensors_of({**config, **given}).values()} == {kind}


MISTAKES = [
    ({'model_type': 'lama'}, "'lama' is not known; known are llama and mistral"),
    ({'model_type': None}, 'None is not known'),
    ({'model_type': 3}, '3 is not known'),
    ({'model_type': 'gemma3', 'text_config': TINY, 'vision_config': {}}, 'has parts .text_config, vision_config.'),
    ({'quantization_config': {'bits': 4}}, 'quantised'),
    ({'architectures': ['LlamaForCats']}, 'known are .*LlamaForCausalLM'),
    ({'architectures': 'LlamaForCausalLM'}, 'architectures is'),
    ({'architectures': [{}]}, 'architectures is'),
    ({'hidden_size': '4096'}, "hidden_size is '4096'; it must be a whole number from 1"),
    ({'hidden_size': -4}, 'hidden_size is -4'),
    ({'hidden_size': 4.0}, 'hidden_size is 4.0'),
    ({'hidden_size': True}, 'hidden_size is True'),
    ({'hidden_size': 2**70}, 'hidden_size is 118'),
    ({'hidden_size': [16, 2]}, 'hidden_size is '),
    ({'hidden_size': 15}, 'hidden/heads is no whole number: 15 / 2'),
    ({'vocab_size': 0}, 'vocab_size is 0'),
    ({'vocab_size': None}, 'has no vocab_size'),
    ({'num_hidden_layers': 10**6}, 'num_hidden_layers is 1,000,000'),
    ({'num_key_value_heads': 0}, 'num_key_value_heads is 0'),
    ({'attention_bias': 'yes'}, "attention_bias is 'yes'; it must be true or false"),
    ({'mlp_bias': None}, 'mlp_bias is null'),
    ({'torch_dtype': 'int4'}, "dtype is 'int4'; known are float32"),
    ({'torch_dtype': 3}, 'dtype is 3'),
    ({'model_type': 'qwen3_moe', 'architectures': None, 'mlp_only_layers': [0]}, r'mlp_only_layers is \[0\]'),
    ({'model_type': 'bloom', 'architectures': None, 'n_layer': 4}, 'n_layer and num_hidden_layers say the same'),
    (
        {'model_type': 'mixtral', 'architectures': None, 'num_local_experts': 9999, 'num_hidden_layers': 9999},
        'more than 1,000,000 tensors',
    ),
]


@pytest.mark.parametrize(('changes', 'message'), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes(changes, message):
    with pytest.raises(HeaderError, match=message) as caught:
        tensors_of({**TINY, **changes}, 'folder/config.json')
    assert '\n' not in str(caught.value) and str(caught.value).startswith('folder/config.json: ')


@pytest.mark.parametrize('key', ['vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'model_type'])
def test_missing_keys(key):
    with pytest.raises(HeaderError, match=key):
        tensors_of({other: value for other, value in TINY.items() if other != key})


def test_one_more_family(monkeypatch):
    """Everything that a template can say."""
    template = """
word.weight                   vocab hidden
block.{layers}:
    part.{parts}.fc.weight    2*hidden+wide-1 wide/2    +bias
    norm.weight               hidden                    ?bias-1
    scale                     1
last.weight                   wide                      +1
head.weight                   vocab hidden              @ForX,ForY =word.weight
out.weight                    labels                    @ForY
"""
    numbers = {'parts': 'experts=2', 'wide': 'wide=hidden*2|4', 'bias': '?bias=1'}
    family = Family('New', template, numbers, 'ForX', base='block.')
    monkeypatch.setitem(config_families.FAMILIES, 'new', family)
    config = {'model_type': 'new', 'vocab_size': 5, 'hidden_size': 3, 'num_hidden_layers': 2, 'num_attention_heads': 1}
    part = {'fc.weight': (11, 3), 'fc.bias': (11,)}
    expected = {'word.weight': (5, 3)}
    for layer in range(2):
        expected |= {f'block.{layer}.part.{n}.{name}': shape for n in range(2) for name, shape in part.items()}
        expected[f'block.{layer}.scale'] = (1,)
    expected |= {'last.weight': (6,), 'last.bias': (6,), 'head.weight': (5, 3)}
    assert shapes(config) == expected
    changed = {**config, 'architectures': ['NewForY'], 'wide': None, 'bias': False, 'num_labels': 7, 'experts': 1}
    assert shapes(changed) == {
        'word.weight': (5, 3),
        **{f'block.{n}.part.0.fc.weight': (9, 2) for n in range(2)},
        **{f'block.{n}.norm.weight': (3,) for n in range(2)},
        **{f'block.{n}.scale': (1,) for n in range(2)},
        'last.weight': (4,),
        'last.bias': (4,),
        'head.weight': (5, 3),
        'out.weight': (7,),
    }
    assert '0.scale' in shapes({**config, 'architectures': ['NewModel']})


def test_needs_the_standard_library_only():
    script = (
        'import sys; from vadslim.analysis.config_shapes import tensors_of; before = set(sys.modules);'
        'import json; config = json.loads(sys.argv[1]); print(len(tensors_of(config)));'
        'heavy = {"torch", "numpy", "transformers", "mmengine", "rich"} & set(sys.modules); assert not heavy, heavy'
    )
    done = subprocess.run([sys.executable, '-c', script, json.dumps(LLAMA_3_8B)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '291\n'), done.stderr
