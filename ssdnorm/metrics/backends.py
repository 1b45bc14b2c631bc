"""COCO's numbers from other packages: pycocotools, the reference, and three that port it to C++ or Rust."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from ssdnorm.coco_format import coco_dict
from ssdnorm.metrics.precision_recall import PrecisionRecall
from ssdnorm.tables import DetectionTable, GroundTruth

# package as pip knows it -> module, class of the evaluator
BACKENDS = {
    "pycocotools": ("pycocotools.cocoeval", "COCOeval"),
    "hotcoco": ("hotcoco", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCOeval_faster"),
    "ultrafast-pycocotools": ("ultrafast_pycocotools", "COCOeval"),
}


def is_installed(backend: str) -> bool:
    """Whether the package behind a backend can be imported."""
    return backend not in BACKENDS or find_spec(BACKENDS[backend][0].partition(".")[0]) is not None


def evaluate_with(
    backend: str,
    truth: GroundTruth,
    found: DetectionTable,
    *,
    iou_thresholds: np.ndarray,
    max_detections: Sequence[int],
) -> PrecisionRecall:
    """Precision, recall and scores as another package computes them.

    Args:
        backend: one of ``BACKENDS``.

    Raises:
        ImportError: the package is not installed.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = make_evaluator(backend, truth, found, iou_thresholds=iou_thresholds, max_detections=max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
    shape = (len(iou_thresholds), 101, truth.num_classes, 4, len(max_detections))
    arrays = {key: np.asarray(evaluation.eval[key], np.float64) for key in ("precision", "recall", "scores")}
    return PrecisionRecall(
        precision=arrays["precision"].reshape(shape),
        recall=arrays["recall"].reshape(shape[0], *shape[2:]),
        scores=arrays["scores"].reshape(shape),
    )


def make_evaluator(
    backend: str,
    truth: GroundTruth,
    found: DetectionTable,
    *,
    iou_thresholds: np.ndarray,
    max_detections: Sequence[int],
) -> Any:
    """A package's ``COCOeval`` on these tables, not run yet.

    Images and categories get their places as ids, annotations new ids from 1 on: with an id of 0, which many converters
    write, pycocotools counts the object as taken but its detection as a false positive.
    """
    if not is_installed(backend):
        raise ImportError(f"backend {backend!r}: the package is not installed: pip install {backend}")
    module, name = BACKENDS[backend]
    api = import_module("pycocotools.coco" if backend == "pycocotools" else module).COCO
    numbered = replace(
        truth,
        image_ids=np.arange(truth.num_images),
        category_ids=np.arange(truth.num_classes),
        ids=np.arange(1, truth.num_objects + 1),
    )
    content = {"info": {}, **coco_dict(numbered)}
    objects = _indexed(api(), content)
    if len(found):
        array = np.column_stack([found.image, found.boxes, found.scores, found.labels - 1])
        detections = objects.loadRes(array)
    else:
        detections = _indexed(api(), {**content, "annotations": []})
    evaluation = getattr(import_module(module), name)(objects, detections, "bbox")
    thresholds = np.asarray(iou_thresholds, np.float64)
    evaluation.params.iouThrs = thresholds.tolist() if backend == "hotcoco" else thresholds
    evaluation.params.maxDets = list(max_detections)
    return evaluation


def _indexed(coco: Any, content: dict[str, Any]) -> Any:
    coco.dataset = content
    coco.createIndex()
    return coco
