"""Time VOC2007's AP beside the loop over images and classes that Python evaluations use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.child import in_turns
from benchmarks.synthetic_coco import synthetic_coco
from benchmarks.table import Table
from benchmarks.timing import Settings
from ssdnorm.coco_format import ground_truth_table
from ssdnorm.metrics import evaluate_voc
from ssdnorm.tables import GroundTruth

_OURS, _LOOP = "ssdnorm", "a loop over images and classes"


class ImageArrays(NamedTuple):
    """Detections and objects of an image.

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


def measure(settings: Settings) -> Table:
    """Both from arrays, which is what the loop takes where it is used; each run in a process of its own."""
    num_images, per_image, num_classes = (200, 50, 20) if settings.quick else (4952, 100, 20)
    truth, detections = synthetic_coco(num_images, per_image, num_classes)
    images, objects = images_as_arrays(truth, detections), ground_truth_table(truth)
    found = _columns(detections, "image_id", "category_id", "bbox", "score")
    calls: dict[str, Callable[[], float]] = {
        _OURS: partial(map_by_ours, objects, found),
        _LOOP: partial(map_by_images, images),
    }
    runs = in_turns(calls, 1 if settings.quick else 5)
    ratios = [loop.seconds / ours.seconds for loop, ours in zip(runs[_LOOP], runs[_OURS], strict=True)]
    return Table(
        "voc",
        f"VOC2007's 11-point AP at IoU 0.5 from arrays, synthetic data: {num_images} images with {per_image} "
        f"detections each, {num_classes} classes. Processor seconds.",
        [{"evaluator": name, "seconds": median(run.seconds for run in some)} for name, some in runs.items()],
        {"voc.speed": median(ratios), "voc.difference": abs(runs[_OURS][0].value - runs[_LOOP][0].value)},
    )


def map_by_ours(truth: GroundTruth, found: Mapping[str, np.ndarray]) -> float:
    """mAP by the library."""
    return evaluate_voc(truth, found).metrics["mAP"]


def images_as_arrays(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> list[ImageArrays]:
    """Dicts in COCO's format, in the order of their images, image by image."""
    image_ids = [image["id"] for image in truth["images"]]
    found = _columns(detections, "image_id", "bbox", "category_id", "score")
    objects = _columns(truth["annotations"], "image_id", "bbox", "category_id", "difficult")
    objects["difficult"] = objects["difficult"] > 0
    parts = []
    for columns in (found, objects):
        starts = np.searchsorted(columns.pop("image_id"), image_ids)[1:]
        columns["bbox"] = np.concatenate([columns["bbox"][:, :2], columns["bbox"][:, :2] + columns["bbox"][:, 2:]], 1)
        parts += [np.split(column, starts) for column in columns.values()]
    return [ImageArrays(*arrays) for arrays in zip(*parts, strict=True)]


def _columns(rows: Sequence[Mapping[str, Any]], *keys: str) -> dict[str, np.ndarray]:
    return {key: np.array([row[key] for row in rows]) for key in keys}


def map_by_images(images: Sequence[ImageArrays]) -> float:
    """mAP, image by image and class by class with one matrix of IoUs each, sorted at the end, as chainercv does."""
    scores: dict[int, list[float]] = defaultdict(list)
    verdicts: dict[int, list[int]] = defaultdict(list)  # 1 right, 0 wrong, −1 neither: a difficult object
    num_objects: dict[int, int] = defaultdict(int)
    for image in images:
        for label in np.unique(np.concatenate([image.labels, image.object_labels])).tolist():
            mine, theirs = image.labels == label, image.object_labels == label
            hard = image.difficult[theirs]
            num_objects[label] += int((~hard).sum())
            order = np.argsort(-image.scores[mine], kind="stable")
            scores[label].extend(image.scores[mine][order])
            if not len(hard):
                verdicts[label].extend([0] * len(order))
                continue
            if not len(order):
                continue
            iou = _iou(image.boxes[mine][order], image.objects[theirs])
            free = np.ones(len(hard), bool)
            for best in np.where(iou.max(axis=1) >= 0.5, iou.argmax(axis=1), -1):
                if best < 0:
                    verdicts[label].append(0)
                else:
                    verdicts[label].append(-1 if hard[best] else int(free[best]))
                    free[best] = False
    aps = []
    for label, number in sorted(num_objects.items()):
        if number:
            order = np.argsort(-np.array(scores[label]), kind="stable")
            aps.append(_ap_11(np.array(verdicts[label])[order], number))
    return float(np.mean(aps))


def _ap_11(verdicts: np.ndarray, num_objects: int) -> float:
    hits, counted = np.cumsum(verdicts == 1), np.cumsum(verdicts >= 0)
    recall = hits[counted > 0] / num_objects
    precision = hits[counted > 0] / counted[counted > 0]
    return float(sum(precision[recall >= level].max(initial=0.0) / 11 for level in np.arange(11) * 0.1))


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    overlap = sides.clip(min=0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None] + (others[:, 2:] - others[:, :2]).prod(axis=1)
    iou: np.ndarray = overlap / (areas - overlap)
    return iou
