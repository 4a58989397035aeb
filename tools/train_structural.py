#!/usr/bin/env python
"""Trains the structural stage of configs/staged/default.yaml by the flags of old; see ``--help``."""

import sys

from vadslim.staged.doors import structural

if __name__ == '__main__':
    sys.exit(structural())
