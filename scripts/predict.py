"""`python scripts/predict.py …` is `ssdnorm predict …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
