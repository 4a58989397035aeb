"""What a model is made of: its layers, their parts, and what stands outside of them, counted from headers.

The JSON (``ModelStructure.to_dict``) has the keys that earlier tools for pruned LLMs wrote, and more.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vadslim.analysis.headers import Entry, Headers
from vadslim.analysis.layer_parts import PARTS, PartTable, is_buffer, role_of
from vadslim.analysis.layer_stacks import MOST_LAYERS, Stack, find_stacks

#: the files that a checkpoint in a folder is named after the folder for
_GENERIC = {'pruned_model', 'pytorch_model', 'model', 'latest', 'best', 'slim', 'consolidated'}
#: what counting takes from a config beside the weights
CONFIG_KEYS = ('model_type', 'hidden_size', 'num_attention_heads', 'head_dim', 'num_hidden_layers')
_ATTENTION, _MLP = ('q_proj', 'k_proj', 'v_proj', 'o_proj'), ('gate_proj', 'up_proj', 'down_proj')


@dataclass
class Layer:
    """One layer.

    Attributes:
        name: dotted path.
        index: position among all layers of the model.
        number: its number in its stack.
        original: its number in the stack before layers were removed, where the file tells it.
        parts: part -> parameters; all of ``PARTS``.
        roles: ``attention.q_proj`` -> parameters, of those that have a name.
        numbers: num_heads, num_kv_heads, intermediate_size, where the shapes tell.
        tensors: full names.
    """

    name: str
    index: int
    number: int
    original: int | None
    parts: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, int] = field(default_factory=dict)
    tensors: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All parameters."""
        return self.parts.total()

    @property
    def is_zero(self) -> bool:
        """Whether nothing is left but norms: removed, replaced by an Identity, or emptied."""
        return self.total == self.parts['norm']


@dataclass
class ModelStructure:
    """A model.

    Attributes:
        name: for people.
        path: where it was read.
        kind: of file, as ``Headers.kind``.
        config: of Hugging Face's config what ``CONFIG_KEYS`` names; empty if there is none.
        stacks: name -> layers.
        outside: part -> parameters outside of all layers.
        modules: first modules that have siblings -> parameters.
        buffers: name of a tensor that holds no parameters -> how many values.
        tied: names of parameters that are another one, and not counted again.
        parts: tensor -> part.
        size: bytes of the parameters.
        wrapped: what stands before all names in the file and was left out.
    """

    name: str
    path: str
    kind: str
    config: dict[str, Any]
    stacks: dict[str, list[Layer]]
    outside: Counter[str]
    modules: dict[str, int]
    buffers: dict[str, int]
    tied: list[str]
    parts: dict[str, str]
    size: int
    wrapped: str = ''

    @property
    def layers(self) -> list[Layer]:
        """Of all stacks, one after the other."""
        return [layer for layers in self.stacks.values() for layer in layers]

    @property
    def total(self) -> int:
        """All parameters, tied ones once."""
        return self.outside.total() + sum(layer.total for layer in self.layers)

    def renamed(self, name: str) -> str:
        """A tensor's name here, for its name in the file."""
        return name.removeprefix(self.wrapped)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        layers = self.layers
        kind = _class_name(str(self.config.get('model_type') or ''))
        return {
            'model_name': self.name,
            'path': self.path,
            'kind': self.kind,
            'config': self.config,
            'total_params': self.total,
            'embedding_params': self.outside['embedding'],
            'lm_head_params': self.outside['head'],
            **{f'{part}_params': self.outside[part] for part in ('norm', 'conv', 'attention', 'mlp', 'other')},
            'buffers': sum(self.buffers.values()),
            'size_bytes': self.size,
            'tied': self.tied,
            'modules': self.modules,
            'stacks': [{'name': name, 'num_layers': len(of)} for name, of in self.stacks.items()],
            'zero_layers': [layer.index for layer in layers if layer.is_zero],
            'layers': [_layer_dict(layer, kind) for layer in layers],
            'layer_summary': {
                'num_layers': len(layers),
                'total_layer_params': sum(layer.total for layer in layers),
            },
        }


