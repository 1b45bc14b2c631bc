"""Classic demonstrations of normalisation: `python scripts/lab.py …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["lab", *sys.argv[1:]], {"lab": "examples.lab.command"}))
