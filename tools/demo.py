"""The whole path on synthetic data, in about ten minutes on two cores: ``make demo``."""

import sys

from vadslim.demo import main

if __name__ == '__main__':
    sys.exit(main())
