"""`python scripts/convert.py …` is `ssdnorm convert …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
