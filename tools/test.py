"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT [--help]``."""

import sys

from vadslim import cli, evaluate

if __name__ == '__main__':
    sys.exit(cli.run(evaluate.main))
