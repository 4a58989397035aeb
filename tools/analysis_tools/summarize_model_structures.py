#!/usr/bin/env python
"""Summarises analysed models, side by side: JSON, text, a page, pictures; see ``--help``."""

import sys

from vadslim.analysis.summary_command import main

if __name__ == '__main__':
    sys.exit(main())
