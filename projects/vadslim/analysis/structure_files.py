"""Reads the JSON files that analysing and comparing models write: ours, and those of earlier tools.

A file is taken whole or not at all: what is missing in it, or is of the wrong type, is an error of one line.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vadslim.analysis.model_comparison import HEAVY, LIGHT

Data = Mapping[str, Any]

LARGEST_FILE = 64 * 2**20  # bytes; a hundred layers are 100 kB
MOST_LAYERS = 10_000


def read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no JSON.
    """
    with path.open('rb') as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f'is larger than {LARGEST_FILE // 2**20} MiB')
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError('is nested too deeply') from None


def read_structure(data: Any) -> dict[str, Any]:
    """What ``model_structure.json`` tells.

    Returns:
        params, zero_layers, layers, about, size_bytes, sparsity, unit_sparsity, as ``structure_summary`` has them.

    Raises:
        ValueError: it is something else; one line.
    """
    summary = _object(data, 'layer_summary')
    layers = [_structure_layer(layer, f'layers[{place}].') for place, layer in enumerate(_layers(data))]
    params = {
        'total': _count(data, 'total_params'),
        'embedding': _count(data, 'embedding_params'),
        'lm_head': _count(data, 'lm_head_params'),
        'layers': _count(summary, 'total_layer_params', 'layer_summary.'),
        'num_layers': _count(summary, 'num_layers', 'layer_summary.'),
    }
    if params['num_layers'] != len(layers):
        raise ValueError(f'layer_summary.num_layers is {params["num_layers"]}, but there are {len(layers)} layers')
    found: dict[str, Any] = {
        'params': params,
        'zero_layers': [layer['layer_idx'] for layer in layers if layer['is_zero']],
        'layers': layers,
        'about': _about(data),
    }
    if 'size_bytes' in data:
        found['size_bytes'] = _count(data, 'size_bytes')
    found['sparsity'], found['unit_sparsity'] = _sparsity(data)
    return found


def _structure_layer(layer: Data, where: str) -> dict[str, Any]:
    total, norm = _count(layer, 'total', where), _count(layer, 'norm', where)
    attention, mlp = (_count(_object(layer, key, where), 'total', where, f'{key}.') for key in ('attention', 'mlp'))
    conv = _count(layer, 'conv', where) if 'conv' in layer else 0
    sparsity, unit_sparsity = _sparsity(layer, where)
    return {
        'layer_idx': int(layer['layer_idx']),
        'name': printable(layer.get('name')),
        'is_zero': layer.get('is_zero_layer') is True or total == norm,
        'attention': attention,
        'mlp': mlp,
        'norm': norm,
        'conv': conv,
        'other': _rest(total, attention + mlp + norm + conv, where),
        'total': total,
        'ratio': None,
        'attention_ratio': None,
        'mlp_ratio': None,
        'sparsity': sparsity,
        'unit_sparsity': unit_sparsity,
    }


def read_comparison(data: Any) -> dict[str, Any]:
    """What ``model_comparison.json`` tells.

    Returns:
        pruning, layer_pruning, heavy_layers, light_layers, num_layers, removed_layers, layers and, if it is in the
        file, num_zero_layers, as ``structure_summary`` has them.

    Raises:
        ValueError: it is something else; one line.
    """
    total, of_layers = _pair(data, 'total_params'), _pair(data, 'layer_params')
    found = _layers(data)
    layers = [_compared_layer(layer, f'layers[{place}].') for place, layer in enumerate(found)]
    before = [layer.pop('before') for layer in layers]
    return {
        'pruning': {
            'original_params': total[0],
            'pruned_params': total[1],
            'reduction_ratio': _ratio(total),
            'layer_reduction_ratio': _ratio(of_layers),
        },
        'layer_pruning': [
            {
                'layer_idx': layer['layer_idx'],
                'reduction_ratio': layer['ratio'],
                'is_zero': layer['is_zero'],
                'attention_reduction_ratio': layer['attention_ratio'],
                'mlp_reduction_ratio': layer['mlp_ratio'],
            }
            for layer in layers
        ],
        'heavy_layers': [layer['layer_idx'] for layer in layers if layer['ratio'] > HEAVY],
        'light_layers': [layer['layer_idx'] for layer in layers if layer['ratio'] < LIGHT],
        'num_layers': _pair(data, 'num_layers')[1] if 'num_layers' in data else len(layers),
        'removed_layers': _count(data, 'removed_layers')
        if 'removed_layers' in data
        else _not_listed(of_layers[0], before),
        **({'num_zero_layers': _count(data, 'num_zero_layers')} if 'num_zero_layers' in data else {}),
        'layers': layers,
    }


