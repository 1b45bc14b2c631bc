"""This file is about how many kernels and waits the loss and the post-processing take on a GPU, counted without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.kernel_count import KernelCount
from benchmarks.made_up_outputs import draw_targets, trained_output, untrained_output
from benchmarks.table import Goal, Settings, Table
from benchmarks.torchvision_ssd import TorchvisionSSD, nms_as_on_a_gpu, torchvision_targets
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.models.post_process import PostProcess
from ssdnorm.structures import SSDOutput

_NUM_CLASSES = 81


def measure(settings: Settings) -> Table:
    """Operations dispatched on the CPU by the code that a GPU would run."""
    table = Table(
        "kernels",
        "Operations that launch work on a GPU, views left out, and waits of the host for it, counted as PyTorch "
        "dispatches them on a CPU that runs a GPU's code, torchvision's too (see ssdnorm/bench/kernel_count.py for how "
        f"close that is); SSD300, {_NUM_CLASSES} classes. The goals were counted in this way.",
    )
    default_boxes = make_default_boxes("ssd300_coco")
    loss, post_process = MultiboxLoss(default_boxes), PostProcess(default_boxes)
    peer = TorchvisionSSD(default_boxes, _NUM_CLASSES)
    for num_images in (2, 8) if settings.quick else (2, 8, 32):
        boxes, labels = draw_targets(num_images, _NUM_CLASSES)
        targets = torchvision_targets(boxes, labels)
        raw = untrained_output(num_images, len(default_boxes), _NUM_CLASSES)
        leaves = SSDOutput(*(x.requires_grad_() for x in raw))

        def step(loss: Any, *of: Any) -> Callable[[], None]:
            def call() -> None:
                leaves.locs.grad = leaves.logits.grad = None  # noqa: B023
                torch.stack(list(loss(leaves, *of).values())).sum().backward()  # noqa: B023

            return call

        row = {"work": "loss, forward and backward", "batch": num_images}
        _count(table, row, step(loss, boxes, labels), step(peer.loss, targets))
    for num_images in (2, 8):
        sizes = torch.full((num_images, 2), 300)
        outputs = {
            "20 objects": trained_output(num_images, default_boxes, _NUM_CLASSES, 20),
            "200 objects": trained_output(num_images, default_boxes, _NUM_CLASSES, 200),
            "untrained": untrained_output(num_images, len(default_boxes), _NUM_CLASSES),
        }
        for kind, output in outputs.items():
            row = {"work": f"post-processing, {kind}", "batch": num_images}
            with torch.no_grad():
                _count(table, row, lambda: post_process(output, sizes), lambda: peer.post_process(output))  # noqa: B023
    for work in dict.fromkeys(row["work"] for row in table.rows):
        kernels, waits = (60, 4) if work.startswith("post-processing") else (120, 0)
        rows = [row for row in table.rows if row["work"] == work]
        for what, goal in (("kernels", kernels), ("waits", waits)):
            most = max(row[what] for row in rows)
            changes = len({row[what] for row in rows}) > 1
            note = "differs from batch to batch" if changes else "the same at every batch size"
            if most > goal:
                note += "; the first 1000 candidates leave fewer than 200, so that more are looked at"
            table.goals.append(Goal(f"{work}: {what}", goal, most, unit="", at_most=True, note=note))
    return table


def _count(table: Table, row: dict[str, Any], ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    with patch("ssdnorm.models.post_process._groups_images", return_value=True), KernelCount() as mine:
        ours()
    with nms_as_on_a_gpu(), KernelCount() as others:
        theirs()
    counts = {"kernels": mine.kernels, "waits": mine.waits + mine.uploads}
    peers = {"torchvision_kernels": others.kernels, "torchvision_waits": others.waits + others.uploads}
    table.rows.append({**row, **counts, **peers})
