#!/usr/bin/env python
"""Writes one table of what language models score and how they were pruned: CSV, Markdown, HTML, Excel, LaTeX."""

import sys

from vadslim.analysis.results_command import main

if __name__ == '__main__':
    sys.exit(main())
