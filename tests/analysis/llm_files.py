"""Files of language models as pruning tools leave them, with true headers and no weights.

safetensors folders are sparse files: an 8-billion-parameter model takes a few kilobytes of disk. The shapes of Llama
stand here by hand, apart from what the package knows of them.
"""

import contextlib
import json
import struct
import sys
import types
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vadslim.analysis.headers import SIZES

LLAMA_3_8B = {
    'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'vocab_size': 128256, 'hidden_size': 4096,
    'intermediate_size': 14336, 'num_hidden_layers': 32, 'num_attention_heads': 32, 'num_key_value_heads': 8,
    'hidden_act': 'silu', 'max_position_embeddings': 8192, 'rms_norm_eps': 1e-05, 'rope_theta': 500000.0,
    'attention_bias': False, 'tie_word_embeddings': False, 'torch_dtype': 'bfloat16',
}  # fmt: skip
#: the same kind, small: 3 layers, 2 heads that share keys and values, heads of 8, 100 words
TINY = {
    **LLAMA_3_8B, 'vocab_size': 100, 'hidden_size': 16, 'intermediate_size': 40, 'num_hidden_layers': 3,
    'num_attention_heads': 2, 'num_key_value_heads': 1,
}  # fmt: skip
#: what ShortGPT leaves of Llama-3-8B without its 7 layers 22 to 28
SHORTGPT_7 = (*range(22), 29, 30, 31)

Shapes = dict[str, tuple[int, ...]]


def layer_shapes(config: Mapping[str, Any], name: str) -> Shapes:
    """Of one layer of a Llama."""
    hidden, middle, heads = config['hidden_size'], config['intermediate_size'], config['num_attention_heads']
    width = hidden // heads
    keys = config['num_key_value_heads'] * width
    return {
        f'{name}.self_attn.q_proj.weight': (heads * width, hidden),
        f'{name}.self_attn.k_proj.weight': (keys, hidden),
        f'{name}.self_attn.v_proj.weight': (keys, hidden),
        f'{name}.self_attn.o_proj.weight': (hidden, heads * width),
        f'{name}.mlp.gate_proj.weight': (middle, hidden),
        f'{name}.mlp.up_proj.weight': (middle, hidden),
        f'{name}.mlp.down_proj.weight': (hidden, middle),
        f'{name}.input_layernorm.weight': (hidden,),
        f'{name}.post_attention_layernorm.weight': (hidden,),
    }


