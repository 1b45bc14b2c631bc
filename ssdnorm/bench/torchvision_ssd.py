"""This file is about torchvision's SSD as a peer: its network, its loss and its post-processing, on our outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from ssdnorm.boxes.matcher import cxcywh_to_xyxy
from ssdnorm.structures import SSDOutput

_SIZE = 300


class TorchvisionSSD:
    """What torchvision's SSD300 does after its network, for default boxes of ours.

    Args:
        default_boxes: cxcywh in [0, 1].
        num_classes: classes, background included.
    """

    def __init__(self, default_boxes: Tensor, num_classes: int) -> None:
        self.default_boxes_px = cxcywh_to_xyxy(default_boxes) * _SIZE
        boxes = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]])  # only their number a cell is read
        self.model = SSD(nn.Identity(), boxes, (_SIZE, _SIZE), num_classes, head=nn.Identity())

    def loss(self, output: SSDOutput, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Matching and loss; boxes in [0, 1], label 0 marks padding."""
        targets = [{"boxes": b[c > 0] * _SIZE, "labels": c[c > 0]} for b, c in zip(boxes, labels, strict=True)]
        matched = []
        for target in targets:
            if target["boxes"].numel():
                matched.append(self.model.proposal_matcher(box_iou(target["boxes"], self.default_boxes_px)))
            else:
                matched.append(torch.full((len(self.default_boxes_px),), -1, device=boxes.device))
        parts: dict[str, Tensor] = self.model.compute_loss(
            targets, _heads(output), [self.default_boxes_px] * len(targets), matched
        )
        return parts

    def post_process(self, output: SSDOutput) -> list[dict[str, Tensor]]:
        """Detections in pixels of a 300 × 300 image."""
        number = len(output.locs)
        found: list[dict[str, Tensor]] = self.model.postprocess_detections(
            _heads(output), [self.default_boxes_px] * number, [(_SIZE, _SIZE)] * number
        )
        return found


def torchvision_detector(num_classes: int) -> Any:
    """torchvision's SSD300-VGG16 whole, with drawn weights: images of any size in, losses or detections out."""
    return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)


def _heads(output: SSDOutput) -> dict[str, Tensor]:
    return {"bbox_regression": output.locs, "cls_logits": output.logits}
