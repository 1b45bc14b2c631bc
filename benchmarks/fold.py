"""This file is about what folding batch norm into the convolutions saves at inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.table import Settings, Table, interleaved
from ssdnorm.layers import fold_batch_norm
from ssdnorm.models.ssd import ssd300_vgg16


def measure(settings: Settings) -> Table:
    """SSD300 at half width with batch norm after all convolutions, as it is and folded."""
    batch_sizes = (1,) if settings.quick else (1, 8)
    return Table(
        "fold",
        "SSD300 at width 0.5 with batch norm after all 23 convolutions, as it is and with the norms folded into the "
        "convolutions, ms a batch, channels-last. The difference is the largest of the raw output.",
        [measure_fold(settings, batch_size=size) for size in batch_sizes],
    )


@torch.inference_mode()
def measure_fold(settings: Settings, *, width: float = 0.5, batch_size: int = 1) -> dict[str, Any]:
    """Time both side by side in every round.

    Args:
        width: factor on VGG16's channels.
        batch_size: images of a pass.

    Returns:
        batch_size, batch_norm_ms, folded_ms, times_faster, difference and norms (layers that are gone).
    """
    model = ssd300_vgg16(21, width=width, dropout=0, backbone_norm="batch_norm", extras_norm="batch_norm")
    model = model.to(settings.device).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(max(4, batch_size), 3, 300, 300, generator=generator).to(settings.device)
    model(images)  # statistics that are not 0 and 1
    folded = fold_batch_norm(model.eval())
    images = images[:batch_size].contiguous(memory_format=torch.channels_last)
    times = interleaved(
        {"batch_norm": lambda: model(images), "folded": lambda: folded(images)},
        repeats=3 if settings.quick else 10,
        warm_up=2,
        synchronize=settings.synchronize,
        clock=settings.clock,
    )
    return {
        "batch_size": batch_size,
        "batch_norm_ms": times.ms("batch_norm"),
        "folded_ms": times.ms("folded"),
        "times_faster": times.ratio("batch_norm", "folded"),
        "difference": max((a - b).abs().max().item() for a, b in zip(model(images), folded(images), strict=True)),
        "norms_folded": _norms(model) - _norms(folded),
    }


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
