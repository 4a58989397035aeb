"""What analysing and comparing write, as dicts: earlier tools' files of Llama-3-8B, and of what is left of it."""

import json

EMBEDDING, ATTENTION, MLP, NORM = 525_336_576, 41_943_040, 176_160_768, 8_192
LAYER = ATTENTION + MLP + NORM
LAST_NORM = 4_096
FULL = (1.0, 1.0)


def layer(index, attention=1.0, mlp=1.0, norm=NORM):
    """A layer that has so much left of its attention and its MLP; an Identity without a norm."""
    heads, channels = int(ATTENTION * attention), int(MLP * mlp)
    return {
        'layer_idx': index,
        'total': heads + channels + norm,
        'attention': {'type': 'LlamaAttention' if heads else 'ZeroAttention', 'total': heads},
        'mlp': {'type': 'LlamaMLP' if channels else 'ZeroMLP', 'total': channels},
        'norm': norm,
        'is_zero_layer': norm > 0 and not heads + channels,  # as earlier tools say it
    }


def structure(name='Llama-3-8B', left=(FULL,) * 32):
    """``model_structure.json``; ``left``: of each layer, what ``layer`` takes."""
    layers = [layer(index, *parts) for index, parts in enumerate(left)]
    total = sum(one['total'] for one in layers)
    return {
        'model_name': name,
        'total_params': 2 * EMBEDDING + total + LAST_NORM,
        'embedding_params': EMBEDDING,
        'lm_head_params': EMBEDDING,
        'layers': layers,
        'layer_summary': {'num_layers': len(layers), 'total_layer_params': total},
    }


def fields(original, pruned):
    reduced = original - pruned
    return {
        'original': original,
        'pruned': pruned,
        'reduced': reduced,
        'reduction_ratio': reduced / original if original else 0.0,
    }


def comparison(original, pruned):
    """``model_comparison.json`` as earlier tools write it: by position, as many layers as both have."""
    layers = [
        {
            'layer_idx': before['layer_idx'],
            'total': fields(before['total'], after['total']),
            'attention': fields(before['attention']['total'], after['attention']['total']),
            'mlp': fields(before['mlp']['total'], after['mlp']['total']),
            'is_zero_layer': after['is_zero_layer'],
        }
        for before, after in zip(original['layers'], pruned['layers'])
    ]
    totals = [model['layer_summary']['total_layer_params'] for model in (original, pruned)]
    return {
        'original_name': original['model_name'],
        'pruned_name': pruned['model_name'],
        'total_params': fields(original['total_params'], pruned['total_params']),
        'layer_params': fields(*totals),
        'layers': layers,
    }


DENSE = structure()
SHORT = structure('ShortGPT_remove_7', (FULL,) * 25)


def write(folder, **files):
    """Writes ``NAME=data`` as NAME.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        text = data if isinstance(data, str) else json.dumps(data, indent=2, ensure_ascii=False)
        (folder / f'{name}.json').write_text(text, encoding='utf-8')
    return folder
