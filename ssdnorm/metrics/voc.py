"""PASCAL VOC's detection metric: AP of every class at one IoU, 11-point or all-point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdnorm.coco_format import detection_table, ground_truth_table
from ssdnorm.messages import unknown_name
from ssdnorm.metrics.collect import ImageCollector
from ssdnorm.metrics.matching import (
    best_first,
    best_of_each,
    box_iou_pairs,
    class_and_image,
    expand_pairs,
    stable_order,
)
from ssdnorm.metrics.precision_recall import mean_of_defined
from ssdnorm.tables import DetectionTable, GroundTruth, in_id_order

INTERPOLATIONS = ("11-point", "all-point")
_RECALLS_11 = np.arange(11) * 0.1  # the fourth, seventh and eighth are one bit above .3, .6, .7


@dataclass(frozen=True)
class VocResult:
    """VOC's numbers. A class without objects has AP −1.0 and does not enter the mean.

    Attributes:
        metrics: ``{"mAP": …}``, the mean over classes with objects (−1.0 if there is none).
        per_class: AP, recall, and the counts objects, detections by class name. Difficult objects do not count.
        curves: recall and precision after each counted detection, best score first, and its score, by class name.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curves: dict[str, dict[str, np.ndarray]]
    iou_threshold: float
    interpolation: str


def evaluate_voc(
    ground_truth: Mapping[str, Any] | GroundTruth,
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | DetectionTable,
    *,
    iou_threshold: float = 0.5,
    interpolation: str = "11-point",
) -> VocResult:
    """Evaluate detections against ground truth with the VOC devkit's rules.

    In the order of the scores over the whole data set, each detection looks at the object of its image and class with
    the highest IoU, taken or not (ties: the earlier annotation). At or above the threshold it is a hit if that object
    is still free, ignored if the object is difficult, and a false positive if it was taken. Equal scores stand
    in the order of the input, as MATLAB's stable sort leaves them.

    Boxes are 0-based xywh with ``x = xmin − 1``, ``y = ymin − 1``, ``w = xmax − x``, ``h = ymax − y`` of the devkit's
    1-based inclusive corners: then width and height are the devkit's (its ``+ 1``), and so is every IoU.

    Args:
        ground_truth: a dict in COCO's format with ``difficult`` (0 or 1, default 0) on the annotations; ``iscrowd`` is
            not read.
        detections: as for ``evaluate_coco``. There is no limit on their number.
        interpolation: ``11-point`` (VOC2007: mean of the best precision at or beyond recall 0, .1, … 1) or
            ``all-point`` (VOC2010 on: the area under the precision envelope).

    Raises:
        ValueError: an unknown interpolation or id; boxes or scores that are not numbers.

    Sources:
        M. Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2.
        VOCdevkit VOCcode/VOCevaldet.m (2007: 11-point; 2010 and later: VOCap.m).

    Differs from the devkit in MATLAB and Caffe's evaluation, as every port to Python does: the recalls 0, .1, … 1 are
    ``np.arange(11) * 0.1``, whose .6 and .7 are one bit above .6 and .7, so a class whose recall ends at exactly
    6/10 misses that step (AP lower by up to 1/11). Published Python figures have it so.

    Example:
        >>> truth = {"images": [{"id": 7}], "categories": [{"id": 1, "name": "dog"}],
        ...          "annotations": [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 100, 100]}]}
        >>> found = [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 100, 80], "score": 0.9}]
        >>> evaluate_voc(truth, found, interpolation="all-point").metrics
        {'mAP': 1.0}
    """
    _check_options(iou_threshold, interpolation)
    truth = ground_truth_table(ground_truth)
    truth, found = in_id_order(truth, detection_table(detections, truth))
    order = best_first(found.scores)
    order = order[stable_order(found.labels[order])]
    hit, ignored = _judge(truth, found, order, iou_threshold)
    counted = order[~ignored]
    starts = np.searchsorted(found.labels[counted], np.arange(1, truth.num_classes + 2))
    objects = np.bincount(truth.labels[~truth.difficult], minlength=truth.num_classes + 1)[1:]
    hit = hit[~ignored]
    per_class, curves = {}, {}
    for k, name in enumerate(truth.class_names):
        part = slice(starts[k], starts[k + 1])
        per_class[name], curves[name] = _class_result(hit[part], int(objects[k]), interpolation)
        curves[name]["score"] = found.scores[counted[part]]
    mean = mean_of_defined(np.array([row["AP"] for row in per_class.values()]))
    return VocResult({"mAP": mean}, per_class, curves, iou_threshold, interpolation)


