"""This file is about outputs and targets to measure on: what an untrained and what a trained SSD300 gives."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.matcher import default_box_iou
from ssdnorm.structures import SSDOutput


def draw_targets(num_images: int, num_classes: int, most: int = 8, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes and labels of a batch with 1, 2, … ``most`` objects in its images, in turn, the rest padding.

    Shape:
        boxes ``(B, most, 4)`` xyxy in [0, 1]; labels ``(B, most)``.
    """
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_images, most, 2, generator=generator) * 0.5
    size = 0.15 + torch.rand(num_images, most, 2, generator=generator) * 0.3
    labels = torch.randint(1, num_classes, (num_images, most), generator=generator)
    numbers = torch.arange(num_images)[:, None] % most + 1
    return torch.cat((corner, corner + size), dim=2), labels.masked_fill_(torch.arange(most) >= numbers, 0)


def untrained_output(num_images: int, num_boxes: int, num_classes: int, *, spread: float = 1.0) -> SSDOutput:
    """Normal offsets and logits with standard deviation ``spread``."""
    generator = torch.Generator().manual_seed(num_images)
    locs = torch.randn(num_images, num_boxes, 4, generator=generator)
    logits = torch.randn(num_images, num_boxes, num_classes, generator=generator)
    return SSDOutput(locs * spread, logits * spread)


def trained_output(num_images: int, default_boxes: Tensor, num_classes: int, num_objects: int) -> SSDOutput:
    """Background nearly everywhere, and several overlapping boxes around each of ``num_objects`` objects an image."""
    generator = torch.Generator().manual_seed(num_objects)
    num_boxes = len(default_boxes)
    locs = torch.empty(num_images, num_boxes, 4)
    logits = torch.randn(num_images, num_boxes, num_classes, generator=generator) * 0.5
    logits[..., 0] += 10
    for image in range(num_images):
        centre = torch.rand(num_objects, 2, generator=generator) * 0.8 + 0.1
        half = torch.rand(num_objects, 2, generator=generator) * 0.15 + 0.04
        objects = torch.cat((centre - half, centre + half), dim=1)
        iou, owner = default_box_iou(objects, default_boxes).max(dim=0)
        near = iou > 0.4
        labels = torch.randint(1, num_classes, (num_objects,), generator=generator)
        logits[image, near, 0] -= 8
        logits[image, near, labels[owner[near]]] += 6 * iou[near]
        noise = torch.randn(num_boxes, 4, generator=generator)
        locs[image] = BoxCoder().encode(objects[owner], default_boxes) + 0.3 * noise
    return SSDOutput(locs, logits)
