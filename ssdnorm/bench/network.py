"""This file is about what one picture costs from pixels to detections, beside torchvision's SSD300."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from ssdnorm.bench.gpu_limits import GFLOP_AN_IMAGE
from ssdnorm.bench.operators import top_operators
from ssdnorm.bench.table import Goal, Settings, Table, interleaved
from ssdnorm.bench.torchvision_ssd import torchvision_detector
from ssdnorm.layers.fold import fold_batch_norm
from ssdnorm.models.compiled import compile_for_inference
from ssdnorm.models.detector import Detector
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import ssd300_vgg16

_NUM_CLASSES = 21
_PEER = "torchvision ssd300_vgg16"


@torch.inference_mode()
def measure(settings: Settings) -> Table:
    """A photo of 500 × 375 pixels, batch 1, drawn weights; the compiled network only without ``quick``."""
    table = Table(
        "network",
        "From a picture of 500 × 375 pixels (floats in [0, 1]) to detections, batch 1, SSD300-VGG16 with 21 classes "
        "and drawn weights: resize, normalisation, network, post-processing. Ours is the detector that `predict` uses, "
        "channels-last and batch norms folded; compiled means `predict --compile`, with the weights frozen.",
    )
    model = ssd300_vgg16(_NUM_CLASSES, dropout=0)
    eager = Detector(fold_batch_norm(model), None, PostProcess(model.default_boxes)).eval().to(settings.device)  # type: ignore[arg-type]
    peer = torchvision_detector(_NUM_CLASSES).eval().to(settings.device)
    pictures = [torch.rand(3, 375, 500, generator=torch.Generator().manual_seed(0)).to(settings.device)]
    calls: dict[str, Callable[[], Any]] = {_PEER: lambda: peer(pictures), "ours": lambda: eager(pictures)}
    if not settings.quick:
        compiled = copy.deepcopy(eager)
        example = torch.rand(1, 3, 300, 300, device=settings.device).contiguous(memory_format=torch.channels_last)
        start = time.perf_counter()
        compile_for_inference(compiled.model, example)
        table.notes.append(f"Compiling took {time.perf_counter() - start:.0f} s.")
        calls["ours, compiled and frozen"] = lambda: compiled(pictures)
    square = torch.rand(1024, 1024, device=settings.device)
    calls["limit"] = lambda: square @ square
    repeats = 2 if settings.quick else 8
    times = interleaved(calls, repeats=repeats, synchronize=settings.synchronize, clock=settings.clock)
    limit_ms = times.ms("limit") * GFLOP_AN_IMAGE * 1e9 / (2 * 1024**3)
    names = [name for name in calls if name != "limit"]
    for name in names:
        share = limit_ms / times.ms(name)
        row = {"candidate": name, "ms": times.ms(name), "times_faster": times.ratio(_PEER, name)}
        table.rows.append({**row, "of_the_matrix_rate": share})
    table.goals.append(Goal("a picture to detections, over torchvision", 1.2, times.ratio(_PEER, "ours")))
    if settings.quick:
        table.goals.append(Goal("the same, compiled and frozen", 1.45, None, note="left out by --quick"))
    else:
        speed = times.ratio(_PEER, "ours, compiled and frozen")
        table.goals.append(Goal("the same, compiled and frozen", 1.45, speed))
    table.notes.append(
        f"At the rate of a 1024 × 1024 matrix product in the same rounds the network's {GFLOP_AN_IMAGE} GFLOP take "
        f"{limit_ms:.0f} ms; torchvision's takes {times.ms(_PEER) / limit_ms:.2f} times as long."
    )
    for goal, name in zip(table.goals, names[1:], strict=False):
        if goal.met is False:
            table.notes.append(f"Where the time of '{name}' goes: {top_operators(calls[name], repeats=1)}.")
    return table
