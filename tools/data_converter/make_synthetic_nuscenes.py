"""Write a synthetic data set in the format of nuScenes v1.0-mini.

python tools/data_converter/make_synthetic_nuscenes.py --out data/synthetic-nuscenes
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vadslim.cli import Parser, at_least, run


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description='Write a synthetic data set in the format of nuScenes v1.0-mini.')
    parser.add_argument('--out', type=Path, required=True, help='its folder, e.g. data/synthetic-nuscenes')
    parser.add_argument('--scenes', type=int, default=10, help='2 to 10 of the official mini scenes (default 10)')
    parser.add_argument('--seed', type=int, default=0, help='of streets, traffic and noise (default 0)')
    parser.add_argument('--samples', type=int, default=40, help='key frames per scene, 0.5 s apart (default 40)')
    parser.add_argument('--quality', type=int, default=25, help='JPEG quality (default 25)')
    parser.add_argument(
        '--workers', type=at_least(1), default=os.cpu_count() or 1, help='processes (default: all cores)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a data set, and all that was added to --out')
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Write the data set, or find it written; says which."""
    args = parse_args(argv)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vadslim.nuscenes_data.synthetic import Settings, generate

    started = time.monotonic()
    settings = Settings(args.scenes, args.seed, args.samples, args.quality)
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done)

        result = generate(args.out, settings, args.workers, args.overwrite, show)
    size = f'{result.files} files, {result.size / 1e6:.1f} MB'
    if result.reused:
        print(f'{result.root}: complete with these settings already ({size}), reused')
    else:
        print(f'{result.root}: {size}, written in {time.monotonic() - started:.0f} s')


if __name__ == '__main__':
    sys.exit(run(main))
