"""Counts of whole models: a published LLM's, VAD's, those of files of our own, and what was done to them."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from llm_files import LLAMA_3_8B, SHORTGPT_7, TINY, write_folder, write_llama, write_pickled, write_slicegpt
from torch import nn

from vadslim.analysis.headers import Entry, Headers, read_headers
from vadslim.analysis.model_structure import analyse, name_of

MANIFESTS = Path(__file__).parent.parent / 'data' / 'vad' / 'manifests.json.gz'


def of(path, **options):
    return analyse(read_headers(path), **options).to_dict()


def of_shapes(shapes, config=None, dtype='F32'):
    tensors = {name: Entry(tuple(shape), dtype) for name, shape in shapes.items()}
    return analyse(Headers(Path('x.pth'), 'torch zip', tensors, config))


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp('llm') / 'Llama-3-8B')


def test_llama_3_8b(llama):
    data = of(llama)
    assert data['model_name'] == 'Llama-3-8B' and data['kind'] == 'safetensors'
    assert data['total_params'] == 8_030_261_248
    assert data['embedding_params'] == data['lm_head_params'] == 525_336_576
    assert data['norm_params'] == 4096 and data['other_params'] == data['buffers'] == 0
    assert data['layer_summary'] == {'num_layers': 32, 'total_layer_params': 6_979_584_000}
    assert data['size_bytes'] == 2 * data['total_params']
    assert data['layers'][31] == {
        'layer_idx': 31,
        'name': 'model.layers.31',
        'total': 218_112_000,
        'attention': {
            'type': 'LlamaAttention',
            'q_proj': 16_777_216,
            'k_proj': 4_194_304,
            'v_proj': 4_194_304,
            'o_proj': 16_777_216,
            'total': 41_943_040,
            'num_heads': 32,
            'num_kv_heads': 8,
        },
        'mlp': {
            'type': 'LlamaMLP',
            'gate_proj': 58_720_256,
            'up_proj': 58_720_256,
            'down_proj': 58_720_256,
            'total': 176_160_768,
            'intermediate_size': 14336,
        },
        'norm': 8192,
        'conv': 0,
        'embedding': 0,
        'other': 0,
        'is_zero_layer': False,
    }


def test_shortgpt(tmp_path):
    data = of(write_llama(tmp_path / 'ShortGPT_remove_7', layers=SHORTGPT_7))
    assert data['total_params'] == 6_503_477_248 and data['layer_summary']['num_layers'] == 25
    assert data['zero_layers'] == [] and 'original_idx' not in data['layers'][0]


def test_layers_that_kept_their_numbers(tmp_path):
    data = of(write_llama(tmp_path, layers=SHORTGPT_7, renumber=False))
    assert data['total_params'] == 6_503_477_248 and data['layer_summary']['num_layers'] == 32
    assert data['zero_layers'] == [22, 23, 24, 25, 26, 27, 28]
    gone = data['layers'][22]
    assert gone['attention']['type'] == 'ZeroAttention' and gone['mlp']['type'] == 'ZeroMLP'
    assert gone['attention']['num_heads'] == gone['mlp']['intermediate_size'] == gone['total'] == 0
    assert gone['is_zero_layer'] and gone['original_idx'] == 22


def test_the_last_layers_are_told_by_the_config(tmp_path):
    folder = write_llama(tmp_path, TINY, layers=[0, 2], renumber=False)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, 'num_hidden_layers': 5}))
    assert of(folder)['zero_layers'] == [1, 3, 4]


def test_emptied_parts(tmp_path):
    empty = ['model.layers.0.*_proj.weight', 'model.layers.1.self_attn.*']
    path = write_llama(tmp_path, TINY, empty=empty, drop=['model.layers.2.mlp.*'])
    first, second, third = of(path)['layers']
    assert first['is_zero_layer'] and first['total'] == first['norm'] == 32
    assert second['attention']['type'] == 'ZeroAttention' and not second['is_zero_layer']
    assert third['mlp']['type'] == 'ZeroMLP' and not third['is_zero_layer']


@pytest.mark.parametrize('legacy', [False, True])
def test_whole_model_of_classes_that_are_gone(tmp_path, legacy):
    path = write_pickled(
        tmp_path / 'GISP_50' / 'pruned_model.bin', identity=[1], zero_attention=[2], zero_mlp=[2], legacy=legacy
    )
    whole = of(write_llama(tmp_path / 'whole', TINY, shards=1))
    data = of(path)
    assert data['model_name'] == 'GISP_50' and data['zero_layers'] == [1, 2]
    assert data['layers'][0]['total'] == whole['layers'][0]['total']
    assert data['total_params'] == whole['total_params'] - 2 * whole['layers'][0]['total'] + 32  # norms of layer 2
    assert data['buffers'] == 0  # inv_freq is not kept


def test_layers_that_are_emptied_in_different_ways(tmp_path):
    path = write_pickled(tmp_path / 'pruned_model.bin', identity=[0], zero_attention=[1], zero_mlp=[2])
    data = of(path)
    assert data['zero_layers'] == [0] and [layer['original_idx'] for layer in data['layers']] == [0, 1, 2]
    kinds = [(layer['attention']['type'], layer['mlp']['type']) for layer in data['layers'][1:]]
    assert kinds == [('ZeroAttention', 'MLP'), ('Attention', 'ZeroMLP')]


def test_a_name_from_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / 'GISP' / 'inner').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'GISP' / 'inner')
    assert name_of(Path('../pruned_model.bin')) == 'GISP'


def test_slicegpt(tmp_path):
    data = of(write_slicegpt(tmp_path))
    width = 8  # 80 % of 16, down to a multiple of 8
    first, *_, last = data['layers']
    assert data['embedding_params'] == 100 * width and data['zero_layers'] == []
    assert first['attention']['q_proj'] == 16 * width and first['other'] == 2 * width * width
    assert last['other'] == width * width + width * 16 and first['norm'] == 2
    shapes = [entry.count for entry in read_headers(tmp_path).tensors.values()]
    assert data['total_params'] == sum(shapes)


@pytest.mark.parametrize(('size', 'total'), [('tiny', 39_865_999), ('base', 58_357_786)])
def test_vad(size, total):
    manifest = json.loads(gzip.decompress(MANIFESTS.read_bytes()))[size]
    data = of_shapes({name: shape for name, shape, _ in manifest['state_dict']}).to_dict()
    assert data['total_params'] == total
    assert data['modules']['img_backbone'] == 23_508_032 and data['modules']['img_neck'] > 1_000_000
    stacks = {'.'.join(row['name'].split('.')[-2:]): row['num_layers'] for row in data['stacks']}
    depth = 3 if size == 'tiny' else 6
    assert stacks['encoder.layers'] == depth and stacks['map_decoder.layers'] == depth
    assert stacks['img_backbone.layer3'] == 6 and stacks['motion_decoder.layers'] == 1
    first = next(layer for layer in data['layers'] if layer['name'].endswith('transformer.encoder.layers.0'))
    assert first['mlp']['up_proj'] == 256 * 512 + 512 and first['norm'] == 3 * 512 and first['other'] == 0
    parts = ('embedding', 'lm_head', 'norm', 'conv', 'attention', 'mlp', 'other')
    outside = sum(data[f'{part}_params'] for part in parts)
    assert outside + sum(layer['total'] for layer in data['layers']) == total  # nothing is left out
    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    buffers = [torch.Size(shape) for name, shape, _ in manifest['state_dict'] if name.endswith(statistics)]
    assert data['buffers'] == sum(shape.numel() for shape in buffers)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.lm_head = nn.Linear(4, 9, bias=False)  # stands before what it is tied to
        self.wte = nn.Embedding(9, 4)
        self.lm_head.weight = self.wte.weight
        self.other = nn.Linear(4, 4)


def test_tied_tensors_count_once(tmp_path):
    torch.save(Tied().state_dict(), tmp_path / 'tied.pt')
    data = of(tmp_path / 'tied.pt')
    assert data['total_params'] == 36 + 20 and data['tied'] == ['lm_head.weight']
    assert (data['embedding_params'], data['lm_head_params']) == (36, 0)


def test_names_behind_a_wrapper(tmp_path):
    state = {f'module._orig_mod.{name}': value for name, value in Tied().state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'wrapped.pth')
    structure = analyse(read_headers(tmp_path / 'wrapped.pth'))
    assert 'wte.weight' in structure.parts and structure.renamed('module._orig_mod.wte.weight') == 'wte.weight'


def test_removed_layers_of_our_own_checkpoints(tmp_path):
    depth = {'type': 'depth', 'layers': 'decoder.layers', 'num_layers': 6, 'kept': [0, 2, 5]}
    state = {
        f'decoder.layers.{n}.{part}.weight': torch.zeros(2, 2) for n in range(3) for part in ('attn.qkv', 'mlp.fc1')
    }
    torch.save(
        {'state_dict': state, 'meta': {'structure': {'edits': [depth, 'x', {'type': 'depth'}]}}}, tmp_path / 'a.pth'
    )
    assert [layer['original_idx'] for layer in of(tmp_path / 'a.pth')['layers']] == [0, 2, 5]


def test_packed_weights():
    shapes = {'model.layers.0.mlp.up_proj.qweight': (8, 16), 'model.layers.0.self_attn.q_proj.qweight': (8, 8)}
    config = {'quantization_config': {'bits': 4}}
    assert of_shapes(shapes, config, 'I32').total == 8 * (128 + 64)
    shapes = {
        'layers.0.mlp.up_proj.weight': (64, 1),
        'layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4': (90,),
    }
    assert of_shapes(shapes, None, 'U8').total == 128


def test_config_alone(tmp_path, llama):
    alone, whole = of(write_folder(tmp_path / 'Llama', {}, shards=0, config=LLAMA_3_8B)), of(llama)
    assert alone['kind'] == 'config'
    same = ('total_params', 'embedding_params', 'lm_head_params', 'layers', 'layer_summary')
    assert {key: alone[key] for key in same} == {key: whole[key] for key in same}


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('runs/VAD_tiny.pth', 'VAD_tiny'),
        ('GISP/pruned_model.bin', 'GISP'),
        ('GISP/pruned_model', 'GISP'),
        ('GISP/llama_50.bin', 'GISP'),
        ('Llama/model.safetensors.index.json', 'Llama'),
        ('Llama-3.1-8B', 'Llama-3.1-8B'),
        ('a/Llama_0.2.pt', 'Llama_0.2'),
    ],
)
def test_names(path, name):
    assert name_of(Path(path)) == name
