"""Images with boxes as annotation files have them, and a table of what can be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssdnorm.data.annotation_checks import Problems, usable_boxes
from ssdnorm.messages import unknown_name
from ssdnorm.tables import TEXT, GroundTruth, xyxy_to_xywh


class AnnotatedBox(NamedTuple):
    """An object of an image.

    Args:
        where: file and place in it, for messages.
        name: its class.
        corners: left, top, right, bottom in pixels.
        shown: the box as the file has it, for messages that repeat it.
    """

    where: str
    name: str
    corners: Sequence[float] | np.ndarray
    difficult: bool = False
    shown: str = ""


class AnnotatedImage(NamedTuple):
    """An image and its objects.

    Args:
        number: its 1-based place in the lists, images that are left out counted.
        size: height and width in pixels.
    """

    number: int
    path: Path
    size: tuple[int, int]
    boxes: list[AnnotatedBox]


def table_of_images(
    images: Sequence[AnnotatedImage], class_names: Sequence[str], problems: Problems, *, one_based: bool = False
) -> GroundTruth:
    """The table of images whose objects have a class, a box and nothing else; bad objects are dropped.

    Args:
        one_based: whether corners are VOC's pixels, counted from 1 and included; a 0 is taken for a 1.

    Raises:
        ValueError: there are no images; whatever ``problems`` raises.
    """
    if not images:
        first = next(iter(problems.messages), "none is listed")
        raise ValueError(f"{problems.where}: no usable image. First problem: {first}")
    label_of = {name: label for label, name in enumerate(class_names, 1)}
    objects: list[AnnotatedBox] = []
    owners = []
    for place, image in enumerate(images):
        for box in image.boxes:
            if box.name in label_of:
                objects.append(box)
                owners.append(place)
            else:
                problems.drop("class", f"{box.where}: {unknown_name('class', box.name, class_names)}")
    owner = np.array(owners, np.int64)
    sizes = np.array([image.size for image in images], np.int64)
    corners = np.array([box.corners for box in objects], np.float64).reshape(-1, 4)

    def describe(row: int) -> str:
        box = objects[row]
        return f"{box.where} ({box.name}):{box.shown and ' '}{box.shown}"

    keep = usable_boxes(corners, sizes[owner], problems, describe)
    edges = np.where(corners == 0, 0, corners - [1, 1, 0, 0]) if one_based else corners
    boxes = xyxy_to_xywh(edges[keep])
    return GroundTruth(
        image_ids=np.array([image.number for image in images], np.int64),
        sizes=sizes,
        names=np.array([image.path.name for image in images], TEXT),
        category_ids=np.arange(1, len(class_names) + 1),
        class_names=tuple(class_names),
        starts=np.searchsorted(owner[keep], np.arange(len(images) + 1)),
        ids=np.arange(1, len(boxes) + 1),
        boxes=boxes,
        labels=np.array([label_of[box.name] for box in objects], np.int64)[keep],
        area=boxes[:, 2:].prod(axis=1),
        iscrowd=np.zeros(len(boxes), bool),
        difficult=np.array([box.difficult for box in objects], bool)[keep],
    )
