"""This file is about mmdetection 3: its SSD300 and SSD512, whose background is the last class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ssdnorm.boxes.default_boxes import DefaultBoxSpec, default_box_spec
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
    per_box,
    rename,
)

# configs/ssd/ssd300_coco.py: data_preprocessor, test_cfg. nms_pre 1000 there counts candidates of a tap over all
# classes; here they are counted by class over all taps.
_MEANING = Meaning(
    mean=(123.675, 116.28, 103.53),
    clip="none",
    post_process={"score_threshold": 0.02, "nms_threshold": 0.45, "top_k": 1000, "max_detections": 200},
)


def _convert(
    tensors: Mapping[str, Tensor], *, where: str, default_boxes: str | None, class_names: Sequence[str] | None
) -> Checkpoint:
    size: ImageSize = 512 if "neck.extra_layers.4.0.conv.weight" in tensors else 300
    num_taps = 6 if size == 300 else 7
    layers = layer_names(
        size,
        backbone={name: f"backbone.features.{place}" for name, place in VGG_PLACES.items()},
        extra=[f"neck.extra_layers.{i}.{j}.conv" for i in range(num_taps - 2) for j in (0, 1)],
        locs=[f"bbox_head.reg_convs.{i}.0" for i in range(num_taps)],
        logits=[f"bbox_head.cls_convs.{i}.0" for i in range(num_taps)],
    )
    tensors = {key: value for key, value in tensors.items() if not key.startswith("data_preprocessor.")}
    state = rename(tensors, layers, "neck.l2_norm.weight", where=where)
    per_box(state, "logits", lambda outputs: outputs.roll(1, dims=1))  # background: last -> first
    num_classes = num_classes_at(tensors, "bbox_head.cls_convs.0.0.bias", "bbox_head.reg_convs.0.0.bias")
    boxes = boxes_of(size, num_classes, default_boxes)
    return make_checkpoint(state, size, _MEANING, where=where, boxes=_whole_sizes(boxes), class_names=class_names)


def _whole_sizes(boxes: str) -> DefaultBoxSpec:
    """Sizes cut to whole pixels, as SSDAnchorGenerator does: 20.48 -> 20 in SSD512."""
    spec = default_box_spec(boxes)
    return replace(spec, min_sizes=tuple(map(int, spec.min_sizes)), max_sizes=tuple(map(int, spec.max_sizes)))


FAMILY = Family("mmdetection", lambda tensors: "neck.l2_norm.weight" in tensors, _convert)
