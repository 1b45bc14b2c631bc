"""This file is about what one training step costs beside torchvision's SSD300."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD

from benchmarks.made_up_outputs import draw_targets
from benchmarks.operators import top_operators
from benchmarks.table import Goal, Settings, Table, interleaved, seconds_to_compile
from benchmarks.torchvision_ssd import torchvision_detector, torchvision_targets
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.models.ssd import ssd300_vgg16

_NUM_CLASSES = 21
_PEER, _OURS, _COMPILED = "torchvision", "ours", "ours, compiled"
# images, boxes, labels → what makes one step on them and gives the loss; bringing them into place is not part of it
Step = Callable[[Tensor, Tensor, Tensor], Callable[[], Tensor]]


def measure(settings: Settings) -> Table:
    """Forward, loss, backward and SGD on one batch; the compiled network only without ``quick``."""
    num_images = 1 if settings.quick else 4
    table = Table(
        "training_step",
        f"Forward, matching and loss, backward, SGD with momentum; SSD300-VGG16, 21 classes, no dropout, batch "
        f"{num_images} of 300 × 300 pixels. torchvision's with its own transform, from floats and a list of targets "
        "that are made beforehand; ours from uint8, channels-last.",
    )
    batch = draw_images(num_images), *draw_targets(num_images, _NUM_CLASSES)

    def ours(*, compiled: bool = False) -> Callable[[], Tensor]:
        model = ssd300_vgg16(_NUM_CLASSES, dropout=0).to(settings.device)
        return our_step(model, compiled=compiled)(*batch)

    calls = {
        _PEER: torchvision_step(torchvision_detector(_NUM_CLASSES).to(settings.device))(*batch),
        _OURS: ours(),
    }
    if settings.quick:
        table.notes.append("Compiling is left out by --quick.")
    else:
        calls[_COMPILED] = ours(compiled=True)
        seconds = seconds_to_compile(calls[_COMPILED])
        table.notes.append(f"Compiling took {seconds:.0f} s, the first step included, nothing from PyTorch's cache.")
    repeats = 1 if settings.quick else 3
    times = interleaved(calls, repeats=repeats, synchronize=settings.synchronize, clock=settings.clock)
    for name in calls:
        table.rows.append(
            {
                "candidate": name,
                "batch": num_images,
                "ms_a_step": times.ms(name),
                "images_a_second": 1e3 * num_images / times.ms(name),
                "times_faster": times.ratio(_PEER, name),
            }
        )
    goal = Goal(f"training step, batch {num_images}, over torchvision", 1.1, times.ratio(_PEER, _OURS))
    table.goals.append(goal)
    if not goal.met:
        table.notes.append(f"Where the time of our step goes: {top_operators(calls[_OURS], repeats=1)}.")
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

    def prepare(*batch: Tensor) -> Callable[[], Tensor]:
        images, boxes, labels = (x.to(device, non_blocking=True) for x in batch)

        def step() -> Tensor:
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                output = network(images.contiguous(memory_format=torch.channels_last))
                total = torch.stack(list(loss(output, boxes, labels).values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return total.detach()

        return step

    return prepare


def torchvision_step(detector: nn.Module, *, autocast: torch.dtype | None = None) -> Step:
    """The same of torchvision's detector, which takes lists of floats and of targets, and has its own transform."""
    device = next(detector.parameters()).device
    detector.train()
    optimizer = _optimizer(detector, device)

    def prepare(images: Tensor, boxes: Tensor, labels: Tensor) -> Callable[[], Tensor]:
        pictures = list(images.to(device, non_blocking=True).float() / 255)
        targets = [
            {key: x.to(device, non_blocking=True) for key, x in target.items()}
            for target in torchvision_targets(boxes, labels)
        ]

        def step() -> Tensor:
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                total = torch.stack(list(detector(pictures, targets).values())).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return total.detach()

        return step

    return prepare


def _optimizer(model: nn.Module, device: torch.device) -> SGD:
    return SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=device.type == "cuda")
