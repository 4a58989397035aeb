#!/usr/bin/env python
"""Run a parity case and write its outputs under the keys of the stored reference outputs.

    tools/misc/parity.py --reference DIR --case small|tiny|base_small [--train] --out X.npz

DIR holds weight_rule.py and inputs.py.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'VAD'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', required=True, metavar='DIR', help='folder with weight_rule.py and inputs.py')
    parser.add_argument('--case', required=True, choices=('small', 'tiny', 'base_small'))
    parser.add_argument('--train', action='store_true', help='losses and gradients of a training step')
    parser.add_argument('--out', required=True, metavar='X.npz', help='file to write')
    args = parser.parse_args()

    from vadslim.checkpoint import atomic_write
    from vadslim.vad import parity

    try:
        reference = parity.Reference(args.reference)
    except FileNotFoundError as error:
        parser.error(str(error))
    out = Path(args.out)
    if not out.parent.is_dir() or out.is_dir():
        parser.error(f'--out {out}: name a file in a folder that exists')
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
