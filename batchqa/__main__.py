"""`python -m batchqa` is the command `batchqa`."""

import sys

from batchqa.cli.entry import program

if __name__ == "__main__":
    sys.exit(program())
