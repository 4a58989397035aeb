#!/usr/bin/env python
"""Compares runs of sparse training, ours and the predecessor's: tables, CSV, pictures; see ``--help``."""

import sys

from vadslim.analysis.sparse_command import analyze

if __name__ == '__main__':
    sys.exit(analyze())
