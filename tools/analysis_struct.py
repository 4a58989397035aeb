#!/usr/bin/env python
"""Prunes a trained network and trains what is left; see ``--help``."""

import sys

from vadslim.slimming import main

if __name__ == '__main__':
    sys.exit(main())
