"""`python -m decoding` is the command `decoding`."""

import sys

from decoding.cli import main

if __name__ == "__main__":
    sys.exit(main())