def _compared_layer(layer: Data, where: str) -> dict[str, Any]:
    total, attention, mlp = (_pair(layer, key, where) for key in ('total', 'attention', 'mlp'))
    norm = _pair(layer, 'norm', where)[1] if 'norm' in layer else None
    # Earlier tools, whose files tell no norm, do not call an Identity a zero layer.
    gone = not total[1] or (norm is None and any(attention + mlp) and not attention[1] + mlp[1])
    rest = _rest(total[1], attention[1] + mlp[1] + (norm or 0), where)
    return {
        'layer_idx': int(layer['layer_idx']),
        'name': printable(layer.get('name')),
        'is_zero': layer.get('is_zero_layer') is True or gone,
        'attention': attention[1],
        'mlp': mlp[1],
        'norm': norm,
        'conv': None,
        'other': None if norm is None else rest,
        'total': total[1],
        'ratio': _ratio(total),
        'attention_ratio': _ratio(attention) if attention[0] else None,
        'mlp_ratio': _ratio(mlp) if mlp[0] else None,
        'sparsity': None,
        'unit_sparsity': None,
        'before': total[0],
    }


def _not_listed(params: int, listed: Sequence[int]) -> int | None:
    """How many layers of the original an earlier tool's comparison leaves out: it lists as many as the pruned has.

    Args:
        params: of all of the original's layers.
        listed: the parameters of those that are listed.

    Returns:
        None where they are not all of one size.
    """
    params -= sum(listed)
    size = max(listed, default=0)
    if params == 0:
        return 0
    of_one_size = size > 0 and size == min(listed)
    return params // size if of_one_size and params > 0 and params % size == 0 else None


def _sparsity(data: Data, where: str = '') -> tuple[float | None, float | None]:
    """The fractions of zeros and of units that are all zeros, where they were counted."""
    if 'zeros' not in data:
        return None, None
    found = _object(data, 'zeros', where)
    pairs = (('elements', 'zeros'), ('units', 'zero_units'))
    counts = [[_count(found, key, where, 'zeros.') for key in pair] for pair in pairs]
    elements, units = (zeros / all_ if all_ else None for all_, zeros in counts)
    return elements, units


def _about(data: Data) -> dict[str, str]:
    """What else a structure says of its model, for people."""
    found = {key: printable(data.get(key)) for key in ('model_name', 'path', 'kind')}
    stacks, tied = data.get('stacks'), data.get('tied')
    if isinstance(stacks, list) and len(stacks) > 1:
        known = [stack for stack in stacks[:50] if isinstance(stack, Mapping)]
        found['stacks'] = ', '.join(f'{printable(s.get("name"))} ({reprlib.repr(s.get("num_layers"))})' for s in known)
    if isinstance(tied, list):
        found['tied'] = ', '.join(printable(name) for name in tied[:20])
    zeros = data.get('zeros')
    wrong = zeros.get('nonfinite') if isinstance(zeros, Mapping) else None
    if isinstance(wrong, Mapping):
        found['values_not_finite'] = ', '.join(printable(name) for name in list(wrong)[:20])
    return {key: value for key, value in found.items() if value}


# --- what a file may hold -----------------------------------------------------------------------------------


def _count(data: Data, key: str, where: str = '', inside: str = '') -> int:
    value = data.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(_wrong(data, f'{where}{inside}{key}', key, 'a whole number'))
    return value


def _object(data: Any, key: str, where: str = '') -> Data:
    if not isinstance(data, Mapping):
        raise ValueError(f'is {reprlib.repr(data)}, not a JSON object')
    value = data.get(key)
    if not isinstance(value, Mapping):
        raise ValueError(_wrong(data, f'{where}{key}', key, 'an object'))
    return value


def _pair(data: Any, key: str, where: str = '') -> tuple[int, int]:
    found = _object(data, key, where)
    return _count(found, 'original', where, f'{key}.'), _count(found, 'pruned', where, f'{key}.')


def _layers(data: Data) -> list[Data]:
    layers = data.get('layers')
    if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise ValueError(_wrong(data, 'layers', 'layers', f'a list of at most {MOST_LAYERS}'))
    indices = set()
    for place, layer in enumerate(layers):
        if not isinstance(layer, Mapping):
            raise ValueError(f'layers[{place}] is {reprlib.repr(layer)}, not an object')
        indices.add(_count(layer, 'layer_idx', f'layers[{place}].'))
    if len(indices) < len(layers) or max(indices, default=0) >= MOST_LAYERS:
        raise ValueError(f'layer_idx is there twice, or not below {MOST_LAYERS}')
    return layers


def _wrong(data: Data, path: str, key: str, allowed: str) -> str:
    return f'{path} is {reprlib.repr(data[key])}, not {allowed}' if key in data else f'has no {path}'


def _rest(total: int, parts: int, where: str) -> int:
    if total < parts:
        raise ValueError(f'{where}total is {total:,}, less than its parts')
    return total - parts


def _ratio(pair: tuple[int, int]) -> float:
    """The fraction removed, which is less than 0 where something was added."""
    return (pair[0] - pair[1]) / pair[0] if pair[0] else 0.0


def printable(value: Any) -> str:
    """A text that can be printed on a line and written as UTF-8; '' for what is none."""
    if not isinstance(value, str):
        return ''
    return value if value.isprintable() else ''.join(c if c.isprintable() else '\ufffd' for c in value)


def one_line(error: Exception) -> str:
    """What is wrong, on one line."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return printable(' '.join((text or type(error).__name__).split()))
