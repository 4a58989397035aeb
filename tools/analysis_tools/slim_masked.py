#!/usr/bin/env python
"""Makes the network that is in a masked checkpoint physically smaller, with equal outputs; see ``--help``."""

import sys

from vadslim.slimming.masked import main

if __name__ == '__main__':
    sys.exit(main())
