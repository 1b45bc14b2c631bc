"""This file is about the goals that only a GPU decides: not measured on the CPU's page, measured by ``--gpu``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.table import Goal, Settings, Table

GOAL_BATCH = 64
_NO_GPU = "no GPU; `--gpu` measures it"
_AT = f"on a GPU, batch {GOAL_BATCH}:"

GPU_GOALS = {
    "rate": Goal(f"{_AT} training", 1400, None, "images/s", note=_NO_GPU),
    "over_torchvision": Goal(f"{_AT} training step, over torchvision with autocast", 3, None, note=_NO_GPU),
    "of_conv": Goal(f"{_AT} training step, of the bf16 convolution rate", 0.45, None, "", note=_NO_GPU),
    "real_batches": Goal(f"{_AT} training from JPEGs, of drawn batches", 0.9, None, "", note=_NO_GPU),
    "l2_norm": Goal("on a GPU: L2Norm forward, compiled, of the copy rate", 0.8, None, "", note=_NO_GPU),
    "loss operations": Goal("on a GPU: loss, operations at any batch", 120, None, "", True, _NO_GPU),
    "loss waits": Goal("on a GPU: loss, waits at any batch", 0, None, "", True, _NO_GPU),
    "post-processing operations": Goal(
        "on a GPU: post-processing of 20 objects, operations at any batch", 60, None, "", True, _NO_GPU
    ),
    "post-processing waits": Goal(
        "on a GPU: post-processing of 20 objects, waits at any batch", 4, None, "", True, _NO_GPU
    ),
}


def gpu_goal(name: str, measured: float | None) -> Goal:
    """The goal of that name with what was measured; None where a part of the GPU's run failed."""
    return replace(GPU_GOALS[name], measured=measured, note="" if measured is not None else "could not be measured")


def measure(settings: Settings) -> Table:
    """The goals as a run without a GPU knows them."""
    about = "What only a GPU decides; `python scripts/benchmark.py --gpu` measures it, in tables of its own."
    return Table("gpu_goals", about, goals=list(GPU_GOALS.values()))
