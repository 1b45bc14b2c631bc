"""This file is about where time and memory go: what took most of a call, and the most memory that it held."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def top_operators(call: Callable[[], Any], *, repeats: int = 3, number: int = 8) -> str:
    """The operators with the largest own time in ``call``, each with its share and its calls, in one line."""
    call()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as profiler:
        for _ in range(repeats):
            call()
    averages = profiler.key_averages()
    on_device = any(row.self_device_time_total for row in averages)
    seconds = {row.key: row.self_device_time_total if on_device else row.self_cpu_time_total for row in averages}
    calls = {row.key: row.count // repeats for row in averages}
    total = sum(seconds.values()) or 1.0
    top = sorted(seconds, key=lambda name: -seconds[name])[:number]
    return ", ".join(f"{name.removeprefix('aten::')} {seconds[name] / total:.0%} ({calls[name]}×)" for name in top)


def top_functions(call: Callable[[], Any], *, number: int = 8) -> str:
    """The same for Python's functions, for work that is not PyTorch's."""
    profiler = cProfile.Profile()
    profiler.runcall(call)
    # (file, line, function) → primitive calls, calls, own seconds, …
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(row[2] for row in stats.values()) or 1.0
    top = sorted(stats, key=lambda key: -stats[key][2])[:number]
    return ", ".join(f"{_name(*key)} {stats[key][2] / total:.0%} ({stats[key][1]}×)" for key in top)


def peak_megabytes(call: Callable[[], Any]) -> float:
    """The most memory that PyTorch's CPU allocator held at once for ``call``, beyond what it held before.

    Example:
        >>> peak_megabytes(lambda: torch.ones(1_000_000).add(1).sum()) > 7.9  # two tensors of 4 MB
        True
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events), default=0) / 1e6


def _name(file: str, line: int, function: str) -> str:
    return function if file == "~" else f"{Path(file).stem}.{function}"