def analyse(headers: Headers, name: str | None = None, table: PartTable | None = None) -> ModelStructure:
    """Counts what the headers of a checkpoint tell.

    Args:
        headers: of ``read_headers``.
        name: of the model; by default the file's or folder's.
        table: how parts are told; by default by the names that are known.
    """
    table = table or PartTable()
    tensors, wrapped = _stripped(_tensors(headers))
    stacks = find_stacks(tensors)
    edits = _depth_edits(headers.meta)
    modules: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for full, entry in tensors.items():
        owner, _, last = full.rpartition('.')
        modules[owner][last] = entry.shape
    places: dict[str, tuple[Layer, str]] = {}
    by_stack: dict[str, list[Layer]] = {}
    index = 0
    for stack in stacks:
        by_stack[stack.name or '(model)'] = here = []
        for number, rests in _with_the_last(stack, headers.config, len(stacks)).items():
            layer = Layer(stack.path(number), index, number, _original(stack, number, edits))
            here.append(layer)
            index += 1
            for rest in rests:
                places[f'{layer.name}.{rest}'] = layer, rest
    parts = {
        full: table.part_of(places[full][1] if full in places else full, full, modules[full.rpartition('.')[0]])
        for full in tensors
    }
    counted, tied = _tied(tensors, parts)
    outside: Counter[str] = Counter()
    buffers: dict[str, int] = {}
    size = 0
    per_name: dict[str, int] = {}
    for full, entry in tensors.items():
        if is_buffer(full, entry):
            buffers[full] = entry.count
            continue
        count = _count(full, entry, headers, modules) if full in counted else 0
        size += entry.size if full in counted else 0
        per_name[full] = count
        if full not in places:
            outside[parts[full]] += count
            continue
        layer, rest = places[full]
        layer.tensors.append(full)
        layer.parts[parts[full]] += count
        role = role_of(parts[full], rest)
        if role:
            layer.roles[f'{parts[full]}.{role}'] += count
            _note_width(layer, role, rest, entry)
    _set_heads(by_stack, headers.config)
    return ModelStructure(
        name or name_of(headers.path),
        str(headers.path),
        headers.kind,
        {key: value for key, value in (headers.config or {}).items() if key in CONFIG_KEYS},
        by_stack,
        outside,
        _by_module(per_name),
        buffers,
        tied,
        parts,
        size,
        wrapped,
    )


def name_of(path: Path) -> str:
    """A model's name: its folder's; its file's if that is no .bin and says more than 'model'."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  without .., and links as they are named
    if path.suffix in ('.pth', '.pt', '.bin', '.safetensors', '.json') and not path.is_dir():
        stem = path.name.removesuffix('.index.json').partition('.')[0]
        return path.parent.name if stem in _GENERIC or path.suffix == '.bin' else path.stem
    return path.parent.name if path.name in _GENERIC and path.parent.name else path.name


def _tensors(headers: Headers) -> Mapping[str, Entry]:
    if headers.tensors or headers.config is None:
        return headers.tensors
    from vadslim.analysis.config_shapes import tensors_of

    return tensors_of(headers.config, headers.path / 'config.json')


def _stripped(tensors: Mapping[str, Entry]) -> tuple[Mapping[str, Entry], str]:
    """Names without what wrappers put before all of them, and that."""
    wrapped = ''
    for prefix in ('module.', '_orig_mod.'):
        if tensors and all(name.startswith(wrapped + prefix) for name in tensors):
            wrapped += prefix
    return {name.removeprefix(wrapped): entry for name, entry in tensors.items()}, wrapped


def _depth_edits(meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """Stack -> original numbers of its layers, of our own slim checkpoints."""
    structure = meta.get('structure')
    edits = structure.get('edits') if isinstance(structure, dict) else None
    found = {}
    for edit in edits if isinstance(edits, list) else ():
        kept = edit.get('kept') if isinstance(edit, dict) and edit.get('type') == 'depth' else None
        if isinstance(kept, list) and all(type(number) is int for number in kept):
            found[str(edit.get('layers'))] = kept
    return found


def _original(stack: Stack, number: int, edits: Mapping[str, list[int]]) -> int | None:
    if stack.name in edits:
        kept = edits[stack.name]
        return kept[number] if number < len(kept) else None
    return number if stack.numbered_by_original else None


def _with_the_last(stack: Stack, config: Mapping[str, Any] | None, stacks: int) -> dict[int, list[str]]:
    """A stack's layers, with those without tensors at its end, where the config says how many there are."""
    stated = (config or {}).get('num_hidden_layers')
    if stack.numbered_by_original and stacks == 1 and type(stated) is int and stated < MOST_LAYERS:
        return {**stack.layers, **{number: [] for number in range(len(stack.layers), stated)}}
    return stack.layers


