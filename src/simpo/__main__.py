"""`python -m simpo` is `simpo`."""

import sys

from simpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
