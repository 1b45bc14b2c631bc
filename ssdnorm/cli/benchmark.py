"""Measure what the documentation quotes: python scripts/benchmark.py --only l2_norm

Prints each table in Markdown, with the machine it was measured on. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence

import torch

from ssdnorm.bench.fold import fold_table, measure_fold
from ssdnorm.bench.l2_norm import l2_norm_goals, l2_norm_table, measure_l2_norm
from ssdnorm.cli.refuse import no_more_words

HELP = "measure the tables of the documentation"

_L2_NORM_SHAPE = (8, 512, 38, 38)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--only", nargs="+", choices=TABLES, metavar="TABLE", help=f"some of: {', '.join(TABLES)}")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--repeats", type=int, default=40, help="rounds that count (default 40)")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Measure and print."""
    no_more_words(rest)
    for name in ("threads", "repeats"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name}: must be 1 or more; got {getattr(arguments, name)}")
    torch.set_num_threads(arguments.threads)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"{arguments.threads} thread(s), {device}, torch {torch.__version__}, Python {platform.python_version()}")
    for name in arguments.only or TABLES:
        print(f"\n{name}\n\n{TABLES[name](arguments.repeats)}", flush=True)


def _l2_norm(repeats: int) -> str:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = measure_l2_norm(_L2_NORM_SHAPE, repeats=repeats, device=device)
    input_mb = 4 * torch.Size(_L2_NORM_SHAPE).numel() / 1e6
    return f"{l2_norm_table(rows)}\n\n{l2_norm_goals(rows, input_mb=input_mb)}"


def _fold(repeats: int) -> str:
    return fold_table(measure_fold(repeats=max(3, repeats // 4)))


TABLES: dict[str, Callable[[int], str]] = {"l2_norm": _l2_norm, "fold": _fold}
