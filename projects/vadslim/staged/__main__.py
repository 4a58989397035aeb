"""``python -m vadslim.staged``: what a sweep starts."""

import sys

from vadslim.staged.cli import main

if __name__ == '__main__':
    sys.exit(main())
