"""Folders of evaluated models as the predecessor's tools left them, and the three whose rows its guide shows."""

import json

DENSE_LAYER = 218_112_000
TASKS = ('boolq', 'piqa', 'hellaswag', 'winogrande', 'arc_easy', 'arc_challenge', 'openbookqa')


def evaluation(params=6_424_219_648, wikitext2=39.87, average=0.5141, **more):
    """The contents of evaluation_results.json of a network in half precision."""
    info = {
        'total_params': params,
        'total_params_M': params / 1e6,
        'total_params_B': params / 1e9,
        'num_layers': 32,
        'model_size_mb': params * 2 / 1024**2,
        'model_size_gb': params * 2 / 1024**3,
    }
    accuracies = [average + step / 100 for step in range(-3, 4)]
    speed = {'throughput_tokens_per_sec': 29.14, 'latency_ms_per_token': 34.3166, 'total_time_sec': 4.4}
    metrics = {
        'model_info': info,
        'ppl': {'wikitext2 (wikitext-2-raw-v1)': wikitext2, 'ptb': 63.66},
        'zeroshot': {
            task: {'accuracy': value, 'full_results': {'acc,none': 0}} for task, value in zip(TASKS, accuracies)
        },
        'avg_zeroshot_acc': average,
        'efficiency': {
            'model_info': info,
            'speed': {
                'batch_size_1': speed,
                'batch_size_4': {**speed, 'throughput_tokens_per_sec': 109.72, 'latency_ms_per_token': 9.1141},
            },
            'memory': {'model_memory_mb': 12_262.37, 'inference_peak_mb': 12_500.0},
        },
        **more,
    }
    return {'model_path': f'results/{params}', 'timestamp': '2025-11-01T10:00:00', 'metrics': metrics}


def comparison(kept, **more):
    """The contents of pruning_comparison.json: the part of each layer that is left."""
    layers = []
    for index, part in enumerate(kept):
        pruned = round(part * DENSE_LAYER)
        reduced = DENSE_LAYER - pruned
        total = {
            'original': DENSE_LAYER,
            'pruned': pruned,
            'reduced': reduced,
            'reduction_ratio': reduced / DENSE_LAYER,
        }
        layers.append({'layer_idx': index, 'total': total, 'is_zero_layer': not pruned, **more})
    return {'original_name': 'Llama-3-8B', 'pruned_name': 'x', 'layers': layers}


def comparison_text(kept):
    """The same as pruning_comparison.txt, as far as its two tables of layers."""
    width = '=' * 100
    lines = [
        width,
        '模型剪枝对比分析报告',
        width,
        '',
        '原始模型: Llama-3-8B',
        '剪枝模型: x',
        '',
        '总体参数统计',
        '-' * 100,
    ]
    lines += [f'{"项目":<20} {"原始":>20} {"剪枝后":>20} {"减少":>20} {"剪枝比例":>15}']
    lines += [f'{"总参数量":<20} {8030261248:>20,} {6424219648:>20,} {1606041600:>20,} {20:>14.2f}%', '']
    lines += [
        '每层参数详细对比',
        '-' * 100,
        f'{"Layer":<6} {"总参数(原始)":>12} {"总参数(剪枝)":>16} 保留比例% 剪枝率% 状态',
    ]
    for index, part in enumerate(kept):
        pruned = round(part * DENSE_LAYER)
        keep = 100 * pruned / DENSE_LAYER
        status = '[完全剪空]' if not pruned else '[MLP剪空]' if part < 0.1 else ''
        cells = f'{index:<6} {DENSE_LAYER:>12,} {pruned:>16,} {keep:>11.2f}% {100 - keep:>11.2f}%'
        lines.append(f'{cells} {100 - keep:>11.2f}% {100 - keep:>11.2f}% {status}')
    lines += ['', '完全剪空的层: [11, 12, 25]', '', '每层 Attention 和 MLP 详细对比', '-' * 100]
    lines += [f'{index:<6} {41943040:>12,} {41943040:>16,} {100:>11.2f}%' for index in range(len(kept))]
    return '\n'.join(lines) + '\n'


def layers(empty, some, part):
    """The parts that 32 layers have left: none (empty), everything (some of them), or ``part``."""
    rest = [1.0] * some + [part] * (32 - len(empty) - some)
    return [0.02 if index in empty else rest.pop() for index in range(32)]


#: name -> evaluation, part of each layer that is left; chosen so that the table has the rows of the guide
GUIDE = {
    'HGSP_2000': (evaluation(), layers([11, 12, 25], 15, 0.37)),
    'HGSP_5000': (
        evaluation(4_015_253_000, 315.21, 0.3696),
        [0.0 if index in (9, 10, 11, 12, 25, 26) else 1.0 if index < 5 else 0.79 for index in range(32)],
    ),
    'taylor_only_2000': (evaluation(6_424_219_000, 37.32, 0.6205), [1.0] * 16 + [0.7] * 16),
}


def write(folder, results=None, kept=None, name='pruning_comparison.json', inner='evaluation'):
    """Write the files of one model."""
    if results is not None:
        (folder / inner).mkdir(parents=True, exist_ok=True)
        text = results if isinstance(results, str) else json.dumps(results, ensure_ascii=False)
        (folder / inner / 'evaluation_results.json').write_text(text, encoding='utf-8')
    if kept is not None:
        (folder / 'analysis').mkdir(parents=True, exist_ok=True)
        contents = comparison_text(kept) if name.endswith('.txt') else json.dumps(comparison(kept))
        (folder / 'analysis' / name).write_text(contents, encoding='utf-8')
    return folder


def write_guide(folder):
    """Write the models of the guide."""
    for name, (results, kept) in GUIDE.items():
        write(folder / name, results, kept)
    return folder
