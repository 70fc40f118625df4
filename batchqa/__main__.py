"""`python -m batchqa` is the command `batchqa`."""

import sys

from batchqa.cli import main

if __name__ == "__main__":
    sys.exit(main())
