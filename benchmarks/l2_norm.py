"""Time L2Norm beside the two formulas in use and a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.table import Table
from benchmarks.timing import Row, Settings, compare, ready
from ssdnorm.layers import L2Norm

_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def measure(settings: Settings, *, shape: Sequence[int] | None = None) -> Table:
    """Forward, and forward with backward, in both memory formats; on a GPU in bf16.

    Args:
        shape: of the input, (B, C, H, W); by default that of conv4_3.
    """
    shape = shape or (32 if settings.on_gpu else 8, 512, 38, 38)
    dtype = torch.bfloat16 if settings.on_gpu else torch.float32
    table = Table(
        "l2_norm",
        f"Input {tuple(shape)} {str(dtype).removeprefix('torch.')}, conv4_3 of SSD300, ms. Speedups are over "
        "amdegroot's formula; *both* is forward and backward; *of copy* is the share of the rate of a copy, forward. "
        "Peers run in eager mode, as published.",
    )
    for memory_format in _FORMATS:
        table.rows += _measure_format(settings, memory_format, shape, dtype)
    ours = [row for row in table.rows if row["candidate"].startswith("L2Norm")]
    if settings.on_gpu:
        table.measured["l2_norm.gpu_copy"] = max(row["of_copy"] for row in ours)
    else:
        table.measured["l2_norm.speed"] = min(row[f"{way}_speedup"] for row in ours for way in ("forward", "both"))
    return table


def amdegroot_formula(x: Tensor, weight: Tensor) -> Tensor:
    """The formula of ssd.pytorch, lufficc's SSD and mmdetection: eps outside the root."""
    length = x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
    return weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * x.div(length)


def normalize_formula(x: Tensor, weight: Tensor) -> Tensor:
    """The formula of torchvision's SSD."""
    return weight.view(1, -1, 1, 1) * F.normalize(x)


def _measure_format(settings: Settings, memory_format: str, shape: Sequence[int], dtype: torch.dtype) -> list[Row]:
    x, grad = (
        torch.randn(*shape, device=settings.device, dtype=dtype).contiguous(memory_format=_FORMATS[memory_format])
        for _ in range(2)
    )
    layer = L2Norm(shape[1], device=settings.device)
    leaf, weight = x.clone().requires_grad_(), layer.weight

    candidates: dict[str, Callable[[Tensor], Tensor]] = {
        "amdegroot": lambda x: amdegroot_formula(x, weight),
        "F.normalize * w": lambda x: normalize_formula(x, weight),
        "L2Norm": layer,
    }
    if settings.compiled:
        candidates["L2Norm, compiled"] = torch.compile(layer, dynamic=False)
    candidates["copy"] = torch.clone

    def both(layer: Callable[[Tensor], Tensor]) -> None:
        leaf.grad = weight.grad = None
        layer(leaf).backward(grad)

    def rows(calls: dict[str, Callable[[], Any]]) -> dict[str, Row]:
        return compare(ready(calls), settings, peer="amdegroot", rounds=5 if settings.quick else 25)

    forward = rows({name: partial(torch.no_grad()(layer), x) for name, layer in candidates.items()})
    backward = rows({name: partial(both, layer) for name, layer in candidates.items()})
    return [
        {
            "memory_format": memory_format,
            "candidate": name,
            "forward_ms": forward[name]["ms"],
            "both_ms": backward[name]["ms"],
            "forward_speedup": forward[name]["speedup"],
            "both_speedup": backward[name]["speedup"],
            "of_copy": forward["copy"]["ms"] / forward[name]["ms"],
        }
        for name in candidates
    ]