def _tied(tensors: Mapping[str, Entry], parts: Mapping[str, str]) -> tuple[set[str], list[str]]:
    """Names that count, and names that share all their values with one of those: an embedding's counts first."""
    owners: dict[Any, str] = {}
    tied = []
    for name in sorted(tensors, key=lambda name: parts[name] != 'embedding'):  # stable: else the file's order
        entry = tensors[name]
        known = entry.count and any(entry.storage)
        if owners.setdefault((entry.storage, entry.count) if known else name, name) != name:
            tied.append(name)
    return set(owners.values()), tied


def _count(name: str, entry: Entry, headers: Headers, modules: Mapping[str, Mapping[str, Any]]) -> int:
    """Parameters in a tensor, of packed ones how many they stand for."""
    quantised = (headers.config or {}).get('quantization_config')
    bits = quantised.get('bits') if isinstance(quantised, dict) else None
    if name.endswith('.qweight') and entry.dtype == 'I32' and bits in (2, 3, 4, 8):
        return entry.count * 32 // int(bits)
    if name.endswith('.weight') and entry.dtype == 'U8' and any(k.startswith(f'{name}.quant_state') for k in modules):
        return entry.count * 2  # bitsandbytes: two of four bits in a byte
    return entry.count


def _note_width(layer: Layer, role: str, rest: str, entry: Entry) -> None:
    """Widths that the shapes of projections tell: outputs stand first, in GPT-2's Conv1D last."""
    if not rest.endswith('weight') or len(entry.shape) != 2:
        return
    width = entry.shape[1 if '.c_' in f'.{rest}' else 0]
    if role in ('q_proj', 'k_proj'):
        layer.numbers.setdefault(role, width)
    elif role in ('up_proj', 'gate_proj') and 'experts' not in rest:
        layer.numbers.setdefault('intermediate_size', width)


def _set_heads(stacks: Mapping[str, list[Layer]], config: Mapping[str, Any] | None) -> None:
    """Turns widths of queries and keys into numbers of heads, where the config says how wide one is."""
    config = config or {}
    hidden, heads, width = (config.get(key) for key in ('hidden_size', 'num_attention_heads', 'head_dim'))
    if type(width) is not int and type(hidden) is int and type(heads) is int and heads > 0:
        width = hidden // heads
    for layer in (layer for layers in stacks.values() for layer in layers):
        for role, key in (('q_proj', 'num_heads'), ('k_proj', 'num_kv_heads')):
            rows = layer.numbers.pop(role, None)
            if rows is not None and type(width) is int and width > 0 and rows % width == 0:
                layer.numbers[key] = rows // width


def _by_module(counts: Mapping[str, int]) -> dict[str, int]:
    """Parameters of the first modules on the way down that have siblings."""
    depth = 1
    while True:
        found: Counter[str] = Counter()
        for name, count in counts.items():
            found['.'.join(name.split('.')[:-1][:depth]) or '(model)'] += count
        if len(found) != 1 or depth > 4:
            return dict(found)
        depth += 1


def _class_name(model_type: str) -> str:
    """'qwen2_moe' -> 'Qwen2Moe'; '' -> ''."""
    return ''.join(word.capitalize() for word in model_type.split('_'))


def _layer_dict(layer: Layer, kind: str) -> dict[str, Any]:
    if not kind and 'attention.q_proj' in layer.roles and 'mlp.gate_proj' in layer.roles:
        kind = 'Llama'  # what projections of these names are called, if nothing says better

    def module(part: str, suffix: str, roles: tuple[str, ...], numbers: tuple[str, ...]) -> dict[str, Any]:
        total = layer.parts[part]
        found = {role: layer.roles[f'{part}.{role}'] for role in roles}
        for role, count in layer.roles.items():
            if role.startswith(f'{part}.') and count:
                found[role.rpartition('.')[2]] = count
        rest = total - sum(found.values())
        if rest:
            found['other'] = rest
        known = {key: layer.numbers[key] for key in numbers if key in layer.numbers}
        if not total:
            known = dict.fromkeys(numbers, 0)
        return {'type': f'{kind if total else "Zero"}{suffix}', **found, 'total': total, **known}

    return {
        'layer_idx': layer.index,
        'name': layer.name,
        **({} if layer.original is None else {'original_idx': layer.original}),
        'total': layer.total,
        'attention': module('attention', 'Attention', _ATTENTION, ('num_heads', 'num_kv_heads')),
        'mlp': module('mlp', 'MLP', _MLP, ('intermediate_size',)),
        'norm': layer.parts['norm'],
        **{part: layer.parts[part] for part in PARTS[3:] if part != 'head'},
        'is_zero_layer': layer.is_zero,
    }
