#!/usr/bin/env python
"""Says what differs between two networks: structure files, slim and dense checkpoints; see ``--help``."""

import sys

from vadslim.analysis.compare_command import main

if __name__ == '__main__':
    sys.exit(main())
