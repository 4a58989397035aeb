#!/usr/bin/env python
"""Says what a checkpoint holds, and what it has lost against the model it was pruned from; see ``--help``."""

import sys

from vadslim.analysis.structure_command import main

if __name__ == '__main__':
    sys.exit(main())
