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

from benchmarks.table import Settings, Table, attempt, machine, put_into_page, write_tables
from ssdnorm.cli.refuse import no_more_words

HELP = "measure speed and memory beside the peers, and which goals are met"

# benchmarks.<name>.measure(settings) -> Table
TABLES = (
    *("kernels", "loss", "post_process", "l2_norm", "fold", "network", "training_step"),
    *("pipeline", "reading", "cached_images", "evaluation", "growth", "gpu_goals"),
)
# benchmarks.gpu.gpu_parts(plan)[name]() -> Table
GPU_TABLES = (
    *("gpu_limits", "gpu_training", "gpu_real_batches", "gpu_inference", "gpu_kernels", "gpu_parts", "gpu_l2_norm"),
)
# options that only some tables look at
_READ_BY = {"images": ("pipeline", "cached_images", "gpu_real_batches"), "workers": ("gpu_real_batches",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    listed = f"{', '.join(TABLES)}; with --gpu {', '.join(GPU_TABLES)}"
    parser.add_argument("--only", nargs="+", metavar="TABLE", help=f"some of: {listed}")
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes; under three minutes")
    parser.add_argument("--output", type=Path, help="folder for benchmark.md and benchmark.json")
    parser.add_argument("--page", type=Path, help="Markdown page whose marked part is replaced by the CPU's tables")
    parser.add_argument("--images", type=Path, help="folder of JPEGs for what loads some; drawn photos without it")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--gpu", action="store_true", help="the GPU's tables instead: training, inference, kernels")
    parser.add_argument("--workers", type=int, help="loading processes of gpu_real_batches (default 16)")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Measure, print, write after every table."""
    no_more_words(rest)
    chosen = _check(arguments)
    torch.set_num_threads(arguments.threads)
    about = {"command": " ".join(["python scripts/benchmark.py", *sys.argv[1:]]), **machine()}
    tables: list[Table] = []
    parts = _gpu(arguments) if arguments.gpu else _host(arguments)
    for name in chosen:
        tables.append(parts[name]())
        print(f"{tables[-1].markdown()}\n", flush=True)
        if arguments.output is not None:
            write_tables(arguments.output, tables, about)
    if arguments.page is not None:
        put_into_page(arguments.page, tables, about)
    failed = [table.name for table in tables if table.failed]
    if failed:
        raise ValueError(f"could not be measured: {', '.join(failed)}")


def _check(arguments: argparse.Namespace) -> Sequence[str]:
    """The chosen tables; refuses what cannot be done, and what nothing would look at."""
    if arguments.threads < 1:
        raise ValueError(f"--threads: must be 1 or more; got {arguments.threads}")
    if arguments.workers is not None and arguments.workers < 0:
        raise ValueError(f"--workers: must be 0 or more; got {arguments.workers}")
    allowed, where = (GPU_TABLES, "with --gpu") if arguments.gpu else (TABLES, "without --gpu")
    chosen: Sequence[str] = arguments.only or allowed
    for name in chosen:
        if name not in allowed:
            raise ValueError(f"--only: unknown table {name!r}; {where} choose among: {', '.join(allowed)}")
    for option, readers in _READ_BY.items():
        if getattr(arguments, option) is not None and not set(readers) & set(chosen):
            raise ValueError(f"--{option}: no chosen table looks at it; {', '.join(readers)} would")
    if arguments.page is not None and arguments.gpu:
        raise ValueError("--page: takes the CPU's tables; with --gpu use --output FOLDER")
    if arguments.page is not None and not arguments.page.is_file():
        raise FileNotFoundError(f"--page: {arguments.page} is not there")
    if arguments.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu: PyTorch sees no GPU here; leave it out to measure on the CPU")
    return chosen


def _host(arguments: argparse.Namespace) -> dict[str, Callable[[], Table]]:
    settings = Settings(quick=arguments.quick, images=arguments.images)

    def measure(name: str) -> Table:
        table: Table = import_module(f"benchmarks.{name}").measure(settings)
        return table

    return {name: partial(attempt, name, partial(measure, name)) for name in TABLES}


def _gpu(arguments: argparse.Namespace) -> dict[str, Callable[[], Table]]:
    from benchmarks.gpu import gpu_parts
    from benchmarks.gpu_training import Plan

    plan = Plan(torch.device("cuda"), images=arguments.images)
    if arguments.workers is not None:
        plan = replace(plan, workers=arguments.workers)
    return gpu_parts(replace(plan, batch_sizes=(8, 64)) if arguments.quick else plan)
