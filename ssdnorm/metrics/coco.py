"""COCO's detection metric: twelve numbers, and AP, AP50, AP75 and AR of every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdnorm.coco_format import detection_table, ground_truth_table
from ssdnorm.messages import unknown_name
from ssdnorm.metrics.backends import BACKENDS as PACKAGES
from ssdnorm.metrics.backends import evaluate_with
from ssdnorm.metrics.collect import ImageCollector
from ssdnorm.metrics.matching import Matches, match_detections
from ssdnorm.metrics.precision_recall import PrecisionRecall, accumulate, mean_of_defined, score_text
from ssdnorm.tables import DetectionTable, GroundTruth, in_id_order

BACKENDS = ("ssdnorm", *PACKAGES)
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class CocoResult:
    """COCO's numbers and what they were computed from.

    A number that has nothing to be computed from (no object of that size, a threshold that was not asked for) is
    −1.0, as in pycocotools, and does not enter a mean.

    Attributes:
        metrics: AP AP50 AP75 APs APm APl, AR at each detection limit (AR1 AR10 AR100), ARs ARm ARl, in this order.
        per_class: AP, AP50, AP75 and AR (area all, highest limit) by class name.
        curves: the precision, recall and score arrays, shaped as pycocotools' ``eval``.
        matches: our per-image matches, for intervals and error analysis; None from another backend.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curves: PrecisionRecall
    matches: Matches | None
    backend: str
    class_names: list[str]
    num_objects: list[int]
    iou_thresholds: np.ndarray
    max_detections: tuple[int, ...]

    def table(self) -> str:
        """The twelve numbers, then one line per class, as text."""
        low, high, limit = self.iou_thresholds[0], self.iou_thresholds[-1], self.max_detections[-1]
        span = f"{low:.2f}:{high:.2f}" if low != high else f"{low:.2f}"
        explained = {"AP": f"IoU {span}", "AP50": "IoU 0.50", "AP75": "IoU 0.75"}
        explained |= {
            f"{kind}{size[0]}": f"{size} objects" for kind in ("AP", "AR") for size in ("small", "medium", "large")
        }
        explained |= {f"AR{m}": f"at most {m} detections per image and class" for m in self.max_detections}
        lines = [f"COCO metric ({self.backend}; IoU {span}, at most {limit} detections per image and class)"]
        lines += [f"  {key:<6} {score_text(value):>7}   {explained[key]}" for key, value in self.metrics.items()]
        width = max([len(name) for name in self.per_class] + [5])
        lines += ["", f"  {'class':<{width}} {'objects':>8} {'AP':>7} {'AP50':>7} {'AP75':>7} {'AR':>7}"]
        for (name, row), num in zip(self.per_class.items(), self.num_objects, strict=True):
            lines.append(f"  {name:<{width}} {num:>8} " + " ".join(f"{score_text(value):>7}" for value in row.values()))
        return "\n".join(lines)


def evaluate_coco(
    ground_truth: Mapping[str, Any] | GroundTruth,
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | DetectionTable,
    *,
    backend: str = "ssdnorm",
    iou_thresholds: Sequence[float] | None = None,
    max_detections: Sequence[int] = (1, 10, 100),
) -> CocoResult:
    """Evaluate detections against ground truth with COCO's box metric.

    Every image of the ground truth counts, with detections or without. Crowd regions and the size of objects come
    from the annotations (``iscrowd``, ``area``). The order of the input matters for equal scores only: then the
    lower image id stands first, and within an image the detection that came first.

    Args:
        ground_truth: a dict in COCO's format (images, annotations, categories).
        detections: dicts in COCO's result format (image_id, category_id, bbox xywh in pixels, score), or one dict
            of the four as columns.
        backend: ``ssdnorm`` (ours: the same numbers to the last bit, and the matches), ``pycocotools`` (the
            reference), ``hotcoco``, or the extras ``faster-coco-eval`` and ``ultrafast-pycocotools``.
        iou_thresholds: default .50, .55, … .95; AP50 and AP75 need .50 and .75 among them.
        max_detections: limits per image *and class*, ascending; AP and the sizes use the highest.

    Raises:
        ValueError: an unknown backend, id or option; boxes or scores that are not numbers.
        ImportError: the backend is not installed.

    Differs from pycocotools: with a highest limit other than 100 its printed AP is −1, ours uses that limit.

    Example:
        >>> truth = {"images": [{"id": 7}], "categories": [{"id": 3, "name": "dog"}],
        ...          "annotations": [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 100, 100]}]}
        >>> found = [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 100, 80], "score": 0.9}]
        >>> result = evaluate_coco(truth, found)
        >>> [round(result.metrics[key], 2) for key in ("AP", "AP50", "APs")]
        [0.7, 1.0, -1.0]
    """
    thresholds, limits = check_options(backend, iou_thresholds, max_detections)
    truth = ground_truth_table(ground_truth)
    truth, found = in_id_order(truth, detection_table(detections, truth))
    matches = None
    if backend == "ssdnorm":
        matches = match_detections(truth, found, iou_thresholds=thresholds, max_detections=limits)
        curves = accumulate(matches)
    else:
        curves = evaluate_with(backend, truth, found, iou_thresholds=thresholds, max_detections=limits)
    counts = np.bincount(truth.labels[~truth.iscrowd], minlength=truth.num_classes + 1)[1:]
    precision, recall = curves.precision[..., 0, -1], curves.recall[..., 0, -1]
    return CocoResult(
        metrics=_summary(curves, thresholds, limits),
        per_class={
            name: {**_average_precisions(precision[:, :, k], thresholds), "AR": mean_of_defined(recall[:, k])}
            for k, name in enumerate(truth.class_names)
        },
        curves=curves,
        matches=matches,
        backend=backend,
        class_names=list(truth.class_names),
        num_objects=counts.tolist(),
        iou_thresholds=thresholds,
        max_detections=limits,
    )


