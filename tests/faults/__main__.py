"""Try faults and print a table: python -m tests.faults [--every N] [trial …]; exit code 1 if anything failed.

Everything takes about fifty minutes of processor time; --every 10 tries every tenth place.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; the children are forked

import torch

from tests.faults.trials import TRIALS, Bench


def run(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("trials", nargs="*", choices=[[], *TRIALS], help="default: all")
    parser.add_argument("--every", type=int, default=1, help="try every Nth place only (1)")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), arguments.every)
        print(f"{'test':<56} {'tried':>6} {'failed':>6}")
        for name in arguments.trials or TRIALS:
            for trial in TRIALS[name](bench):
                print(f"{trial.name:<56} {trial.tried:>6} {len(trial.failures):>6}", flush=True)
                failures += trial.failures
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run())
