#!/usr/bin/env python
"""Says of each model in a folder what it holds, and what it has lost; see ``--help``."""

import sys

from vadslim.analysis.batch_command import main

if __name__ == '__main__':
    sys.exit(main())
