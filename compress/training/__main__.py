"""`python -m compress.training`: takes part in the training of the process that started it."""

import sys

from compress.errors import UserError
from compress.training import distributed

if __name__ == "__main__":
    try:
        sys.exit(distributed.run(lambda: 0))
    except UserError:
        sys.exit(2)  # rank 0 reports it
