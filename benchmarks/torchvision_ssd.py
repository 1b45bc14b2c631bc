"""torchvision's SSD300 as a peer: the whole detector, and its loss and post-processing on outputs of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert, box_iou
from torchvision.ops import boxes as box_ops

from ssdnorm.structures import SSDOutput

_SIZE = 300
_ASPECT_RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]


class TorchvisionSSD:
    """Loss and post-processing of torchvision's SSD300 for default boxes of ours.

    Args:
        default_boxes: cxcywh in [0, 1].
        num_classes: classes, background included.
    """

    def __init__(self, default_boxes: Tensor, num_classes: int) -> None:
        self.default_boxes_px = box_convert(default_boxes, "cxcywh", "xyxy") * _SIZE
        boxes = DefaultBoxGenerator(_ASPECT_RATIOS)  # only their number per cell is read
        self.model = SSD(nn.Identity(), boxes, (_SIZE, _SIZE), num_classes, head=nn.Identity())

    def loss(self, output: SSDOutput, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Matching and loss; targets as :func:`torchvision_targets` makes them."""
        matched = []
        for target in targets:
            if target["boxes"].numel():
                matched.append(self.model.proposal_matcher(box_iou(target["boxes"], self.default_boxes_px)))
            else:
                matched.append(torch.full((len(self.default_boxes_px),), -1, device=output.locs.device))
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


def torchvision_targets(boxes: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """Boxes in [0, 1] and labels, 0 for padding, as torchvision takes them: a dict per image, in pixels, no padding."""
    return [{"boxes": b[c > 0] * _SIZE, "labels": c[c > 0]} for b, c in zip(boxes, labels, strict=True)]


@contextmanager
def nms_as_on_a_gpu() -> Iterator[None]:
    """On a CPU, call NMS as on a GPU.

    torchvision's ``batched_nms`` goes class by class from 100,000 coordinates on, instead of 4000; ours takes several
    images at once.
    """

    def batched_nms(boxes: Tensor, *others: Any) -> Tensor:
        by_class = boxes.numel() > 100_000
        way = box_ops._batched_nms_vanilla if by_class else box_ops._batched_nms_coordinate_trick
        kept: Tensor = way(boxes, *others)
        return kept

    with (
        patch.object(box_ops, "batched_nms", batched_nms),
        patch("ssdnorm.models.post_process._groups_images", lambda boxes: True),
    ):
        yield


def torchvision_detector(num_classes: int, features: nn.Module | None = None) -> Any:
    """torchvision's SSD300 with random weights: images of any size in, losses or detections out.

    Args:
        features: network up to the taps; None is torchvision's VGG16, which has no narrower form.
    """
    if features is None:
        return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)
    return SSD(features, DefaultBoxGenerator(_ASPECT_RATIOS), (_SIZE, _SIZE), num_classes)


def _heads(output: SSDOutput) -> dict[str, Tensor]:
    return {"bbox_regression": output.locs, "cls_logits": output.logits}
