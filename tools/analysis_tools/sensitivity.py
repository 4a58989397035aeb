#!/usr/bin/env python
"""Measures what each Group of a trained network costs when it alone is slimmed; see ``--help``."""

import sys

from vadslim.slimming.sensitivity import main

if __name__ == '__main__':
    sys.exit(main())
