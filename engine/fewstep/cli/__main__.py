"""`python -m fewstep.cli` is `fewstep`."""

import sys

from fewstep.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
