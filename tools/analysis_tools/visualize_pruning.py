#!/usr/bin/env python
"""Draws a run of sparse training level by level; see ``--help``."""

import sys

from vadslim.analysis.sparse_command import visualize

if __name__ == '__main__':
    sys.exit(visualize())
