#!/usr/bin/env python
"""Measures how long slimming takes and how much memory: from the built network to the written checkpoint.

Usage:     python tools/misc/benchmark_slimming.py [CONFIG] [--ratio 0.3] [--repeats 3]
Expected:  VAD-tiny on two cores: at most 30 s and 4 GB.
Each repetition is a process of its own, so that its peak memory is its own too. CPU time is that of the whole
process, imports included; on a busy machine it says more than the clock on the wall.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'VAD' / 'VAD_tiny_stage_2.py'


def measure_once(config: Path, ratio: float) -> dict:
    """Slims once in this process and returns seconds per stage, the total and the peak memory in GB."""
    from rich.console import Console

    from vadslim.slimming.options import parse
    from vadslim.slimming.outputs import SLIM, slim_checkpoint, write_slim
    from vadslim.slimming.prune import Clock, slim_network

    with tempfile.TemporaryDirectory() as folder:
        options = parse([str(config), 'random', '--pruning-ratio', str(ratio), '--output-dir', folder])
        clock = Clock(Console(stderr=True))
        slimmed = slim_network(options, 'cpu', clock)
        with clock('writing'):
            checkpoint, _ = slim_checkpoint(slimmed.network, slimmed.slim, slimmed.step, slimmed.structure)
            write_slim(checkpoint, Path(folder) / SLIM, slimmed.network)
            slimmed.structure.save(Path(folder) / 'structure.json')
    total = sum(seconds for what, seconds in clock.seconds.items() if what != 'building the network')
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **clock.seconds,
        'slimming, built to written': total,
        'CPU time of the process': used.ru_utime + used.ru_stime,
        'peak memory (GB)': used.ru_maxrss / 2**20,
    }


def main() -> int:
    """Prints the medians over the repetitions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', nargs='?', type=Path, default=CONFIG)
    parser.add_argument('--ratio', type=float, default=0.3)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--once', action='store_true', help='measure in this process and print JSON')
    args = parser.parse_args()
    if args.once:
        print(json.dumps(measure_once(args.config, args.ratio)))
        return 0
    runs = []
    for number in range(args.repeats):
        print(f'{time.strftime("%H:%M:%S")} repetition {number + 1} of {args.repeats}', flush=True)
        command = [sys.executable, __file__, str(args.config), '--ratio', str(args.ratio), '--once']
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    print(f'{args.config.name}, ratio {args.ratio}, medians of {args.repeats}:')
    for what in runs[0]:
        unit = '' if 'GB' in what else ' s'
        print(f'  {what:<28}{statistics.median(run[what] for run in runs):8.2f}{unit}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
