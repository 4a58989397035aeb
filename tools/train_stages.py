#!/usr/bin/env python
"""Runs the stages of one config; see ``--help``."""

import sys

from vadslim.staged.cli import main

if __name__ == '__main__':
    sys.exit(main())
