"""Synthetic targets, and synthetic outputs as an untrained and a trained SSD300 give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.matcher import default_box_iou
from ssdnorm.structures import SSDOutput


def synthetic_targets(num_images: int, num_classes: int, most: int = 8, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes and labels of a batch whose images hold 1, 2, … ``most`` objects in turn, the rest padding.

    Shape:
        boxes ``(B, most, 4)`` xyxy in [0, 1]; labels ``(B, most)``.
    """
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_images, most, 2, generator=generator) * 0.5
    size = 0.15 + torch.rand(num_images, most, 2, generator=generator) * 0.3
    labels = torch.randint(1, num_classes, (num_images, most), generator=generator)
    numbers = torch.arange(num_images)[:, None] % most + 1
    return torch.cat((corner, corner + size), dim=2), labels.masked_fill_(torch.arange(most) >= numbers, 0)


def synthetic_images(num_images: int) -> Tensor:
    """Random pixels, ``(B, 3, 300, 300)`` uint8."""
    return torch.randint(0, 256, (num_images, 3, 300, 300), dtype=torch.uint8)


def untrained_output(num_images: int, num_boxes: int, num_classes: int, *, spread: float = 1.0) -> SSDOutput:
    """Normal offsets and logits with standard deviation ``spread``."""
    generator = torch.Generator().manual_seed(num_images)
    locs = torch.randn(num_images, num_boxes, 4, generator=generator)
    logits = torch.randn(num_images, num_boxes, num_classes, generator=generator)
    return SSDOutput(locs * spread, logits * spread)


def trained_output(num_images: int, default_boxes: Tensor, num_classes: int, num_objects: int) -> SSDOutput:
    """Background nearly everywhere, and several overlapping boxes around each of ``num_objects`` objects per image."""
    generator = torch.Generator().manual_seed(num_objects)
    num_boxes = len(default_boxes)
    locs = torch.empty(num_images, num_boxes, 4)
    logits = torch.randn(num_images, num_boxes, num_classes, generator=generator) * 0.5
    logits[..., 0] += 10
    for image in range(num_images):
        centre = torch.rand(num_objects, 2, generator=generator) * 0.8 + 0.1
        half = torch.rand(num_objects, 2, generator=generator) * 0.15 + 0.04
        objects = torch.cat((centre - half, centre + half), dim=1)
        iou, nearest = default_box_iou(objects, default_boxes).max(dim=0)
        near = iou > 0.4
        labels = torch.randint(1, num_classes, (num_objects,), generator=generator)
        logits[image, near, 0] -= 8
        logits[image, near, labels[nearest[near]]] += 6 * iou[near]
        noise = torch.randn(num_boxes, 4, generator=generator)
        locs[image] = BoxCoder().encode(objects[nearest], default_boxes) + 0.3 * noise
    return SSDOutput(locs, logits)


def synthetic_output(num_images: int, default_boxes: Tensor, num_classes: int, num_objects: int | None) -> SSDOutput:
    """Output of a network trained on so many objects per image; None is an untrained network."""
    if num_objects is None:
        return untrained_output(num_images, len(default_boxes), num_classes, spread=0.1)
    return trained_output(num_images, default_boxes, num_classes, num_objects)


def on_device(output: SSDOutput, device: torch.device, *, requires_grad: bool = False) -> SSDOutput:
    """A copy of an output on a device, with leaves for gradients if asked for."""
    return SSDOutput(*(x.detach().to(device, copy=True).requires_grad_(requires_grad) for x in output))


def backward(loss: Callable[..., dict[str, Tensor]], leaves: SSDOutput, *targets: Any) -> dict[str, Tensor]:
    """Parts of a loss, after the gradients of their sum."""
    leaves.locs.grad = leaves.logits.grad = None
    parts = loss(leaves, *targets)
    torch.stack(list(parts.values())).sum().backward()
    return parts
