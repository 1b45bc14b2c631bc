"""This file is about chainercv: its SSD300 and SSD512 as .npz, whose boxes are y before x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.foreign.family import (
    BACKBONE,
    Family,
    ImageSize,
    Meaning,
    boxes_of,
    extras,
    layer_names,
    make_checkpoint,
    num_classes_at,
    per_box,
    rename,
)

# ssd_vgg16.py: _imagenet_mean by R, G, B; ssd.py: the preset "evaluate"; no limits on the number of detections
_MEANING = Meaning(
    mean=(123.0, 117.0, 104.0),
    clip="none",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": None, "max_detections": None},
)
_THEIRS = {"fc6": "conv6", "fc7": "conv7"}


def _convert(
    tensors: Mapping[str, Tensor], *, where: str, default_boxes: str | None, class_names: Sequence[str] | None
) -> Checkpoint:
    size: ImageSize = 512 if "extractor/conv12_1/W" in tensors else 300
    num_taps = 6 if size == 300 else 7
    layers = layer_names(
        size,
        backbone={name: f"extractor/{_THEIRS.get(name, name)}" for name in BACKBONE},
        extra=[f"extractor/{name}" for name in extras(size)],
        locs=[f"multibox/loc/{i}" for i in range(num_taps)],
        logits=[f"multibox/conf/{i}" for i in range(num_taps)],
    )
    state = rename(tensors, layers, "extractor/norm4/scale", where=where, separator="/", words=("W", "b"))
    per_box(state, "locs", lambda outputs: outputs[:, [1, 0, 3, 2]])  # y x h w -> x y w h
    boxes = boxes_of(size, num_classes_at(tensors, "multibox/conf/0/b", "multibox/loc/0/b"), default_boxes)
    return make_checkpoint(state, size, _MEANING, where=where, boxes=boxes, class_names=class_names)


FAMILY = Family("chainercv", lambda tensors: "extractor/norm4/scale" in tensors, _convert)
