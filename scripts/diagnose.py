"""`python scripts/diagnose.py …` is `ssdnorm diagnose …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["diagnose", *sys.argv[1:]]))
