#!/usr/bin/env python
"""Says what a checkpoint holds, and what it has lost against the model it was pruned from, or costs; see ``--help``."""

import sys

from vadslim.model_analysis import main

if __name__ == '__main__':
    sys.exit(main())
