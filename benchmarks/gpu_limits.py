"""This file is about what a GPU can do at all: the rates that a training step or a norm is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu_turns import seconds_a_call
from benchmarks.table import Table

GFLOP_AN_IMAGE = 62.75  # SSD300-VGG16 forward, 21 classes; forward and backward take three times as much


def measure_limits(device: torch.device, *, size: int = 8192, calls: int = 20) -> Table:
    """bf16 matrix product and 3 × 3 convolution, and a copy.

    Args:
        size: rows of the square matrices; the convolution and the copy shrink along with it.
    """
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    rows = [_rate("bf16 matrix product", 2 * size**3, lambda: matrix @ matrix, device, calls)]
    num_images, channels, side = max(1, size // 128), max(8, size // 32), 75
    maps = torch.randn(num_images, channels, side, side, device=device, dtype=torch.bfloat16)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=torch.bfloat16)
    maps, kernel = (x.contiguous(memory_format=torch.channels_last) for x in (maps, kernel))
    work = 2 * num_images * side**2 * channels**2 * 9
    rows.append(_rate("bf16 convolution 3 × 3", work, lambda: F.conv2d(maps, kernel, padding=1), device, calls))
    words = torch.empty(size * size, device=device)
    target = torch.empty_like(words)
    seconds = seconds_a_call(lambda: target.copy_(words), device, calls=calls)
    rows.append({"limit": "copy", "rate": 2 * 4 * words.numel() / seconds / 1e9, "unit": "GB/s, read and written"})
    return Table("gpu_limits", "What this device does at best, measured here.", rows)


def limit(table: Table, name: str) -> float:
    """A rate of the table."""
    return float(next(row["rate"] for row in table.rows if row["limit"] == name))


def _rate(name: str, work: float, call: Callable[[], Any], device: torch.device, calls: int) -> dict[str, Any]:
    return {"limit": name, "rate": work / seconds_a_call(call, device, calls=calls) / 1e12, "unit": "TFLOP/s"}