class VocMetric(ImageCollector):
    """VOC's metric as an object for loops: ``update`` with every batch, ``compute`` once, ``reset``.

    Takes the same detections and targets as ``CocoMetric`` and gathers them over processes in the same way; reads
    ``difficult`` of the targets, where it is given. Boxes are xyxy, ``x1 = xmin − 1`` and ``x2 = xmax`` of VOC's XML.

    Args:
        class_names, iou_threshold, interpolation: as in ``CocoMetric`` and ``evaluate_voc``.
    """

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        *,
        iou_threshold: float = 0.5,
        interpolation: str = "11-point",
    ) -> None:
        _check_options(iou_threshold, interpolation)
        super().__init__(class_names)
        self.iou_threshold = iou_threshold
        self.interpolation = interpolation

    def result(self) -> VocResult:
        """The full result of all images so far, with curves."""
        return evaluate_voc(*self.tables(), iou_threshold=self.iou_threshold, interpolation=self.interpolation)

    def compute(self) -> dict[str, float]:
        """``mAP``, then ``AP/name`` of every class."""
        result = self.result()
        return {**result.metrics, **{f"AP/{name}": row["AP"] for name, row in result.per_class.items()}}


def _check_options(iou_threshold: float, interpolation: str) -> None:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: {unknown_name('interpolation', interpolation, INTERPOLATIONS)}")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold: got {iou_threshold!r}, allowed: a number above 0, up to 1")


def _judge(
    truth: GroundTruth, found: DetectionTable, order: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections, in ``order``, are hits and which are ignored; the others are false positives."""
    wanted = np.full(len(found), -1)  # of each detection, as they came: the object of highest IoU, if that is enough
    num_images, no_crowd = truth.num_images, np.zeros(1, bool)
    for detection, object_place in expand_pairs(class_and_image(found, num_images), class_and_image(truth, num_images)):
        iou = box_iou_pairs(found.boxes[detection], truth.boxes[object_place], no_crowd)
        enough = np.flatnonzero(iou >= threshold)
        detection_place, pair = best_of_each(detection[enough], iou[enough])
        wanted[detection_place] = object_place[enough[pair]]
    best_object = wanted[order]
    overlaps = best_object >= 0
    difficult = np.append(truth.difficult, False)[best_object]
    hit = np.zeros(len(order), bool)
    candidates = np.flatnonzero(overlaps)  # with difficult objects: whether those are hits does not count
    _, first_taker = np.unique(best_object[candidates], return_index=True)
    hit[candidates[first_taker]] = True
    return hit, overlaps & difficult


def _class_result(hit: np.ndarray, objects: int, interpolation: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    true = np.cumsum(hit)
    precision = true / np.arange(1, len(hit) + 1)
    recall = true / objects if objects else np.zeros(len(hit))
    row = {
        "AP": _average_precision(recall, precision, interpolation) if objects else -1.0,
        "recall": (float(recall[-1]) if len(recall) else 0.0) if objects else -1.0,
        "objects": objects,
        "detections": len(hit),
    }
    return row, {"recall": recall, "precision": precision}


def _average_precision(recall: np.ndarray, precision: np.ndarray, interpolation: str) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if interpolation == "11-point":
        first = np.searchsorted(recall, _RECALLS_11, "left")
        ap = 0.0
        for best in np.append(envelope, 0.0)[first].tolist():
            ap += best / 11
        return ap
    steps = np.diff(np.r_[0.0, recall, 1.0])  # the last step, to recall 1, has no height
    rises = steps != 0
    return float(np.sum(steps[rises] * np.append(envelope, 0.0)[rises]))
