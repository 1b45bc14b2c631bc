"""This file is about amdegroot/ssd.pytorch: ssd300_mAP_77.43_v2.pth and its like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.foreign.family import (
    VGG_PLACES,
    Family,
    Meaning,
    boxes_of,
    layer_names,
    make_checkpoint,
    num_classes_at,
    rename,
)

# BaseTransform subtracts (104, 117, 123) from OpenCV's B, G, R, and the data set turns the planes round afterwards
# (data/__init__.py, data/voc0712.py): by R, G, B the mean is the reverse. Detect keeps 200 of each class, of all
# classes together as many as there are.
MEANING = Meaning(
    mean=(123.0, 117.0, 104.0),
    clip="all",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": 200, "max_detections": None},
)


def _convert(
    tensors: Mapping[str, Tensor], *, where: str, default_boxes: str | None, class_names: Sequence[str] | None
) -> Checkpoint:
    layers = layer_names(
        300,
        backbone={name: f"vgg.{place}" for name, place in VGG_PLACES.items()},
        extra=[f"extras.{i}" for i in range(8)],
        locs=[f"loc.{i}" for i in range(6)],
        logits=[f"conf.{i}" for i in range(6)],
    )
    state = rename(tensors, layers, "L2Norm.weight", where=where)
    boxes = boxes_of(300, num_classes_at(tensors, "conf.0.bias", "loc.0.bias"), default_boxes)
    return make_checkpoint(state, 300, MEANING, where=where, boxes=boxes, class_names=class_names)


FAMILY = Family("amdegroot", lambda tensors: "L2Norm.weight" in tensors or "vgg.0.weight" in tensors, _convert)
