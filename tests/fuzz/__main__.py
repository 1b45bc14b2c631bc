"""Try thousands of hostile inputs of each kind and print a table: python -m tests.fuzz [--cases 10000] [KIND …]"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.kinds import KINDS
from tests.fuzz.outcome import failure, memory_limit


def main() -> int:
    """Exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: {', '.join(KINDS)}")
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases (0)")
    parser.add_argument("--seconds", type=int, default=60, help="a case that takes longer has failed (60)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()
    failed = 0
    print(f"{'test':<20}{'tried':>8}{'failed':>8}", flush=True)
    for name in arguments.kinds or KINDS:
        tried, failures = run(name, arguments)
        failed += failures.total()
        print(f"{name:<20}{tried:>8}{failures.total():>8}", flush=True)
        for message, count in failures.most_common(12):
            print(f"    {count}× {message}", file=sys.stderr, flush=True)
    return int(failed > 0)


def run(name: str, arguments: argparse.Namespace) -> tuple[int, Counter[str]]:
    """How many cases of a kind were tried, and how often each failure was met."""
    kind, failures, tried = KINDS[name], Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:

        def count(case: object) -> None:
            nonlocal tried
            tried += 1
            with memory_limit():
                message = failure(lambda one: kind.read(one, Path(folder)), case, seconds=arguments.seconds)
            if message:
                failures[re.sub(r"(?<= )\d+|'[^']*'|0x\w+", "…", message)[:110]] += 1

        for case in kind.found():
            count(case)
        options = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
        searched = settings(max_examples=arguments.cases, phases=[Phase.generate], **options)
        seed(arguments.seed)(searched(given(kind.cases())(count)))()
    return tried, failures


if __name__ == "__main__":
    sys.exit(main())
