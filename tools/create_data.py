"""Write VAD's info files from nuScenes.

    python tools/create_data.py nuscenes --root-path ./data/nuscenes --out-dir ./data/nuscenes \
        --extra-tag vad_nuscenes --version v1.0 --canbus ./data

``--version v1.0`` stands for v1.0-trainval and, where its tables are there, v1.0-test.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vadslim.cli import Parser, at_least, run


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description='Write the info files of VAD from nuScenes.')
    parser.add_argument('dataset', choices=['nuscenes'], help='the data set')
    parser.add_argument('--root-path', default='./data/nuscenes', help='folder of nuScenes (samples, maps, v1.0-*)')
    parser.add_argument('--canbus', help='folder that holds can_bus (default: beside or in --root-path), or none')
    parser.add_argument('--version', default='v1.0', help='v1.0, v1.0-trainval, v1.0-mini or v1.0-test')
    parser.add_argument('--max-sweeps', type=at_least(0), default=10, help='LiDAR sweeps listed per key frame')
    parser.add_argument('--out-dir', help='folder of the info files (default: --root-path)')
    parser.add_argument('--extra-tag', default='vad_nuscenes', help='first part of the file names')
    parser.add_argument('--workers', type=at_least(1), default=min(4, os.cpu_count() or 1), help='processes')
    parser.add_argument('--skip-broken', action='store_true', help='leave out scenes with missing or damaged files')
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Convert one version, or two; says what was written."""
    args = parse_args(argv)
    from rich.console import Console
    from rich.progress import track

    from vadslim.nuscenes_data.converter import convert

    console = Console(highlight=False, soft_wrap=True, markup=False)
    root = Path(args.root_path)
    can_bus = args.canbus or (root if (root / 'can_bus').is_dir() else root.parent)
    if args.canbus == 'none':
        can_bus = None
    versions = [args.version]
    if args.version == 'v1.0':
        versions = ['v1.0-trainval'] + ['v1.0-test'] * (root / 'v1.0-test').is_dir()
    for version in versions:
        console.print(f'{version}: reading the tables of {root}')
        files = convert(
            args.root_path,
            args.out_dir or root,
            can_bus,
            version,
            args.extra_tag,
            args.max_sweeps,
            partial(track, description=f'{version}: scenes', console=console),
            console.print,
            args.workers,
            args.skip_broken,
        )
        for path, frames in files:
            console.print(f'{path}: {frames} frames')


if __name__ == '__main__':
    sys.exit(run(main))
