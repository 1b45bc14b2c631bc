"""`python scripts/lab.py …` is `ssdnorm lab …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["lab", *sys.argv[1:]]))
