"""``python -m vadslim.slimming``: the pruning command, as torchrun starts it."""

import sys

from vadslim.slimming import main

if __name__ == '__main__':
    sys.exit(main())
