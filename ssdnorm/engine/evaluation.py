"""This file is about evaluating a data set: detections by image to COCO's and VOC's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssdnorm.metrics.coco import coco_results, evaluate_coco
from ssdnorm.metrics.voc import evaluate_voc
from ssdnorm.structures import Detections


@dataclass(frozen=True)
class EvaluationResult:
    """Numbers of one evaluation.

    Attributes:
        metrics: COCO's twelve (AP … ARl), VOC07 (11-point mAP) and VOC (all-point mAP), in [0, 1].
        per_class: COCO's AP, AP50, … by class name.
        detections: in COCO's result format.
        table: the numbers as text.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    detections: list[dict[str, Any]]
    table: str


class Evaluator:
    """Detections, by place in the data set, to numbers.

    Args:
        ground_truth: of the whole data set, a COCO-format dict (``DetectionDataset.ground_truth()``).
        image_ids: by place in the data set.
        category_ids: of the labels 1, 2, …
    """

    def __init__(self, ground_truth: dict[str, Any], image_ids: Sequence[int], category_ids: Sequence[int]) -> None:
        self.ground_truth = ground_truth
        self.image_ids = list(image_ids)
        self.category_ids = list(category_ids)

    def __call__(self, found: Mapping[int, Detections]) -> EvaluationResult:
        """Evaluate; every image of the data set must be in ``found``, once.

        Raises:
            ValueError: if images are missing.
        """
        if len(found) != len(self.image_ids):
            raise ValueError(f"evaluation: detections for {len(found)} of the {len(self.image_ids)} images of the data set")
        places = sorted(found)
        results = coco_results([found[i] for i in places], [self.image_ids[i] for i in places], self.category_ids)
        coco = evaluate_coco(self.ground_truth, results)
        voc07 = evaluate_voc(self.ground_truth, results, interpolation="11-point")
        voc = evaluate_voc(self.ground_truth, results, interpolation="all-point")
        metrics = {**coco.metrics, "VOC07": voc07.metrics["mAP"], "VOC": voc.metrics["mAP"]}
        table = (
            f"{coco.table()}\n\nVOC mAP at IoU 0.50, difficult ignored: "
            f"11-point {metrics['VOC07']:.4f}, all-point {metrics['VOC']:.4f}"
        )
        return EvaluationResult(metrics, coco.per_class, results, table)
