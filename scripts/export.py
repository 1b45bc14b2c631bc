"""`python scripts/export.py …` is `ssdnorm export …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
