#!/usr/bin/env python
"""Run a parity case, or the metrics on stored inputs, and write the outcome under the keys of the stored reference.

    tools/misc/parity.py --reference DIR --case small|tiny|base_small [--train] --out X.npz
    tools/misc/parity.py --metrics INPUTS.npz --out X.json

DIR holds weight_rule.py and inputs.py; INPUTS.npz is laid out as vadslim/vad/metric_parity.py says.
"""

import argparse
import json
import sys
import zipfile
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'VAD'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', metavar='DIR', help='folder with weight_rule.py and inputs.py')
    parser.add_argument('--case', choices=('small', 'tiny', 'base_small'))
    parser.add_argument('--train', action='store_true', help='losses and gradients of a training step')
    parser.add_argument('--metrics', metavar='INPUTS.npz', help='predictions and ground truth to evaluate')
    parser.add_argument('--out', required=True, metavar='X', help='file to write, .npz or with --metrics .json')
    args = parser.parse_args()
    out = Path(args.out)
    if not out.parent.is_dir() or out.is_dir():
        parser.error(f'--out {out}: name a file in a folder that exists')
    if args.metrics:
        if args.reference or args.case or args.train:
            parser.error('--metrics stands alone, with --out')
        return evaluate_metrics(parser, Path(args.metrics), out)
    if not (args.reference and args.case):
        parser.error('give --reference and --case, or --metrics')
    return run_case(parser, args, out)


def evaluate_metrics(parser: argparse.ArgumentParser, path: Path, out: Path) -> int:
    """Evaluate stored inputs."""
    from vadslim.files import atomic_write
    from vadslim.vad.metric_parity import evaluate_inputs

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        report = evaluate_inputs(arrays)
    except OSError as error:
        parser.error(f'--metrics {path}: cannot be read: {error.strerror or error}')
    except (AttributeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        parser.error(f'--metrics {path}: not a whole npz file of the layout: {error}')
    except KeyError as error:
        parser.error(f'--metrics {path}: has no array {error}')
    with atomic_write(out) as file:
        file.write(json.dumps(report, indent=1) + '\n')
    print(f'{", ".join(report)} -> {out}')
    return 0


def run_case(parser: argparse.ArgumentParser, args: argparse.Namespace, out: Path) -> int:
    """Run the network."""
    from vadslim.files import atomic_write
    from vadslim.vad import parity

    try:
        reference = parity.Reference(args.reference)
    except FileNotFoundError as error:
        parser.error(str(error))
    size = 'base' if args.case == 'base_small' else 'tiny'
    model = parity.build(reference, args.case, CONFIGS / f'VAD_{size}_stage_2.py')
    run = parity.run_train if args.train else parity.run_test
    arrays = run(model, reference, args.case)
    with atomic_write(out, 'wb') as file:
        np.savez_compressed(file, **arrays)
    print(f'{len(arrays)} arrays -> {out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
