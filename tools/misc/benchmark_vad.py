#!/usr/bin/env python
"""Time one frame of VAD, and each of its modules, with random weights and a previous view.

    tools/misc/benchmark_vad.py [CONFIG] [--repeats N] [--threads N] [--device cuda] [--structure structure.json]

By default VAD-tiny at full size, 6 x 384 x 640.
"""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from vadslim.cli import run

DEFAULT = Path(__file__).resolve().parents[2] / 'configs' / 'VAD' / 'VAD_tiny_stage_2.py'
# Row of the table -> patterns of module names.
ROWS = {
    'image backbone': ['img_backbone'],
    'image neck': ['img_neck'],
    'encoder': ['pts_bbox_head.transformer.encoder'],
    '  temporal self-attention': ['*.encoder.layers.?.attentions.0'],
    '  spatial cross-attention': ['*.encoder.layers.?.attentions.1'],
    '  feed-forward': ['*.encoder.layers.?.ffns.0'],
    'object decoder': ['pts_bbox_head.transformer.decoder'],
    'map decoder': ['pts_bbox_head.transformer.map_decoder'],
    'branches of the head': ['pts_bbox_head.*cls_branches.?', 'pts_bbox_head.traj_branches.0'],
    'map vectors': ['pts_bbox_head.lane_encoder'],
    'motion: agents': ['pts_bbox_head.motion_decoder'],
    'motion: map': ['pts_bbox_head.motion_map_decoder.layers.?'],
    'planning': [
        'pts_bbox_head.agent_fus_mlp',
        'pts_bbox_head.ego_agent_decoder',
        'pts_bbox_head.ego_map_decoder',
        'pts_bbox_head.ego_fut_decoder',
    ],
    'all': [''],
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', nargs='?', default=str(DEFAULT), help='config file (default: VAD_tiny_stage_2.py)')
    parser.add_argument('--repeats', type=int, default=5, help='frames that are timed (default: 5)')
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU")
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--structure', metavar='FILE', help='structure file of a slim network')
    args = parser.parse_args(argv)
    for name, path in (('config', args.config), ('--structure', args.structure)):
        if path and not Path(path).is_file():
            parser.error(f'{name}: there is no file {path}')
    for name, number in (('--repeats', args.repeats), ('--threads', args.threads)):
        if number is not None and number < 1:
            parser.error(f'{name} {number}: at least 1 is needed')

    import torch
    from mmengine import Config
    from mmengine.registry import init_default_scope
    from rich.console import Console
    from rich.table import Table

    from vadslim.analysis import count, find_example, measure_modules
    from vadslim.hooks import SlimModel
    from vadslim.registry import MODELS

    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: there is no CUDA device')
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get('default_scope', 'mmdet3d'))
    torch.manual_seed(0)
    model = SlimModel(cfg.model, args.structure) if args.structure else MODELS.build(cfg.model)
    model = model.to(args.device).eval()
    example = find_example(model, cfg)
    complexity = count(model, example.run)
    rows = {
        row: [name for name in complexity.modules if any(fnmatch(name, pattern) for pattern in patterns)]
        for row, patterns in ROWS.items()
    }
    timed = [name for names in rows.values() for name in names if name]
    latency = measure_modules(model, example.run, timed, args.repeats)

    caption = f'without {complexity.sampling_macs / 1e9:.2f} GMACs of bilinear sampling'
    table = Table(title=f'{example.label}\n{latency}', caption=caption)
    for column in ('module', 'params', 'GMACs', 'ms'):
        table.add_column(column, justify='left' if column == 'module' else 'right')
    for row, names in rows.items():
        params, macs = (sum(complexity.modules[name][i] for name in names) for i in (0, 1))
        time = sum(latency.modules.get(name, 0.0) for name in names) if row != 'all' else latency.median_ms
        table.add_row(row, f'{params:,}', f'{macs / 1e9:.3f}', f'{time:.1f}')
    Console().print(table)
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
