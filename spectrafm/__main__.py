"""``python -m spectrafm`` is the command ``spectrafm``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