class CocoMetric(ImageCollector):
    """COCO's metric as an object for loops: ``update`` with every batch, ``compute`` once, ``reset``.

    Takes what torchvision's detectors return and are trained on: boxes xyxy in pixels, labels of 1 or more, tensors
    on any device or arrays. ``iscrowd`` and ``area`` of the targets are optional (area: of the box).

    In a distributed run every process updates with its own images, and ``compute``, called by all, gathers them.
    Images are told apart by the targets' ``image_id``, so one that a sampler repeated to fill the last batch counts
    once; without ids every image counts.

    Args:
        class_names: names of labels 1, 2, …; a first name ``"__background__"`` is label 0 and is left out. Without
            names the labels seen are the classes.
        backend, iou_thresholds, max_detections: as in ``evaluate_coco``.

    Example:
        >>> import torch
        >>> metric = CocoMetric(["dog"])
        >>> box, label = torch.tensor([[10.0, 10.0, 60.0, 60.0]]), torch.tensor([1])
        >>> target = {"boxes": box, "labels": label}
        >>> metric.update([{**target, "scores": torch.tensor([0.9])}], [target])
        >>> round(metric.compute()["AP/dog"], 12)
        1.0
    """

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        *,
        backend: str = "ssdnorm",
        iou_thresholds: Sequence[float] | None = None,
        max_detections: Sequence[int] = (1, 10, 100),
    ) -> None:
        check_options(backend, iou_thresholds, max_detections)
        super().__init__(class_names)
        self.backend = backend
        self.iou_thresholds = iou_thresholds
        self.max_detections = tuple(max_detections)

    def result(self) -> CocoResult:
        """The full result of all images so far, with matches, curves and ``table()``."""
        return evaluate_coco(
            *self.tables(),
            backend=self.backend,
            iou_thresholds=self.iou_thresholds,
            max_detections=self.max_detections,
        )

    def compute(self) -> dict[str, float]:
        """The twelve numbers, then ``AP/name``, ``AP50/name``, ``AP75/name``, ``AR/name`` of every class."""
        result = self.result()
        per_class = {f"{key}/{name}": value for name, row in result.per_class.items() for key, value in row.items()}
        return {**result.metrics, **per_class}


def check_options(
    backend: str, iou_thresholds: Sequence[float] | None, max_detections: Sequence[int]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The options of ``evaluate_coco`` as it uses them, so that bad ones can be refused before long work.

    Raises:
        ValueError: an unknown backend; thresholds or limits that are not allowed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: {unknown_name('backend', backend, BACKENDS)}")
    thresholds = IOU_THRESHOLDS if iou_thresholds is None else np.asarray(iou_thresholds, np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ValueError(f"iou_thresholds: got {iou_thresholds!r}, allowed: numbers above 0, up to 1")
    limits = tuple(int(limit) for limit in max_detections)
    if not limits or limits != tuple(max_detections) or min(limits) < 1 or list(limits) != sorted(set(limits)):
        raise ValueError(f"max_detections: got {max_detections!r}, allowed: ascending whole numbers from 1")
    return thresholds, limits


def _summary(curves: PrecisionRecall, thresholds: np.ndarray, limits: tuple[int, ...]) -> dict[str, float]:
    metrics = _average_precisions(curves.precision[..., 0, -1], thresholds)
    metrics |= {f"AP{size}": mean_of_defined(curves.precision[..., a, -1]) for a, size in enumerate("sml", 1)}
    metrics |= {f"AR{limit}": mean_of_defined(curves.recall[..., 0, m]) for m, limit in enumerate(limits)}
    return metrics | {f"AR{size}": mean_of_defined(curves.recall[..., a, -1]) for a, size in enumerate("sml", 1)}


def _average_precisions(precision: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """AP, AP50 and AP75 of precisions ``(T, …)``."""
    return {
        "AP": mean_of_defined(precision),
        "AP50": mean_of_defined(precision[thresholds == 0.5]),
        "AP75": mean_of_defined(precision[thresholds == 0.75]),
    }
