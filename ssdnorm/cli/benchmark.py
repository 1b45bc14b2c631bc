"""Measure the tables of docs/performance.md: python scripts/benchmark.py --output runs/benchmark

Ours and the peers run in turns in one process; the numbers are medians, and medians of ratios. Every goal stands beside
its measured number. One thread by default, where processor time is counted and other work matters little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from ssdnorm.bench.table import Settings, Table, attempt, machine, put_into_page, write_tables
from ssdnorm.cli.refuse import no_more_words

HELP = "measure speed and memory beside the peers, and which goals are met"

# ssdnorm.bench.<name>.measure(settings) -> Table
TABLES = (
    *("kernels", "loss", "post_process", "l2_norm", "fold", "network", "training_step"),
    *("pipeline", "reading", "cached_images", "evaluation", "growth"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--only", nargs="+", choices=TABLES, metavar="TABLE", help=f"some of: {', '.join(TABLES)}")
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes; under three minutes")
    parser.add_argument("--output", type=Path, help="folder for benchmark.md and benchmark.json")
    parser.add_argument("--page", type=Path, help="Markdown page whose marked part is replaced by the tables")
    parser.add_argument("--images", type=Path, help="folder of JPEGs for the pipeline; drawn photos without it")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--gpu", action="store_true", help="the GPU's tables instead: training, inference, kernels")
    parser.add_argument("--workers", type=int, default=16, help="loading processes of --gpu (default 16)")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Measure, print, write after every table."""
    no_more_words(rest)
    if arguments.threads < 1:
        raise ValueError(f"--threads: must be 1 or more; got {arguments.threads}")
    if arguments.page is not None and not arguments.page.is_file():
        raise FileNotFoundError(f"--page: {arguments.page} is not there")
    if arguments.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu: PyTorch sees no GPU here; leave it out to measure on the CPU")
    torch.set_num_threads(arguments.threads)
    about = {"command": " ".join(["python scripts/benchmark.py", *sys.argv[1:]]), **machine()}
    tables: list[Table] = []
    for part in _gpu(arguments) if arguments.gpu else _host(arguments):
        tables.append(part())
        print(f"{tables[-1].markdown()}\n", flush=True)
        if arguments.output is not None:
            write_tables(arguments.output, tables, about)
    if arguments.page is not None:
        put_into_page(arguments.page, tables, about)
    failed = [table.name for table in tables if table.failed]
    if failed:
        raise ValueError(f"could not be measured: {', '.join(failed)}")


def _host(arguments: argparse.Namespace) -> list[Callable[[], Table]]:
    settings = Settings(quick=arguments.quick, images=arguments.images)

    def measure(name: str) -> Table:
        table: Table = import_module(f"ssdnorm.bench.{name}").measure(settings)
        return table

    return [partial(attempt, name, partial(measure, name)) for name in arguments.only or TABLES]


def _gpu(arguments: argparse.Namespace) -> list[Callable[[], Table]]:
    from ssdnorm.bench.gpu import gpu_parts
    from ssdnorm.bench.gpu_training import Plan

    plan = Plan(torch.device("cuda"), workers=arguments.workers, images=arguments.images)
    return gpu_parts(replace(plan, batch_sizes=(8, 64)) if arguments.quick else plan)
