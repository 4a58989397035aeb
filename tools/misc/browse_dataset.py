"""Draw what a config's pipeline gives the network: ``python tools/misc/browse_dataset.py CONFIG [--help]``."""

import sys

from vadslim import browse, cli

if __name__ == '__main__':
    sys.exit(cli.run(browse.main))
