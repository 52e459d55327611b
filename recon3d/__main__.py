"""``python -m recon3d``: the command line, as torchrun starts it."""

import sys

from recon3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
