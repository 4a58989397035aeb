"""Draw predictions: ``python tools/analysis_tools/visualization.py --result-path FILE --save-path DIR [--help]``."""

import sys

from vadslim import cli, visualize

if __name__ == '__main__':
    sys.exit(cli.run(visualize.main))
