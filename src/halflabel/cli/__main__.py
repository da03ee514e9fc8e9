"""`python -m halflabel.cli`, for launchers that start a module."""

import sys

from halflabel_cli import main

if __name__ == "__main__":
    sys.exit(main())
