"""This file is about where the time goes: the operators that took most of a call."""

from __future__ import annotations

from collections.abc import Callable
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
