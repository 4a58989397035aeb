#!/usr/bin/env python
"""Runs a staged config for a grid of settings; see ``--help``."""

import sys

from vadslim.staged.sweep_cli import main

if __name__ == '__main__':
    sys.exit(main())