def llama_shapes(config: Mapping[str, Any], layers: Iterable[int] | None = None) -> Shapes:
    """Of a Llama with the layers of these numbers; a tied head is no tensor."""
    table = (config['vocab_size'], config['hidden_size'])
    shapes: Shapes = {'model.embed_tokens.weight': table}
    for number in range(config['num_hidden_layers']) if layers is None else layers:
        shapes |= layer_shapes(config, f'model.layers.{number}')
    shapes['model.norm.weight'] = (config['hidden_size'],)
    return shapes if config['tie_word_embeddings'] else {**shapes, 'lm_head.weight': table}


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = 'BF16') -> int:
    """One file of zeros, all of them a hole in it. Returns the bytes of the tensors."""
    header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + SIZES[dtype] * torch.Size(shape).numel()
        header[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [start, end]}
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with path.open('wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end


def write_folder(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    shards: int = 1,
    dtype: str = 'BF16',
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A Hugging Face folder of tensors of these shapes.

    Args:
        shards: 1 writes ``model.safetensors``, more of them an index as well, 0 no weights at all.
        config: what ``config.json`` holds; None writes none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / 'config.json').write_text(json.dumps(config, indent=2))
    names = list(shapes)
    files = [f'model-{number + 1:05d}-of-{shards:05d}.safetensors' for number in range(shards)]
    if shards == 1:
        files = ['model.safetensors']
    places, total = {}, 0
    for number, file in enumerate(files):
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        total += write_safetensors(folder / file, {name: shapes[name] for name in part}, dtype)
        places |= dict.fromkeys(part, file)
    if shards > 1:
        index = {'metadata': {'total_size': total}, 'weight_map': places}
        (folder / 'model.safetensors.index.json').write_text(json.dumps(index, indent=2))
    return folder


def write_llama(
    folder: Path,
    config: Mapping[str, Any] = LLAMA_3_8B,
    shards: int = 4,
    dtype: str = 'BF16',
    layers: Collection[int] | None = None,
    renumber: bool = True,
    drop: Collection[str] = (),
    empty: Collection[str] = (),
    changes: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """A folder of a Llama, whole or pruned.

    Args:
        folder: to write; made if need be.
        config: of the unpruned model; ``config.json`` says ``num_hidden_layers`` of what is written.
        shards, dtype: as ``write_folder`` takes them.
        layers: numbers of the layers that are left. None: all of them.
        renumber: whether they are numbered from 0 again, as ShortGPT does; else their numbers have gaps.
        drop: patterns of names that are not written: ``model.layers.3.*`` is a layer that became an Identity. Of the
            names as they are written, like all that follow.
        empty: patterns of names of which nothing is left: a weight of 0 rows.
        changes: other shapes, by name: of layers made narrower.
    """
    left = list(range(config['num_hidden_layers']) if layers is None else layers)
    numbers = range(len(left)) if renumber else left
    shapes = {**llama_shapes(config, numbers), **(changes or {})}
    shapes = {name: shape for name, shape in shapes.items() if not _matches(name, drop)}
    shapes = {name: (0, *shape[1:]) if _matches(name, empty) else shape for name, shape in shapes.items()}
    return write_folder(folder, shapes, shards, dtype, {**config, 'num_hidden_layers': len(left)})


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def slicegpt_shapes(config: Mapping[str, Any], width: int, slice_head: bool = False) -> Shapes:
    """What SliceGPT leaves of a Llama whose stream is cut to ``width``.

    Each norm is left with one number that nobody uses; each layer has two matrices more. The last layer widens the
    stream again, unless the head is sliced, too. Source: github.com/microsoft/TransformerCompression, ``slicegpt``.
    """
    hidden, last = config['hidden_size'], config['num_hidden_layers'] - 1
    out = width if slice_head else hidden
    shapes = {}
    for name, shape in llama_shapes({**config, 'tie_word_embeddings': False}).items():
        if name.endswith('norm.weight'):
            shape = (1,)
        elif name.endswith(('o_proj.weight', 'down_proj.weight')):
            wide = name == f'model.layers.{last}.mlp.down_proj.weight'
            shape = (out if wide else width, shape[1])
        else:
            shape = (shape[0], out if name == 'lm_head.weight' else width)
        shapes[name] = shape
        if name.endswith('post_attention_layernorm.weight'):
            layer = name.removesuffix('.post_attention_layernorm.weight')
            shapes[f'{layer}.attn_shortcut_Q'] = (width, width)
            shapes[f'{layer}.mlp_shortcut_Q'] = (width, out if layer.endswith(f'.{last}') else width)
    return shapes


def slicegpt_config(config: Mapping[str, Any], width: int, slice_head: bool = False) -> dict[str, Any]:
    """What SliceGPT's JSON says beside the weights."""
    count, out = config['num_hidden_layers'], width if slice_head else config['hidden_size']
    same = {str(number): width for number in range(count)}
    return {
        'hidden_size': config['hidden_size'],
        'layers_num': count,
        'do_slice_head': slice_head,
        'parallel_blocks': False,
        'embedding_dimensions': {'0': width},
        'attention_input_dimensions': same,
        'attention_output_dimensions': same,
        'mlp_input_dimensions': same,
        'mlp_output_dimensions': {**same, str(count - 1): out},
        'head_dimension': out,
        'const_dimension': None,
    }


def write_slicegpt(
    folder: Path,
    config: Mapping[str, Any] = TINY,
    ratio: float = 0.2,
    name: str = 'Llama-3-8B-Instruct',
    interval: int = 8,
    slice_head: bool = False,
    weights: str = 'pt',
) -> Path:
    """A folder of SliceGPT: ``NAME_RATIO.pt`` and ``NAME_RATIO.json``; the config of a model that was local, too.

    Args:
        interval: the width that is left is a multiple of it.
        weights: ``pt``: a state dict; ``safetensors``: as it saves Llama and Phi lately, sparse.
    """
    width = int((1 - ratio) * config['hidden_size'])
    width -= width % interval
    shapes = slicegpt_shapes(config, width, slice_head)
    write_folder(folder, shapes, int(weights == 'safetensors'), 'F16', config)
    if weights == 'pt':
        state = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
        torch.save(state, folder / f'{name}_{ratio}.pt')
    (folder / f'{name}_{ratio}.json').write_text(json.dumps(slicegpt_config(config, width, slice_head)))
    return folder


# --- whole models ------------------------------------------------------------------------------------------

LLAMA = 'transformers.models.llama.modeling_llama'
PRUNING = 'pruning_tool.layers'
CLASSES = {
    **dict.fromkeys(('LlamaForCausalLM', 'LlamaModel', 'LlamaDecoderLayer', 'LlamaAttention', 'LlamaMLP'), LLAMA),
    **dict.fromkeys(('LlamaRMSNorm', 'LlamaRotaryEmbedding'), LLAMA),
    **dict.fromkeys(('IdentityDecoderLayer', 'ZeroAttention', 'ZeroMLP', 'Tokenizer'), PRUNING),
}


@contextlib.contextmanager
def passing_classes() -> Iterator[dict[str, type[nn.Module]]]:
    """Classes of modules, by name, that can be imported in this block only, real names of ``transformers`` or not."""
    made: dict[str, type[nn.Module]] = {}
    modules = {}
    for name, home in CLASSES.items():
        for depth in range(1, home.count('.') + 2):
            parent = '.'.join(home.split('.')[:depth])
            modules.setdefault(parent, types.ModuleType(parent))
        made[name] = type(name, (nn.Module,), {'__module__': home})
        setattr(modules[home], name, made[name])
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_pickled(
    path: Path,
    config: Mapping[str, Any] = TINY,
    identity: Collection[int] = (),
    zero_attention: Collection[int] = (),
    zero_mlp: Collection[int] = (),
    wrapped: bool = True,
    legacy: bool = False,
) -> Path:
    """A whole Llama in a pickle, as ``pruned_model.bin``; nothing of what it names can be imported later.

    Args:
        identity: numbers of the layers that are an ``IdentityDecoderLayer``.
        zero_attention, zero_mlp: numbers of the layers whose attention or MLP is a ``ZeroAttention``, ``ZeroMLP``.
        wrapped: whether it stands beside a tokenizer, under ``model``.
        legacy: torch's format before 1.6.
    """
    hidden, heads = config['hidden_size'], config['num_attention_heads']
    with passing_classes() as kinds:
        model = kinds['LlamaForCausalLM']()
        model.model = kinds['LlamaModel']()
        model.model.embed_tokens = nn.Embedding(config['vocab_size'], hidden)
        model.model.layers = nn.ModuleList()
        for number in range(config['num_hidden_layers']):
            if number in identity:
                model.model.layers.append(kinds['IdentityDecoderLayer']())
                continue
            layer = kinds['LlamaDecoderLayer']()
            layer.self_attn = kinds['ZeroAttention' if number in zero_attention else 'LlamaAttention']()
            layer.self_attn.num_heads = 0 if number in zero_attention else heads
            layer.mlp = kinds['ZeroMLP' if number in zero_mlp else 'LlamaMLP']()
            for name, shape in layer_shapes(config, '').items():
                _, part, *rest = name.split('.')
                if part == 'self_attn' and number not in zero_attention or part == 'mlp' and number not in zero_mlp:
                    setattr(getattr(layer, part), rest[0], nn.Linear(shape[1], shape[0], bias=False))
                elif part.endswith('layernorm'):
                    setattr(layer, part, _norm(kinds, hidden))
            model.model.layers.append(layer)
        model.model.norm = _norm(kinds, hidden)
        model.model.rotary_emb = kinds['LlamaRotaryEmbedding']()
        model.model.rotary_emb.register_buffer('inv_freq', torch.ones(hidden // heads // 2), persistent=False)
        model.lm_head = nn.Linear(hidden, config['vocab_size'], bias=False)
        if config['tie_word_embeddings']:
            model.lm_head.weight = model.model.embed_tokens.weight
        saved = {'model': model, 'tokenizer': kinds['Tokenizer']()} if wrapped else model
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', "Couldn't retrieve source code")  # of these classes there is none
            torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    return path


def _norm(kinds: Mapping[str, type[nn.Module]], width: int) -> nn.Module:
    norm = kinds['LlamaRMSNorm']()
    norm.weight = nn.Parameter(torch.ones(width))
    return norm
