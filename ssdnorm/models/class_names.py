"""Name the classes of VOC and COCO, and select classes of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch

from ssdnorm.messages import did_you_mean
from ssdnorm.models.checkpoint import Checkpoint

# in the order of the VOC devkit's VOCinit.m
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_SAME = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@cache
def coco_classes(*, with_holes: bool = False) -> tuple[str, ...]:
    """COCO's 80 names, or its 90 category ids as torchvision has them, with ``N/A`` where COCO has no class."""
    from torchvision.models.detection import SSD300_VGG16_Weights

    names = SSD300_VGG16_Weights.COCO_V1.meta["categories"][1:]
    return tuple(names) if with_holes else tuple(name for name in names if name != "N/A")


def default_class_names(num_objects: int) -> list[str]:
    """VOC's names for 20 classes, COCO's for 80 and 90, ``class 1`` … otherwise; without background."""
    if num_objects == len(VOC_CLASSES):
        return list(VOC_CLASSES)
    if num_objects in (80, 90):
        return list(coco_classes(with_holes=num_objects == 90))
    return [f"class {i}" for i in range(1, num_objects + 1)]


def select_classes(checkpoint: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """The same detector for some of its classes, in the given order and under the given names.

    Names that differ between VOC and COCO (aeroplane and airplane, sofa and couch, …) are the same class. The logits
    of a kept class do not change; its score rises, since the softmax is over fewer classes.

    Raises:
        ValueError: for a name that the checkpoint lacks, or one given twice.

    Source: the class subsampling of pierluigiferrari/ssd_keras (weight_sampling_tutorial.ipynb).
    """
    places = {_canonical(name): i + 1 for i, name in reversed(list(enumerate(checkpoint.class_names)))}
    rows = [0]
    for name in names:
        if _canonical(name) not in places:
            hint = did_you_mean(_canonical(name), places)
            known = ", ".join(checkpoint.class_names)
            raise ValueError(f"classes: the checkpoint has no class {name!r}; choose from: {known}.{hint}")
        rows.append(places[_canonical(name)])
    if len(set(rows)) != len(rows) or len(rows) < 2:
        raise ValueError(f"classes: one or more names, each once; got {', '.join(names) or 'none'}")
    state = dict(checkpoint.state)
    index = torch.tensor(rows)
    for key in [key for key in state if key.startswith("head.logits.")]:
        by_box = state[key].unflatten(0, (-1, len(checkpoint.class_names) + 1))
        state[key] = by_box[:, index].flatten(0, 1).contiguous()
    model = {**checkpoint.model, "num_classes": len(rows)}
    return replace(checkpoint, model=model, state=state, class_names=list(names), thresholds=None)


def same_class(a: str, b: str) -> bool:
    """Whether two names mean the same class.

    Example:
        >>> same_class("tvmonitor", "tv"), same_class("cat", "dog")
        (True, False)
    """
    return _canonical(a) == _canonical(b)


def _canonical(name: str) -> str:
    return _SAME.get(name, name)
