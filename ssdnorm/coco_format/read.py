"""Dicts in COCO's formats as tables, every value checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssdnorm.coco_format.columns import (
    are_boxes,
    box_array,
    check_dicts,
    class_names,
    describe,
    flag_array,
    float_array,
    places_of,
    rows_of,
    size_array,
    text_column,
    unique_ids,
)
from ssdnorm.messages import shown
from ssdnorm.tables import TEXT, DetectionTable, GroundTruth, id_array

OnBad = Callable[[str, str], None]
RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


def refuse(_kind: str, message: str) -> None:
    """The strict answer to a bad annotation: ``ValueError`` with the message."""
    raise ValueError(message)


def ground_truth_table(ground_truth: Mapping[str, Any] | GroundTruth, *, on_bad: OnBad = refuse) -> GroundTruth:
    """Ground truth in COCO's instances format (``images``, ``annotations``, ``categories``) as a table.

    ``area`` defaults to width × height, ``iscrowd`` and ``difficult`` to 0, a category's name to its id. Images and
    classes keep the order of the file; an id is a whole number, or text. The time is linear in the number of rows.

    Args:
        on_bad: called with kind and message for an annotation of an unknown image (``no image``) or category
            (``class``), for a box that is ``not finite`` or ``inverted``, and for an area or a flag that cannot be
            used (``object``). If it returns, the annotation is left out.

    Raises:
        ValueError: a part is missing, an id is given twice, a value has the wrong type; whatever ``on_bad`` raises.
    """
    if isinstance(ground_truth, GroundTruth):
        return ground_truth
    if not isinstance(ground_truth, Mapping):
        raise ValueError(f"ground truth: got {type(ground_truth).__name__}, allowed: a dict in COCO's format")
    images, annotations, categories = (rows_of(ground_truth, key) for key in ("images", "annotations", "categories"))
    image_ids, category_ids = unique_ids(images, "images"), unique_ids(categories, "categories")
    owner = places_of([row.get("image_id") for row in annotations], image_ids)
    label = places_of([row.get("category_id") for row in annotations], category_ids) + 1
    boxes = box_array([row.get("bbox") for row in annotations])
    given_area = [row.get("area") for row in annotations]
    area = float_array(given_area)
    if None in given_area:
        with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are refused
            area = np.where([value is None for value in given_area], boxes[:, 2] * boxes[:, 3], area)
    iscrowd, difficult = (flag_array([row.get(key) for row in annotations]) for key in ("iscrowd", "difficult"))
    good = (owner >= 0) & (label > 0) & are_boxes(boxes) & np.isfinite(area) & (area >= 0)
    good &= (iscrowd >= 0) & (difficult >= 0)
    for row in np.flatnonzero(~good).tolist():
        kind, message = describe(annotations[row], owner[row] >= 0, label[row] > 0, boxes[row], "area")
        which = f" (id {shown(annotations[row]['id'])})" if "id" in annotations[row] else ""
        on_bad(kind, f"annotations[{row}]{which}: {message}")
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    names = text_column(images, "file_name", "images", [""] * len(images))
    return GroundTruth(
        image_ids=image_ids,
        sizes=size_array(images),
        names=np.array(names, TEXT),
        category_ids=category_ids,
        class_names=class_names(categories),
        starts=np.searchsorted(owner[rows], np.arange(len(images) + 1)),
        ids=_annotation_ids([annotations[row].get("id") for row in rows.tolist()]),
        boxes=boxes[rows],
        labels=label[rows],
        area=area[rows],
        iscrowd=iscrowd[rows] > 0,
        difficult=difficult[rows] > 0,
    )


def detection_table(
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | DetectionTable, truth: GroundTruth
) -> DetectionTable:
    """Detections in COCO's result format as a table that points into a ground truth.

    Args:
        detections: dicts with ``image_id``, ``category_id``, ``bbox`` (xywh, pixels) and ``score``; or one dict of
            four columns under the same names (``bbox`` of shape ``(D, 4)``), which skips the dicts.

    Raises:
        ValueError: an id that the ground truth does not have, a score that is not finite, an inverted box, a missing
            key.
    """
    if isinstance(detections, DetectionTable):
        return detections
    if isinstance(detections, Mapping):
        for key in RESULT_KEYS:
            if key not in detections:
                raise ValueError(f"detections: column {key!r} is missing; got {shown(list(detections))}")
        columns = [detections[key] for key in RESULT_KEYS]
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise ValueError(f"detections: image_id, category_id, bbox, score must be equally long; got {lengths}")
    else:
        check_dicts(detections, "detections")
        columns = [[row.get(key) for row in detections] for key in RESULT_KEYS]
    image, label = places_of(columns[0], truth.image_ids), places_of(columns[1], truth.category_ids) + 1
    boxes, scores = box_array(columns[2]), float_array(columns[3])
    good = (image >= 0) & (label > 0) & are_boxes(boxes) & np.isfinite(scores)
    if not good.all():
        row = int(np.argmin(good))
        values = {key: _plain(column[row]) for key, column in zip(RESULT_KEYS, columns, strict=True)}
        _, message = describe(values, image[row] >= 0, label[row] > 0, boxes[row], "score")
        raise ValueError(f"detections[{row}]: {message} ({(~good).sum()} of {len(good)} detections cannot be used)")
    return DetectionTable(image, label, boxes, scores)


def _annotation_ids(ids: list[Any]) -> np.ndarray:
    """The file's ids of these annotations where each has its own, else 1, 2, …"""
    if set(map(type, ids)) <= {int}:
        numbers = id_array(ids)
        if numbers.dtype != object and len(np.unique(numbers)) == len(ids):
            return numbers
    return np.arange(1, len(ids) + 1)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
