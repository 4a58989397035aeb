"""Plain-text files about what is left of a model, in the layout that readers of earlier tools' files expect.

Headings are theirs, in Chinese; numbers stand in the columns that they stood in. Takes dicts, as JSON has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Data = Mapping[str, Any]

EMPTY = 0.99  # of a part that counts as emptied
RETENTION = (0.05, 0.10, 0.15, 0.20)


def structure_summary(model: Data, comparison: Data | None = None) -> str:
    """``structure_summary.txt``: what a model holds, and what it has lost."""
    rule = '=' * 80
    summary = model['layer_summary']
    lines = [
        rule,
        '模型结构分析摘要',
        rule,
        '',
        f'模型名称: {model["model_name"]}',
        f'模型路径: {model["path"]}',
        '',
        f'总参数量: {model["total_params"]:,}',
        f'  - Embedding: {model["embedding_params"]:,}',
        f'  - LM Head: {model["lm_head_params"]:,}',
        f'  - Decoder Layers: {summary["total_layer_params"]:,}',
        f'  - 层数: {summary["num_layers"]}',
    ]
    outside = model['total_params'] - model['embedding_params'] - model['lm_head_params']
    lines.append(f'  - 其他: {outside - summary["total_layer_params"]:,}')
    if model['zero_layers']:
        lines.append(f'  - 完全剪空的层: {model["zero_layers"]}')
    if comparison:
        total = comparison['total_params']
        lines += [
            '',
            '剪枝统计:',
            f'  原始参数: {total["original"]:,}',
            f'  剪枝后参数: {total["pruned"]:,}',
            f'  减少参数: {total["reduced"]:,}',
            f'  剪枝比例: {total["reduction_ratio"]:.2%}',
            f'  移除的层数: {comparison["removed_layers"]}',
        ]
    return '\n'.join(lines) + '\n'


def pruning_comparison(comparison: Data) -> str:
    """``pruning_comparison.txt``: all layers, what each has left, and which are empty or thin."""
    return '\n'.join(_comparison_lines(comparison)) + '\n'


def _comparison_lines(comparison: Data) -> Iterator[str]:
    rule, line = '=' * 100, '-' * 100
    yield from (rule, '模型剪枝对比分析报告', rule, '')
    yield f'原始模型: {comparison["original_name"]}'
    yield f'剪枝模型: {comparison["pruned_name"]}'
    yield from ('', rule, '总体参数统计', rule)
    yield f'{"项目":<20} {"原始":>20} {"剪枝后":>20} {"减少":>20} {"剪枝比例":>15}'
    yield line
    for name, key in (('总参数量', 'total_params'), ('Decoder Layers', 'layer_params')):
        row = comparison[key]
        counts = f'{row["original"]:>20,} {row["pruned"]:>20,} {row["reduced"]:>20,}'
        yield f'{name:<20} {counts} {row["reduction_ratio"] * 100:>14.2f}%'
    yield from ('', rule, '每层参数详细对比', rule)
    yield (
        f'{"Layer":<6} {"总参数(原始)":>12} {"总参数(剪枝)":>16} {"保留比例%":>12} {"剪枝率%":>12} '
        f'{"Attn剪枝%":>12} {"MLP剪枝%":>12} {"状态"}'
    )
    yield line
    for layer in comparison['layers']:
        yield _layer_line(layer)
    yield ''
    yield from _lists(comparison)
    yield from ('', rule, '每层 Attention 和 MLP 详细对比', rule)
    for layer in comparison['layers']:
        yield ''
        yield f'Layer {layer["layer_idx"]}:' + (f' ({layer["name"]})' if 'name' in layer else '')
        for name, key in (('Attention', 'attention'), ('MLP', 'mlp')):
            part = layer[key]
            more = ''.join(
                f', {number}: {part[number]["original"]} -> {part[number]["pruned"]}'
                for number in ('num_heads', 'num_kv_heads', 'intermediate_size')
                if number in part
            )
            yield f'  {name}: {part["original"]:,} -> {part["pruned"]:,} ({part["reduction_ratio"]:.2%}){more}'


def _layer_line(layer: Data) -> str:
    total = layer['total']
    left = total['pruned'] / total['original'] if total['original'] else 1.0
    numbers = (left, *(layer[key]['reduction_ratio'] for key in ('total', 'attention', 'mlp')))
    rates = ' '.join(f'{number * 100:>11.2f}%' for number in numbers)
    status = ''
    if layer['is_zero_layer']:
        status = '[完全剪空]'
    else:
        for key, name in (('attention', '[Attn剪空]'), ('mlp', '[MLP剪空]')):
            status += name if layer[key]['original'] and layer[key]['reduction_ratio'] >= EMPTY else ''
    return f'{layer["layer_idx"]:<6} {total["original"]:>12,} {total["pruned"]:>16,} {rates} {status}'.rstrip()


def _lists(comparison: Data) -> Iterator[str]:
    zero, removed = comparison['zero_layers'], comparison['removed_layers']
    yield f'完全剪空的层 ({len(zero)}): {zero}'
    if removed:
        yield f'移除的层数: {removed}'
    for limit in RETENTION:
        thin = [
            layer['layer_idx']
            for layer in comparison['layers']
            if layer['total']['original'] and layer['total']['pruned'] / layer['total']['original'] < limit
        ]
        yield f'保留比例 < {limit:.0%} 的层 ({len(thin)}): {thin}'
    yield f'剪枝率 > 80% 的层 (heavy, {len(comparison["heavy_layers"])}): {comparison["heavy_layers"]}'
    yield f'剪枝率 < 20% 的层 (light, {len(comparison["light_layers"])}): {comparison["light_layers"]}'


def pruning_summary_by_layer(comparison: Data) -> str:
    """``pruning_summary_by_layer.txt``: what each layer has lost. A group is a key/value head and its queries."""
    rule = '=' * 80
    columns = ('Attention', 'MLP', 'Total')
    lines = [
        rule,
        '各层剪枝统计摘要',
        rule,
        '',
        ('Layer'.ljust(8) + ''.join(name.ljust(20) for name in columns)).rstrip(),
    ]
    groups = params = 0
    for layer in comparison['layers']:
        if layer['total']['reduced'] <= 0:
            continue
        attention, mlp = layer['attention'], layer['mlp']
        lost = _lost(attention, 'num_kv_heads') or _lost(attention, 'num_heads')
        groups += lost
        params += layer['total']['reduced']
        cells = (
            f'{lost} groups ({attention["reduced"]:,} params)',
            f'{_lost(mlp, "intermediate_size")} channels ({mlp["reduced"]:,} params)',
            f'{layer["total"]["reduced"]:,} params',
        )
        lines.append(f'{layer["layer_idx"]:<8}' + ' '.join(cell.ljust(20) for cell in cells).rstrip())
    lines += ['', f'总计: {groups} groups, {params:,} params']
    return '\n'.join(lines) + '\n'


def _lost(part: Data, number: str) -> int:
    row = part.get(number)
    return int(row['original'] - row['pruned']) if row else 0
