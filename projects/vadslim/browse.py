"""``tools/misc/browse_dataset.py``: pictures of what a config's pipeline gives the network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cli import Parser, UserError, add_config_options, at_least, say
from .visualize import track_frames, vad_dataset, writable_folder, write_picture


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; the options of MMDetection3D's and VAD's own command are accepted."""
    parser = Parser(
        prog='browse_dataset.py',
        description='Draw what the pipeline of a config gives the network: images after augmentation with projected '
        "boxes, and a bird's-eye view of map, agents, their futures and the driven path.",
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='whose dataloader (train)')
    parser.add_argument('--output-dir', metavar='DIR', help='where to (./work_dirs/NAME/browse_SPLIT)')
    parser.add_argument('--skip-type', nargs='+', default=[], metavar='TYPE', help='transforms to leave out')
    parser.add_argument('--interval', type=at_least(1), default=1, metavar='N', help='every N-th item (1)')
    parser.add_argument('--max-frames', type=at_least(1), metavar='N', help='at most that many (all)')
    parser.add_argument('--dpi', type=at_least(30), default=150, help='1740 pixels wide at 150, the default')
    parser.add_argument('--seed', type=int, default=0, help='of the augmentation (0)')
    parser.add_argument('--not-show', action='store_true', help='accepted: pictures are written, no window is opened')
    parser.add_argument('--show-interval', type=float, help=argparse.SUPPRESS)
    parser.add_argument('--task', help=argparse.SUPPRESS)
    parser.add_argument('--aug', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--online', action='store_true', help=argparse.SUPPRESS)
    add_config_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Draw."""
    args = parse_args(argv)
    from mmengine.runner import set_random_seed

    from .options import load_config, merge_texts

    cfg = load_config(args.config)
    merge_texts(cfg, args.cfg_options)
    default = Path(cfg.get('work_dir') or Path('work_dirs') / Path(args.config).stem) / f'browse_{args.split}'
    folder = writable_folder(args.output_dir or default, '--output-dir')
    dataset = vad_dataset(cfg, f'{args.split}_dataloader', args.config, lambda steps: without(steps, args.skip_type))
    set_random_seed(args.seed)
    from .vad.pictures.packed import draw_packed
    from .vad.pictures.view import truth

    chosen = range(0, len(dataset), args.interval)[: args.max_frames]
    for i in track_frames(chosen):
        item = dataset[i]
        sample = item['data_samples'].to_dict()
        picture = draw_packed(
            item['inputs']['img'],
            sample,
            [truth(sample)],
            dataset.metainfo['classes'],
            dataset.extent,
            f'{args.split}   item {i}',
            args.dpi,
        )
        write_picture(folder / f'{i:06d}_{sample["sample_idx"]}.png', picture)
    say(f'written: {len(chosen)} pictures in {folder}')


def without(steps: Sequence[Any], skipped: Sequence[str]) -> list[Any]:
    """A pipeline without the transforms of these types.

    Raises:
        UserError: it has none of a type.
    """
    kinds = [step['type'] for step in steps]
    for kind in skipped:
        if kind not in kinds:
            raise UserError(f'--skip-type {kind}: the pipeline has {", ".join(kinds)}')
    return [step for step in steps if step['type'] not in skipped]
