"""What ``units.regroup`` did and how sparse masks are, as lines to print; from plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from .masks import density, remain_weight
from .units import Regrouped, UnitChoice

_TITLES = {'head': 'Head-level', 'mlp': 'MLP', 'both': 'Head + MLP'}
_PARTS = {'head': ('Attention Head', 'heads'), 'neuron': ('MLP Neuron', 'neurons')}
_SORTINGS = {'layer-wise': 'Layer-wise Sorting', 'global': 'Global Mixed Sorting'}


def regroup_lines(result: Regrouped, criterion: str, struct: str = 'rsst') -> list[str]:
    """The report of one regrouping.

    Args:
        result: Of ``regroup``.
        criterion: That of the scores.
        struct: ``rsst``: the masks are what the penalty leads to. Otherwise, ``refill``, they are applied.
    """
    lines = ['=' * 80, f'[ViT {_TITLES[result.target]} Quasi-Structured Pruning]', f'  Criteria: {criterion}']
    if result.target == 'both':
        lines += [f'  Head Prune Ratio: {result.ratio}', f'  MLP Prune Ratio: {result.mlp_ratio}']
        lines.append(f'  Sorting Mode: {result.sorting}')
    else:
        lines.append(f'  Prune Ratio: {result.ratio if result.target == "head" else result.mlp_ratio}')
    lines += [f'  Mode: {"RSST (mask only)" if struct == "rsst" else "Refill (apply mask)"}', '=' * 80]
    for part, kind in enumerate(dict.fromkeys(choice.layer.kind for choice in result.choices), 1):
        choices = [choice for choice in result.choices if choice.layer.kind == kind]
        title, units = _PARTS[kind]
        if result.target == 'both':
            lines += ['─' * 80, f'Part {part}: {title} Pruning ({_SORTINGS[result.sorting]})', '─' * 80]
        if result.sorting == 'global':
            total, kept = sum(choice.before for choice in choices), sum(len(choice.kept) for choice in choices)
            lines.append(f'Total {units} collected: {total}')
            lines.append(f'Keeping {kept}/{total} {units} globally ({100 * kept / total if total else 100:.2f}%)')
        for choice in choices:
            lines += _layer_lines(choice)
    kinds = [layer.kind for layer in result.layers]
    return [
        *lines,
        '=' * 80,
        'Summary:',
        f'  Total masks generated: {len(result.masks)}',
        f'  Attention layers: {2 * kinds.count("head")}',
        f'  MLP layers: {2 * kinds.count("neuron")}',
        f'  Overall sparsity: {100 * (1 - density(result.masks)):.2f}%',
        '=' * 80,
    ]


def _layer_lines(choice: UnitChoice) -> Iterator[str]:
    layer = choice.layer
    yield f'Layer: {layer.name}'
    yield f'  Shape: torch.Size({list(choice.shape)})'
    if layer.kind == 'head':
        yield f'  Num heads: {layer.count}, Head dim: {layer.size}, Embed dim: {choice.shape[1]}'
        yield f'  Head importance: {_numbers(choice.scores)}'
        yield f'  Keeping {len(choice.kept)}/{choice.before} heads: {_numbers(choice.kept)}'
    else:
        yield f'  Keeping {len(choice.kept)}/{choice.before} neurons'
    yield f'  Original sparsity: {100 * choice.sparsity:.2f}%'
    yield f'  New sparsity: {100 * choice.new_sparsity:.2f}% ({layer.kind}-level)'
    reader = layer.reader.removesuffix('.weight')
    yield f'  Also updated {reader.rpartition(".")[2]} mask: {reader}'


def _numbers(values: tuple[float, ...]) -> str:
    """As numpy prints an array, on one line."""
    return np.array2string(np.array(values), max_line_width=10**9, threshold=10**9, precision=4)


def sparsity_lines(masks: Mapping[str, Tensor]) -> list[str]:
    """How many weights each layer and all of them have lost; the last line is ``masks.remain_weight``."""
    zeros = {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}
    lost, total = sum(zeros.values()), sum(mask.numel() for mask in masks.values())
    return [
        '=' * 80,
        '[ViT Sparsity Report]',
        '=' * 80,
        *(
            f'{name.removesuffix(".weight"):50} | Sparsity: {100 * (1 - density({name: mask})):6.2f}% | '
            f'Zeros: {zeros[name]:8d}/{mask.numel():8d}'
            for name, mask in masks.items()
        ),
        '=' * 80,
        f'Total zeros: {lost} / {total}',
        f'Overall sparsity: {100 - remain_weight(masks):.2f}%',
        f'Remaining weights: {remain_weight(masks):.2f}%',
        '=' * 80,
    ]
