"""`python scripts/train.py …` is `ssdnorm train …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
