"""Write a synthetic dataset in the nuScenes v1.0-mini schema; see ``vadslim.nuscenes_data.synthetic``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='dataset root, e.g. data/synthetic-nuscenes')
    parser.add_argument('--scenes', type=int, default=10, help='2 to 10 of the official mini scenes (default 10)')
    parser.add_argument('--seed', type=int, default=0, help='of streets, traffic and noise (default 0)')
    parser.add_argument('--samples', type=int, default=40, help='keyframes per scene, 0.5 s apart (default 40)')
    parser.add_argument('--quality', type=int, default=25, help='JPEG quality (default 25)')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes (default: all cores)')
    parser.add_argument('--overwrite', action='store_true', help='replace a dataset, and all that was added to --out')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Write the dataset; returns the exit code."""
    started = time.monotonic()
    # Imported here because it takes seconds, in which --help should answer and Ctrl-C end quietly.
    from vadslim.nuscenes_data.synthetic import GenerationError, Settings, generate

    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        settings = Settings(args.scenes, args.seed, args.samples, args.quality)
        with Progress(*columns, console=Console(stderr=True)) as bar:
            tasks = {}

            def show(phase: str, done: int, total: int) -> None:
                if phase not in tasks:
                    tasks[phase] = bar.add_task(phase, total=total)
                bar.update(tasks[phase], completed=done)

            result = generate(args.out, settings, max(args.workers, 1), args.overwrite, show)
    except GenerationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    size = f'{result.files} files, {result.size / 1e6:.1f} MB'
    if result.reused:
        print(f'{result.root}: complete with these settings already ({size}), reused')
    else:
        print(f'{result.root}: {size}, written in {time.monotonic() - started:.0f} s')
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print(f'interrupted: {args.out} was not written', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
