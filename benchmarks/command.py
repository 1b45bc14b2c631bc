"""Measure speed beside other implementations: python scripts/benchmark.py --output runs/benchmark

Ours and the peers run in turns in one process; the numbers are medians, and medians of ratios. Every goal stands beside
its measured number. One thread by default, for which processor time counts and other programs matter little.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import Table, attempt, goals_table, render_page, report, write_tables
from benchmarks.timing import Settings
from ssdnorm.cli.checks import parse_device
from ssdnorm.engine.precision import choose_precision
from ssdnorm.provenance import git_commit

# benchmarks.<subject>.measure(settings) -> Table; on a GPU only what runs there
CPU_SUBJECTS = (
    *("startup", "training_step", "predict", "pipeline", "reading", "evaluation", "voc"),
    *("loss", "post_process", "l2_norm", "operations"),
)
GPU_SUBJECTS = ("training_step", "loader", "predict", "loss", "post_process", "l2_norm", "operations")
SUBJECTS = tuple(dict.fromkeys(CPU_SUBJECTS + GPU_SUBJECTS))
# options that only some subjects read
_READ_BY = {"images": ("pipeline", "predict", "loader"), "workers": ("loader",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    listed = f"default: {', '.join(CPU_SUBJECTS)}; on a GPU {', '.join(GPU_SUBJECTS)}"
    parser.add_argument("--only", nargs="*", metavar="SUBJECT", help=f"some of them ({listed}); none renders the page")
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes: about a minute")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--output", type=Path, help="folder for benchmark.md and benchmark.json")
    parser.add_argument("--page", type=Path, help="page to renew, with the JSON file beside it that it is made from")
    parser.add_argument("--images", type=Path, help="folder of JPEGs for what loads some; drawn photos without it")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--workers", type=int, help="loading processes of loader (default 16)")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Measure, print, write after every table."""
    subjects = _check(arguments)
    device = parse_device(arguments.device)
    on_gpu = device.type == "cuda"
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = on_gpu  # cuDNN chooses its algorithms by measuring, as in training
    settings = Settings(
        device=device,
        quick=arguments.quick,
        bf16=choose_precision(device.type) == "bf16-mixed",
        compiled=on_gpu and not arguments.quick,
        images=arguments.images,
        workers=16 if arguments.workers is None else arguments.workers,
    )
    machine = _describe_machine(device)
    tables: list[Table] = []
    for name in subjects:
        tables.append(attempt(name, partial(_measure, name, settings)))
        tables[-1].machine = machine
        print(f"{tables[-1].markdown()}\n\n{goals_table(tables[-1:])}\n", flush=True)
        if arguments.output is not None:
            written = write_tables(arguments.output / "benchmark.json", tables[-1:])
            (arguments.output / "benchmark.md").write_text(f"{report(written)}\n", encoding="utf-8")
    failed = [table.name for table in tables if table.failed]
    if arguments.page is not None:
        write_tables(arguments.page.with_suffix(".json"), [table for table in tables if not table.failed])
        render_page(arguments.page)
    if failed:
        raise ValueError(f"could not be measured: {', '.join(failed)}")


def _measure(name: str, settings: Settings) -> Table:
    table: Table = import_module(f"benchmarks.{name}").measure(settings)
    return table


def _describe_machine(device: torch.device) -> dict[str, Any]:
    """What measurements depend on: device, processor, threads, load, versions, commit."""
    gpu = {
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
    }
    return {
        "device": device.type,
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        **gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless")},
        "commit": git_commit(),
    }


def _check(arguments: argparse.Namespace) -> Sequence[str]:
    """The chosen subjects; refuses unknown ones, and options that none of them reads."""
    if arguments.threads < 1:
        raise ValueError(f"--threads: must be 1 or more; got {arguments.threads}")
    if arguments.workers is not None and arguments.workers < 0:
        raise ValueError(f"--workers: must be 0 or more; got {arguments.workers}")
    default = GPU_SUBJECTS if arguments.device.startswith("cuda") else CPU_SUBJECTS
    chosen: Sequence[str] = default if arguments.only is None else arguments.only
    for name in chosen:
        if name not in SUBJECTS:
            raise ValueError(f"--only: unknown subject {name!r}; choose some of: {', '.join(SUBJECTS)}")
    for option, readers in _READ_BY.items():
        if getattr(arguments, option) is not None and not set(readers) & set(chosen):
            raise ValueError(f"--{option}: no chosen subject reads it; {', '.join(readers)} would")
    if arguments.page is not None and not arguments.page.is_file():
        raise FileNotFoundError(f"--page: {arguments.page} is not there")
    return chosen
