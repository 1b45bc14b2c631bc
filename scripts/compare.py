"""`python scripts/compare.py …` is `ssdnorm compare …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
