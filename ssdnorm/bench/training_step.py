"""This file is about what one training step costs beside torchvision's SSD300."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD

from ssdnorm.bench.made_up_outputs import draw_targets
from ssdnorm.bench.operators import top_operators
from ssdnorm.bench.table import Goal, Settings, Table, interleaved
from ssdnorm.bench.torchvision_ssd import torchvision_detector
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.models.ssd import ssd300_vgg16

_NUM_CLASSES = 21
Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # images, boxes, labels → loss


def measure(settings: Settings) -> Table:
    """Forward, loss, backward and SGD on one batch."""
    num_images = 1 if settings.quick else 4
    table = Table(
        "training_step",
        f"Forward, matching and loss, backward, SGD with momentum; SSD300-VGG16, 21 classes, no dropout, batch "
        f"{num_images} of 300 × 300 pixels. torchvision's with its own transform, as floats; ours from uint8, "
        "channels-last.",
    )
    drawn = draw_images(num_images), *draw_targets(num_images, _NUM_CLASSES)
    batch = [x.to(settings.device) for x in drawn]
    steps = {
        "torchvision": torchvision_step(torchvision_detector(_NUM_CLASSES).to(settings.device)),
        "ours": our_step(ssd300_vgg16(_NUM_CLASSES, dropout=0).to(settings.device)),
    }
    calls = {name: partial(step, *batch) for name, step in steps.items()}
    repeats = 1 if settings.quick else 3
    times = interleaved(calls, repeats=repeats, synchronize=settings.synchronize, clock=settings.clock)
    for name in calls:
        table.rows.append(
            {
                "candidate": name,
                "batch": num_images,
                "ms_a_step": times.ms(name),
                "images_a_second": 1e3 * num_images / times.ms(name),
                "times_faster": times.ratio("torchvision", name),
            }
        )
    goal = Goal(f"training step, batch {num_images}, over torchvision", 1.1, times.ratio("torchvision", "ours"))
    table.goals.append(goal)
    if not goal.met:
        table.notes.append(f"Where the time of our step goes: {top_operators(calls['ours'], repeats=1)}.")
    return table


def draw_images(num_images: int) -> Tensor:
    """Random pixels, ``(B, 3, 300, 300)`` uint8."""
    return torch.randint(0, 256, (num_images, 3, 300, 300), dtype=torch.uint8)


def our_step(model: nn.Module, *, autocast: torch.dtype | None = None, compiled: bool = False) -> Step:
    """A training step of an SSD of ours, as the training command makes it."""
    device = next(model.parameters()).device
    model.train().to(memory_format=torch.channels_last)
    loss = MultiboxLoss(model.default_boxes).to(device)  # type: ignore[arg-type]
    optimizer = _optimizer(model, device)
    network = torch.compile(model) if compiled else model

    def step(images: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            output = network(images.contiguous(memory_format=torch.channels_last))
            total = torch.stack(list(loss(output, boxes, labels).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return total.detach()

    return step


def torchvision_step(detector: nn.Module, *, autocast: torch.dtype | None = None) -> Step:
    """The same of torchvision's detector, which takes floats and targets in pixels, and has its own transform."""
    device = next(detector.parameters()).device
    detector.train()
    optimizer = _optimizer(detector, device)

    def step(images: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        pictures = list(images.float() / 255)
        targets = [{"boxes": b[c > 0] * 300, "labels": c[c > 0]} for b, c in zip(boxes, labels, strict=True)]
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            total = torch.stack(list(detector(pictures, targets).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return total.detach()

    return step


def _optimizer(model: nn.Module, device: torch.device) -> SGD:
    return SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=device.type == "cuda")
