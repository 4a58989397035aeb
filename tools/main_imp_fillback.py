"""Train a sparse network by IMP, Refill or RSST: ``python tools/main_imp_fillback.py --help``."""

import sys

from vadslim.sparse_training.cli import main

if __name__ == '__main__':
    sys.exit(main())
