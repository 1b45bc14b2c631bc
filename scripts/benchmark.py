"""`python scripts/benchmark.py …` is `ssdnorm benchmark …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
