"""This file is about what folding batch norm into the convolutions saves at inference."""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import median
from typing import Any

import torch
from torch import nn

from ssdnorm.layers import fold_batch_norm
from ssdnorm.models.ssd import ssd300_vgg16


@torch.inference_mode()
def measure_fold(*, width: float = 0.5, batch_sizes: Iterable[int] = (1, 8), repeats: int = 10) -> list[dict[str, Any]]:
    """Time SSD300 with batch norm after every convolution, plain and folded, side by side in every round.

    Args:
        width: factor on VGG16's channels.
        batch_sizes: images of a pass.
        repeats: rounds that count, after two that do not.

    Returns:
        Rows with batch_size, batch_norm_ms, folded_ms, speedup (median over rounds), difference (largest, of the raw
        output) and norms (layers that are gone).
    """
    model = ssd300_vgg16(21, width=width, dropout=0, backbone_norm="batch_norm", extras_norm="batch_norm")
    model = model.to(memory_format=torch.channels_last)
    model(torch.rand(4, 3, 300, 300, generator=torch.Generator().manual_seed(0)))  # statistics that are not 0 and 1
    folded = fold_batch_norm(model.eval())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    norms -= sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    return [{**_measure(model, folded, size, repeats), "norms": norms} for size in batch_sizes]


def fold_table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| batch | batch norm ms | folded ms | × | largest difference | norms folded |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['batch_size']} | {row['batch_norm_ms']:.1f} | {row['folded_ms']:.1f} | {row['speedup']:.2f} "
        f"| {row['difference']:.1e} | {row['norms']} |"
        for row in rows
    ]
    return "\n".join(lines)


def _measure(model: nn.Module, folded: nn.Module, batch_size: int, repeats: int) -> dict[str, Any]:
    images = torch.rand(batch_size, 3, 300, 300, generator=torch.Generator().manual_seed(1))
    images = images.to(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {"batch_norm": [], "folded": []}
    for round_ in range(2 + repeats):
        for name, network in (("batch_norm", model), ("folded", folded)):
            start = time.perf_counter()
            network(images)
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
    pairs = zip(model(images), folded(images), strict=True)
    return {
        "batch_size": batch_size,
        "batch_norm_ms": 1e3 * median(seconds["batch_norm"]),
        "folded_ms": 1e3 * median(seconds["folded"]),
        "speedup": median(a / b for a, b in zip(seconds["batch_norm"], seconds["folded"], strict=True)),
        "difference": max((a - b).abs().max().item() for a, b in pairs),
    }
