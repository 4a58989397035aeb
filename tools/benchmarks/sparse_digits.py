"""IMP, Refill and RSST on the handwritten digits: ResNet-20 and ViT-tiny, several seeds, one table and plot.

    python tools/benchmarks/sparse_digits.py OUT --jobs 2

Each network and seed trains its dense level once; the three methods share it. Run again, it goes on where it was.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vadslim.cli import Parser, UserError, at_least, run, say

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ('resnet20', 'vit_tiny')
METHODS = ('imp', 'refill', 'rsst')


def main(argv: list[str]) -> int:
    """Train everything that is not there yet, then tell of it."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('output', type=Path, help='folder of the runs')
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--seeds', nargs='+', type=at_least(0), default=[0, 1, 2], metavar='N')
    parser.add_argument('--jobs', type=at_least(1), default=2, metavar='N', help='processes of one thread each (2)')
    given = parser.parse_args(argv)
    chains = [(network, seed) for seed in given.seeds for network in given.networks]
    given.output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        failed = [name for name in pool.map(lambda chain: train(given.output, *chain, given.methods), chains) if name]
    if failed:
        raise UserError(f'{", ".join(failed)} failed; the log beside the folder says why')
    analyze = [sys.executable, ROOT / 'tools' / 'analysis_tools' / 'analyze_results.py', given.output]
    options = ['--by-level', '--markdown', '--output-dir', given.output / 'analysis']
    return subprocess.run([*analyze, *options], check=False).returncode


def train(output: Path, network: str, seed: int, methods: list[str]) -> str:
    """All methods of one network and seed; returns the name of the first run that failed."""
    for method in methods:
        folder = output / f'{network}_{method}_seed_{seed}'
        command = [
            sys.executable,
            ROOT / 'tools' / 'main_imp_fillback.py',
            ROOT / 'configs' / 'sparse' / f'{network}_digits.py',
            *('--struct', method, '--seed', str(seed), '--save_dir', folder),
            *('--dense_level', output / f'{network}_dense_seed_{seed}'),
        ]
        say(f'{folder.name}: begins')
        with folder.with_suffix('.log').open('a') as log:
            environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
            done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
        if done.returncode:
            return folder.name
        say(f'{folder.name}: done')
    return ''


if __name__ == '__main__':
    sys.exit(run(main))
