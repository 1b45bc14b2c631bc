"""This file is about evaluating a data set: detections by image to COCO's and VOC's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssdnorm.messages import did_you_mean
from ssdnorm.metrics.arrays import DetectionArrays, GroundTruthArrays, detection_arrays, ground_truth_arrays
from ssdnorm.metrics.coco import CocoResult, check_options, coco_results, evaluate_coco
from ssdnorm.metrics.voc import VocResult, evaluate_voc
from ssdnorm.structures import Detections

METRICS = ("coco", "voc07", "voc")
_INTERPOLATIONS = {"voc07": ("VOC07", "11-point"), "voc": ("VOC", "all-point")}


@dataclass(frozen=True)
class EvaluationOptions:
    """Which numbers to compute.

    Args:
        metrics: some of coco, voc07 (11-point) and voc (all-point).
        backend, iou_thresholds, max_detections: of COCO's metric, as in ``evaluate_coco``.
        voc_iou: IoU from which VOC's metrics count a detection as a hit.

    Raises:
        ValueError: for a name or number that is not allowed.
    """

    metrics: tuple[str, ...] = METRICS
    backend: str = "ssdnorm"
    iou_thresholds: tuple[float, ...] | None = None
    max_detections: tuple[int, ...] = (1, 10, 100)
    voc_iou: float = 0.5

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                guess = did_you_mean(name, METRICS)
                raise ValueError(f"metric: unknown metric {name!r}; choose one of: {', '.join(METRICS)}.{guess}")
        if not self.metrics:
            raise ValueError(f"metric: none is asked for; choose some of: {', '.join(METRICS)}")
        check_options(self.backend, self.iou_thresholds, self.max_detections)
        if not 0 < self.voc_iou <= 1:
            raise ValueError(f"voc_iou: got {self.voc_iou}, allowed: a number above 0, up to 1")


@dataclass(frozen=True)
class EvaluationResult:
    """Numbers of one evaluation.

    Attributes:
        metrics: COCO's twelve (AP … ARl), VOC07 (11-point mAP) and VOC (all-point mAP), in [0, 1]; those asked for.
        per_class: COCO's AP, AP50, AP75, AR and the VOC APs by class name.
        detections: in COCO's result format; empty where arrays were evaluated.
        table: the numbers as text.
        found: the detections as arrays.
        coco: the full result of COCO's metric, with the matches that intervals and error breakdowns stand on.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    detections: list[dict[str, Any]]
    table: str
    found: DetectionArrays
    coco: CocoResult | None


def evaluate_arrays(
    truth: GroundTruthArrays,
    found: DetectionArrays,
    options: EvaluationOptions | None = None,
    *,
    detections: Sequence[dict[str, Any]] = (),
) -> EvaluationResult:
    """Evaluate detections of a whole data set.

    Args:
        detections: the same in COCO's result format, to be handed on.

    Raises:
        ImportError: the backend's package is not installed.
    """
    options = options or EvaluationOptions()
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in truth.class_names}
    tables, coco = [], None
    if "coco" in options.metrics:
        coco = evaluate_coco(
            truth,
            found,
            backend=options.backend,
            iou_thresholds=options.iou_thresholds,
            max_detections=options.max_detections,
        )
        metrics |= coco.metrics
        for name, row in coco.per_class.items():
            per_class[name] |= row
        tables.append(coco.table())
    voc = {}
    for metric, (key, interpolation) in _INTERPOLATIONS.items():
        if metric in options.metrics:
            voc[key] = evaluate_voc(truth, found, iou_threshold=options.voc_iou, interpolation=interpolation)
            metrics[key] = voc[key].metrics["mAP"]
            for name, row in voc[key].per_class.items():
                per_class[name][key] = row["AP"]
    if voc:
        tables.append(_voc_table(voc))
    return EvaluationResult(metrics, per_class, list(detections), "\n\n".join(tables), found, coco)


class Evaluator:
    """Detections, by place in the data set, to numbers.

    Args:
        ground_truth: of the whole data set, a COCO-format dict (``DetectionDataset.ground_truth()``).
        image_ids: by place in the data set.
        category_ids: of the labels 1, 2, …
        options: which numbers; all, where None.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        image_ids: Sequence[int],
        category_ids: Sequence[int],
        options: EvaluationOptions | None = None,
    ) -> None:
        self.truth = ground_truth_arrays(ground_truth)
        self.image_ids = list(image_ids)
        self.category_ids = list(category_ids)
        self.options = options or EvaluationOptions()

    def __call__(self, found: Mapping[int, Detections]) -> EvaluationResult:
        """Evaluate; every image of the data set must be in ``found``, once.

        Raises:
            ValueError: if images are missing.
        """
        if len(found) != len(self.image_ids):
            raise ValueError(
                f"evaluation: detections for {len(found)} of the {len(self.image_ids)} images of the data set"
            )
        places = sorted(found)
        rows = coco_results([found[i] for i in places], [self.image_ids[i] for i in places], self.category_ids)
        return evaluate_arrays(self.truth, detection_arrays(rows, self.truth), self.options, detections=rows)


def _voc_table(results: Mapping[str, VocResult]) -> str:
    """Means and APs by class, a column for each interpolation."""
    first = next(iter(results.values()))
    means = ", ".join(f"{result.interpolation} mAP {result.metrics['mAP']:.4f}" for result in results.values())
    width = max([len(name) for name in first.per_class] + [5])
    heads = "".join(f" {result.interpolation:>10}" for result in results.values())
    lines = [f"VOC metric (IoU {first.iou_threshold:g}, difficult objects ignored)", f"  {means}", ""]
    lines.append(f"  {'class':<{width}} {'objects':>8} {'detections':>11}{heads}")
    for name, row in first.per_class.items():
        aps = "".join(f" {result.per_class[name]['AP']:>10.4f}" for result in results.values())
        lines.append(f"  {name:<{width}} {row['objects']:>8.0f} {row['detections']:>11.0f}{aps}")
    return "\n".join(lines)
