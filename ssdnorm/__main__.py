"""`python -m ssdnorm train …` is `ssdnorm train …`."""

import sys

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main())
