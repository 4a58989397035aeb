"""What was removed of a model: its structure against that of what is left, as plain data for JSON and for pages.

Takes and gives dicts (of ``ModelStructure.to_dict``, or of earlier tools' files): comparing needs no checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HEAVY, LIGHT = 0.8, 0.2  # a layer of which more, less than this is removed

Data = Mapping[str, Any]


def compare_structures(original: Data, pruned: Data) -> dict[str, Any]:
    """Compares two models.

    Layers are compared by their numbers in the original where the pruned model tells them (gaps in its names, or our
    structure's record of layers that left), else by position: then nothing tells which layers are gone, only how many.

    Args:
        original, pruned: of ``ModelStructure.to_dict``.

    Returns:
        original_name, pruned_name; total_params, layer_params, embedding, lm_head: {original, pruned, reduced,
        reduction_ratio}; layers: for each, the same of its total, attention and mlp; removed_layers: how many fewer
        there are; zero_layers, heavy_layers, light_layers: layer_idx of layers that are empty or gone, that lost more
        than 80 %, less than 20 %; num_zero_layers: of the first, with those of which nothing tells which they were.
        The ratio is the fraction removed, 0 where there was nothing.
    """
    layers, gone, nowhere = [], 0, 0
    for mine, theirs in _stacks(original, pruned):
        pairs = _pairs(mine, theirs)
        gone += max(0, len(mine) - len(theirs))
        nowhere += len(mine) - len(pairs)
        layers += [_layer(a, b) for a, b in pairs]
    zero = [layer['layer_idx'] for layer in layers if layer['is_zero_layer']]
    ratios = {layer['layer_idx']: layer['total']['reduction_ratio'] for layer in layers}
    return {
        'original_name': original['model_name'],
        'pruned_name': pruned['model_name'],
        'total_params': _fields(original['total_params'], pruned['total_params']),
        'layer_params': _fields(*(model['layer_summary']['total_layer_params'] for model in (original, pruned))),
        'embedding': _fields(original['embedding_params'], pruned['embedding_params']),
        'lm_head': _fields(original['lm_head_params'], pruned['lm_head_params']),
        'num_layers': _fields(len(original['layers']), len(pruned['layers'])),
        'removed_layers': gone,
        'zero_layers': zero,
        'num_zero_layers': len(zero) + nowhere,
        'heavy_layers': [index for index, ratio in ratios.items() if ratio > HEAVY],
        'light_layers': [index for index, ratio in ratios.items() if ratio < LIGHT],
        'layers': layers,
    }


def mark_of(layer: Data) -> str:
    """What stands out about a compared layer: zero, heavy, light, or nothing."""
    ratio = layer['total']['reduction_ratio']
    return 'zero' if layer['is_zero_layer'] else 'heavy' if ratio > HEAVY else 'light' if ratio < LIGHT else ''


def _fields(original: int, pruned: int) -> dict[str, Any]:
    reduced = original - pruned
    ratio = reduced / original if original else 0.0
    return {'original': original, 'pruned': pruned, 'reduced': reduced, 'reduction_ratio': ratio}


def _stacks(original: Data, pruned: Data) -> Iterator[tuple[list[Data], list[Data]]]:
    """Layers of one stack in both models: of the same name, or the only ones that are left over."""
    ours, theirs = _by_stack(original), _by_stack(pruned)
    rest = [name for name in theirs if name not in ours]
    lone = [name for name in ours if name not in theirs]
    for name, layers in ours.items():
        if name in theirs:
            yield layers, theirs[name]
        elif len(rest) == len(lone) == 1:
            yield layers, theirs[rest[0]]
        else:
            yield layers, []
    if len(rest) != len(lone) or len(rest) > 1:
        for name in rest:
            yield [], theirs[name]


def _by_stack(model: Data) -> dict[str, list[Data]]:
    found: dict[str, list[Data]] = {}
    for layer in model['layers']:
        found.setdefault(str(layer.get('name', '')).rpartition('.')[0], []).append(layer)
    return found


def _pairs(original: Sequence[Data], pruned: Sequence[Data]) -> list[tuple[Data, Data | None]]:
    """Layers that belong together."""
    numbers = [layer.get('original_idx') for layer in pruned]
    if all(type(number) is int and number < len(original) for number in numbers) and len(set(numbers)) == len(numbers):
        left = dict(zip(numbers, pruned))  # none at all is such a case, too
        return [(layer, left.get(number)) for number, layer in enumerate(original)]
    return list(zip(original, pruned))


def _layer(original: Data, pruned: Data | None) -> dict[str, Any]:
    def part(name: str, numbers: Sequence[str]) -> dict[str, Any]:
        mine, theirs = original[name], pruned[name] if pruned else {}
        found = _fields(mine['total'], theirs.get('total', 0))
        for key in numbers:
            if key in mine and (key in theirs or not pruned):
                found[key] = {'original': mine[key], 'pruned': theirs.get(key, 0)}
        return found

    return {
        'layer_idx': original['layer_idx'],
        **({'name': original['name']} if 'name' in original else {}),
        'total': _fields(original['total'], pruned['total'] if pruned else 0),
        'attention': part('attention', ('num_heads', 'num_kv_heads')),
        'mlp': part('mlp', ('intermediate_size',)),
        'norm': _fields(original['norm'], pruned['norm'] if pruned else 0),
        'is_zero_layer': _is_zero(pruned),
    }


def _is_zero(layer: Data | None) -> bool:
    """Whether a layer is gone or empty. Earlier tools' files call an Identity none; what it holds tells."""
    return layer is None or bool(layer['is_zero_layer']) or layer['total'] == 0
