"""Train a config: ``python tools/train.py CONFIG [--help]``."""

import sys

from vadslim import cli, train

if __name__ == '__main__':
    sys.exit(cli.run(train.main))
