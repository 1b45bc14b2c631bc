"""This file is about what the multibox loss costs beside torchvision's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssdnorm.bench.made_up_outputs import draw_targets, untrained_output
from ssdnorm.bench.operators import top_operators
from ssdnorm.bench.table import Goal, Settings, Table, interleaved
from ssdnorm.bench.torchvision_ssd import TorchvisionSSD
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.structures import SSDOutput

_CASES = ((8, 21, 2.5), (32, 81, 3.0))  # images, classes, goal
Loss = Callable[[SSDOutput, Tensor, Tensor], dict[str, Tensor]]


def measure(settings: Settings) -> Table:
    """Matching, loss and gradients of both outputs."""
    table = Table(
        "loss",
        "Matching, loss, and its gradients with respect to locs and logits, forward and backward, ms a batch; SSD300, "
        "one to eight objects an image. The difference is the largest between the parts of the two losses: where two "
        "objects of an image ask for one default box, torchvision lets one of them go, and we give it its next best.",
    )
    for num_images, num_classes, goal in _CASES:
        _measure_case(table, num_images, num_classes, goal, settings)
    return table


def _measure_case(table: Table, num_images: int, num_classes: int, goal: float, settings: Settings) -> None:
    default_boxes = make_default_boxes("ssd300_coco").to(settings.device)
    boxes, labels = (x.to(settings.device) for x in draw_targets(num_images, num_classes))
    output = untrained_output(num_images, len(default_boxes), num_classes)
    leaves = SSDOutput(*(x.to(settings.device).requires_grad_() for x in output))
    losses: dict[str, Loss] = {
        "torchvision": TorchvisionSSD(default_boxes, num_classes).loss,
        "ours": MultiboxLoss(default_boxes).to(settings.device),
    }

    def both_ways(name: str) -> Callable[[], dict[str, Tensor]]:
        def call() -> dict[str, Tensor]:
            leaves.locs.grad = leaves.logits.grad = None
            parts = losses[name](leaves, boxes, labels)
            torch.stack(list(parts.values())).sum().backward()
            return parts

        return call

    calls = {name: both_ways(name) for name in losses}
    parts = {name: call() for name, call in calls.items()}
    difference = max((parts["ours"][key] - value).abs().item() for key, value in parts["torchvision"].items())
    repeats = (8 if num_images < 16 else 3) if settings.quick else (30 if num_images < 16 else 10)
    times = interleaved(calls, repeats=repeats, warm_up=2, synchronize=settings.synchronize, clock=settings.clock)
    speed = times.ratio("torchvision", "ours")
    table.rows.append(
        {
            "batch": num_images,
            "classes": num_classes,
            "torchvision_ms": times.ms("torchvision"),
            "ours_ms": times.ms("ours"),
            "times_faster": speed,
            "difference": difference,
        }
    )
    what = f"loss, forward and backward, batch {num_images}, {num_classes} classes, over torchvision"
    table.goals.append(Goal(what, goal, speed))
    if not table.goals[-1].met:
        table.notes.append(f"Why batch {num_images} misses its goal, top operators: {top_operators(calls['ours'])}.")
