"""What travels between the rooms: batches in, raw outputs through, detections out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor


class SSDOutput(NamedTuple):
    """Raw output of an SSD, before decoding and softmax.

    Shape:
        locs ``(B, K, 4)``: encoded offsets to the default boxes.
        logits ``(B, K, num_classes)``: class scores before softmax, background at index 0.
    """

    locs: Tensor
    logits: Tensor


class Detections(TypedDict):
    """What was found in one image, best score first, as in torchvision.

    Shape:
        boxes ``(D, 4)`` float32 xyxy in pixels of the original image; scores ``(D,)`` in [0, 1];
        labels ``(D,)`` int64, 1 or more.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Target(TypedDict):
    """Ground truth of one image in pixels of the original image, as in torchvision.

    Shape:
        boxes ``(G, 4)`` float xyxy; labels ``(G,)`` int64, 1 or more.
        Only evaluation reads the rest: difficult and iscrowd ``(G,)`` (bool or 0/1), area ``(G,)`` (squared pixels) and
        image_id.
    """

    boxes: Tensor
    labels: Tensor
    difficult: NotRequired[Tensor]
    iscrowd: NotRequired[Tensor]
    area: NotRequired[Tensor]
    image_id: NotRequired[int]


@dataclass(frozen=True)
class Batch:
    """Images that the network takes, with their ground truth padded to the longest of the batch.

    Shape:
        images ``(B, 3, H, W)`` uint8 RGB; boxes ``(B, G, 4)`` float32 xyxy in [0, 1]; labels ``(B, G)`` int64,
        0 marks a padding row; sizes ``(B, 2)`` int64, height and width of the original images in pixels;
        indices ``(B,)`` int64, the places of the images in their data set.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    sizes: Tensor
    indices: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU need not wait."""
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))

    def __len__(self) -> int:
        return self.images.shape[0]
