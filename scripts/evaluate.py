"""`python scripts/evaluate.py …` is `ssdnorm evaluate …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
