"""This file is about what one picture costs from pixels to detections, beside torchvision's SSD300."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu_limits import GFLOP_AN_IMAGE
from benchmarks.operators import top_operators
from benchmarks.table import Goal, Settings, Table, interleaved, seconds_to_compile
from benchmarks.torchvision_ssd import torchvision_detector
from ssdnorm.detector import Detector, compile_for_inference
from ssdnorm.layers.fold import fold_batch_norm
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import ssd300_vgg16

_NUM_CLASSES = 21
_PEER, _OURS, _COMPILED = "torchvision ssd300_vgg16", "ours", "ours, compiled and frozen"


@torch.inference_mode()
def measure(settings: Settings) -> Table:
    """A photo of 500 × 375 pixels, batch 1, drawn weights; the compiled network only without ``quick``."""
    table = Table(
        "network",
        "From a picture of 500 × 375 pixels (floats in [0, 1]) to detections, batch 1, SSD300-VGG16 with 21 classes "
        "and drawn weights: resize, normalisation, network, post-processing. Ours is the detector that `predict` uses, "
        "channels-last and batch norms folded; compiled means `predict --compile`, with the weights frozen. On one "
        "core and on all of them, which `predict` takes; the goals are about all. The limit is the rate of one 3 × 3 "
        "convolution of 256 channels at 75 × 75 in the same rounds, at which the network's 62.75 GFLOP are counted: "
        "whoever multiplies no less cannot be faster than that.",
    )
    before = torch.get_num_threads()
    try:
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            table.goals = _measure_on(threads, table, settings)
    finally:
        torch.set_num_threads(before)
    return table


def _measure_on(threads: int, table: Table, settings: Settings) -> list[Goal]:
    """Add the rows of so many threads; what they say about the goals."""
    model = ssd300_vgg16(_NUM_CLASSES, dropout=0)
    folded: Any = fold_batch_norm(model)
    eager = Detector(folded, None, PostProcess(model.default_boxes), antialias=False).eval().to(settings.device)
    peer = torchvision_detector(_NUM_CLASSES).eval().to(settings.device)
    pictures = [torch.rand(3, 375, 500, generator=torch.Generator().manual_seed(0)).to(settings.device)]
    calls: dict[str, Callable[[], Any]] = {_PEER: lambda: peer(pictures), _OURS: lambda: eager(pictures)}
    if not settings.quick:
        compiled = copy.deepcopy(eager)
        example = torch.rand(1, 3, 300, 300, device=settings.device).contiguous(memory_format=torch.channels_last)
        seconds = seconds_to_compile(lambda: compile_for_inference(compiled.model, example))
        table.notes.append(
            f"Compiling for {_threads(threads)} took {seconds:.0f} s, nothing taken from PyTorch's cache."
        )
        calls[_COMPILED] = lambda: compiled(pictures)
    x, weight = torch.rand(1, 256, 75, 75, device=settings.device), torch.rand(256, 256, 3, 3, device=settings.device)
    x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    calls["limit"] = lambda: F.conv2d(x, weight, padding=1)
    repeats = 2 if settings.quick else 8
    times = interleaved(calls, repeats=repeats, synchronize=settings.synchronize, clock=settings.clock)
    limit_ms = times.ms("limit") * GFLOP_AN_IMAGE * 1e9 / (2 * 75**2 * 256**2 * 9)
    names = [name for name in calls if name != "limit"]
    for name in names:
        row = {"threads": threads, "candidate": name, "ms": times.ms(name), "times_faster": times.ratio(_PEER, name)}
        table.rows.append({**row, "of_the_limit": limit_ms / times.ms(name)})
    goals = [Goal("a picture to detections, over torchvision", 1.2, times.ratio(_PEER, _OURS))]
    if settings.quick:
        goals.append(Goal("the same, compiled and frozen", 1.45, None, note="left out by --quick"))
    else:
        goals.append(Goal("the same, compiled and frozen", 1.45, times.ratio(_PEER, _COMPILED)))
    for goal, name in zip(goals, names[1:], strict=False):
        if goal.met is False:
            profile = top_operators(calls[name], repeats=1)
            table.notes.append(
                f"Where the time of '{name}' on {_threads(threads)} goes: {profile}. At the limit the factor would be "
                f"{times.ms(_PEER) / limit_ms:.2f}."
            )
    return goals


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"
