"""Classic demonstrations of normalisation: `python scripts/lab.py NAME …` is `python examples/lab/NAME.py …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "lab"))

from demonstration import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
