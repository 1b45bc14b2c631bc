"""This file is about VOC's AP as usually computed in Python: a loop over detections, or over images and classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class ImageArrays(NamedTuple):
    """What is in an image and what was found there, as arrays.

    Shape:
        boxes ``(D, 4)`` float64 xyxy; labels ``(D,)`` category ids; scores ``(D,)``; objects ``(G, 4)``;
        object_labels ``(G,)``; difficult ``(G,)`` bool.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    objects: np.ndarray
    object_labels: np.ndarray
    difficult: np.ndarray


def images_as_arrays(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> list[ImageArrays]:
    """Dicts in COCO's format, image by image."""
    found: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    there: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for row in detections:
        found[row["image_id"]].append(row)
    for item in truth["annotations"]:
        there[item["image_id"]].append(item)
    return [
        ImageArrays(
            boxes=_xyxy(np.array([row["bbox"] for row in found[key]], np.float64).reshape(-1, 4)),
            labels=np.array([row["category_id"] for row in found[key]], np.int64),
            scores=np.array([row["score"] for row in found[key]], np.float64),
            objects=_xyxy(np.array([item["bbox"] for item in there[key]], np.float64).reshape(-1, 4)),
            object_labels=np.array([item["category_id"] for item in there[key]], np.int64),
            difficult=np.array([bool(item["difficult"]) for item in there[key]], bool),
        )
        for key in found
    ]


def map_by_detections(images: Sequence[ImageArrays]) -> float:
    """VOC2007's mAP at IoU 0.5, one detection after the other over the whole data set, best score first.

    As in py-faster-rcnn's ``voc_eval``, which amdegroot's SSD and many others took over.
    """
    owner = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
    boxes, labels, scores = (np.concatenate([image[column] for image in images]) for column in range(3))
    aps = []
    for label in np.unique(np.concatenate([image.object_labels for image in images])):
        objects = [image.objects[image.object_labels == label] for image in images]
        hard = [image.difficult[image.object_labels == label] for image in images]
        free = [np.ones(len(flags), bool) for flags in hard]
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        hits, misses = np.zeros(len(mine)), np.zeros(len(mine))
        for place, detection in enumerate(mine):
            image = owner[detection]
            iou = _iou(boxes[detection : detection + 1], objects[image])[0]
            best = int(np.argmax(iou)) if len(iou) else -1
            if best < 0 or iou[best] < 0.5:
                misses[place] = 1
            elif not hard[image][best]:
                (hits if free[image][best] else misses)[place] = 1
                free[image][best] = False
        aps.append(_ap_11(hits, misses, sum(int((~flags).sum()) for flags in hard)))
    return float(np.mean([ap for ap in aps if ap is not None]))


def map_by_images(images: Sequence[ImageArrays]) -> float:
    """The same, image by image and class by class with one matrix of IoUs each, sorted at the end, as in chainercv."""
    scores: dict[int, list[float]] = defaultdict(list)
    judgements: dict[int, list[int]] = defaultdict(list)  # 1 right, 0 wrong, −1 neither: a difficult object
    num_objects: dict[int, int] = defaultdict(int)
    for image in images:
        for label in np.unique(np.concatenate([image.labels, image.object_labels])).tolist():
            mine, theirs = image.labels == label, image.object_labels == label
            hard = image.difficult[theirs]
            num_objects[label] += int((~hard).sum())
            order = np.argsort(-image.scores[mine], kind="stable")
            scores[label].extend(image.scores[mine][order])
            if not len(hard):
                judgements[label].extend([0] * len(order))
                continue
            if not len(order):
                continue
            iou = _iou(image.boxes[mine][order], image.objects[theirs])
            free = np.ones(len(hard), bool)
            for found in np.where(iou.max(axis=1) >= 0.5, iou.argmax(axis=1), -1):
                if found < 0:
                    judgements[label].append(0)
                else:
                    judgements[label].append(-1 if hard[found] else int(free[found]))
                    free[found] = False
    aps = []
    for label, number in sorted(num_objects.items()):
        order = np.argsort(-np.array(scores[label]), kind="stable")
        judged = np.array(judgements[label])[order]
        aps.append(_ap_11((judged == 1).astype(float), (judged == 0).astype(float), number))
    return float(np.mean([ap for ap in aps if ap is not None]))


def _ap_11(hits: np.ndarray, misses: np.ndarray, num_objects: int) -> float | None:
    if not num_objects:
        return None
    hits, misses = np.cumsum(hits), np.cumsum(misses)
    counted = hits + misses > 0
    recall, precision = hits[counted] / num_objects, hits[counted] / (hits + misses)[counted]
    return float(sum(precision[recall >= level].max(initial=0.0) / 11 for level in np.arange(11) * 0.1))


def _xyxy(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    overlap = sides.clip(min=0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None] + (others[:, 2:] - others[:, :2]).prod(axis=1)
    iou: np.ndarray = overlap / (areas - overlap)
    return iou
