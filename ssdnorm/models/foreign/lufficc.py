"""This file is about lufficc/SSD: its VGG models of 300 and 512 pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.foreign.family import (
    VGG_PLACES,
    Family,
    ImageSize,
    Meaning,
    boxes_of,
    layer_names,
    make_checkpoint,
    num_classes_at,
    rename,
)

# ssd/config/defaults.py: PIXEL_MEAN, PRIORS.CLIP, TEST; no limit per class, 100 an image
_MEANING = Meaning(
    mean=(123.0, 117.0, 104.0),
    clip="all",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": None, "max_detections": 100},
)
_HEADERS = "box_head.predictor"


def _convert(
    tensors: Mapping[str, Tensor], *, where: str, default_boxes: str | None, class_names: Sequence[str] | None
) -> Checkpoint:
    size: ImageSize = 512 if "backbone.extras.9.weight" in tensors else 300
    num_taps = 6 if size == 300 else 7
    layers = layer_names(
        size,
        backbone={name: f"backbone.vgg.{place}" for name, place in VGG_PLACES.items()},
        extra=[f"backbone.extras.{i}" for i in range(8 if size == 300 else 10)],
        locs=[f"{_HEADERS}.reg_headers.{i}" for i in range(num_taps)],
        logits=[f"{_HEADERS}.cls_headers.{i}" for i in range(num_taps)],
    )
    state = rename(tensors, layers, "backbone.l2_norm.weight", where=where)
    num_classes = num_classes_at(tensors, f"{_HEADERS}.cls_headers.0.bias", f"{_HEADERS}.reg_headers.0.bias")
    boxes = boxes_of(size, num_classes, default_boxes)
    return make_checkpoint(state, size, _MEANING, where=where, boxes=boxes, class_names=class_names)


FAMILY = Family("lufficc", lambda tensors: "backbone.vgg.0.weight" in tensors, _convert)
