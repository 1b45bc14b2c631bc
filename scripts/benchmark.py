"""Measure speed beside other implementations: `python scripts/benchmark.py …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ssdnorm.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]], {"benchmark": "benchmarks.command"}))
