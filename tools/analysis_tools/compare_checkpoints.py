#!/usr/bin/env python
"""Says what differs between two checkpoints: stage, epoch, metric, config, tensors; compare.py by another name."""

import sys

from vadslim.analysis.compare_command import main

if __name__ == '__main__':
    sys.exit(main())
