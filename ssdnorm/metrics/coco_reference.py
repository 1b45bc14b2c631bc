"""This file is about COCO's numbers from others: pycocotools, the reference, and faster-coco-eval, a port to C++."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssdnorm.metrics.arrays import DetectionArrays, GroundTruthArrays
from ssdnorm.metrics.precision_recall import PrecisionRecall


def evaluate_with(
    backend: str,
    ground_truth: GroundTruthArrays,
    detections: DetectionArrays,
    *,
    iou_thresholds: np.ndarray,
    max_detections: Sequence[int],
) -> PrecisionRecall:
    """Precision, recall and scores as another package computes them.

    Annotations get new ids from 1 on: with an id of 0, which many converters write, pycocotools counts the object as
    taken but its detection as a false positive.

    Args:
        backend: ``"pycocotools"`` or ``"faster-coco-eval"``.

    Raises:
        ImportError: the package is not installed.
    """
    api, evaluator = _classes(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluator(
            _index(api, _ground_truth_dict(ground_truth)),
            _index(api, _detections_dict(ground_truth, detections)),
            "bbox",
        )
        evaluation.params.iouThrs = np.asarray(iou_thresholds, np.float64)
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
    shape = (len(iou_thresholds), 101, len(ground_truth.category_ids), 4, len(max_detections))
    arrays = {key: np.asarray(evaluation.eval[key], np.float64) for key in ("precision", "recall", "scores")}
    return PrecisionRecall(
        precision=arrays["precision"].reshape(shape),
        recall=arrays["recall"].reshape(shape[0], *shape[2:]),
        scores=arrays["scores"].reshape(shape),
    )


def _classes(backend: str) -> tuple[Any, Any]:
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        import faster_coco_eval
    except ImportError as error:
        message = "backend 'faster-coco-eval' needs the package faster-coco-eval: pip install 'ssdnorm[fast-eval]'"
        raise ImportError(message) from error
    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _index(api: Any, data: dict[str, Any]) -> Any:
    coco = api()
    coco.dataset = data
    coco.createIndex()
    return coco


def _frame(ground_truth: GroundTruthArrays) -> dict[str, Any]:
    return {
        "info": {},
        "images": [{"id": i} for i in range(len(ground_truth.image_ids))],
        "categories": [{"id": k, "name": name} for k, name in enumerate(ground_truth.class_names)],
    }


def _ground_truth_dict(ground_truth: GroundTruthArrays) -> dict[str, Any]:
    columns = (ground_truth.image, ground_truth.category, ground_truth.boxes, ground_truth.area, ground_truth.crowd)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (image, category, box, area, crowd) in enumerate(rows, 1)
    ]
    return {**_frame(ground_truth), "annotations": annotations}


def _detections_dict(ground_truth: GroundTruthArrays, detections: DetectionArrays) -> dict[str, Any]:
    area = detections.boxes[:, 2] * detections.boxes[:, 3]
    columns = (detections.image, detections.category, detections.boxes, area, detections.scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": area, "score": score, "iscrowd": 0}
        for n, (image, category, box, area, score) in enumerate(rows, 1)
    ]
    return {**_frame(ground_truth), "annotations": annotations}
