"""``python -m vadslim.sparse_training``: what torchrun starts."""

import sys

from vadslim.sparse_training.cli import main

if __name__ == '__main__':
    sys.exit(main())
