"""Where a detector fails: kinds of error and the AP they cost, confusions, calibration, F-scores, label errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdnorm.metrics.backends import make_evaluator
from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.precision_recall import RECALLS, mean_of_defined

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_HOTCOCO_KINDS = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), KINDS, strict=True))


@dataclass(frozen=True)
class ErrorBreakdown:
    """How often each kind of error occurs, and the AP gained if that kind alone were fixed.

    Attributes:
        ap: AP at ``iou_threshold``, before.
        counts, delta_ap: by kind, in the order of ``KINDS``. The gains do not add up to ``1 − ap``.
        delta_ap_false_positives, delta_ap_false_negatives: the gain without any false positive, without any object
            that was not found.
    """

    ap: float
    iou_threshold: float
    background_iou: float
    counts: dict[str, int]
    delta_ap: dict[str, float]
    delta_ap_false_positives: float
    delta_ap_false_negatives: float

    def table(self) -> str:
        """One line per kind of error, as text."""
        lines = [f"Errors at IoU {self.iou_threshold:g} (AP {self.ap:.3f})", f"  {'kind':<16}{'count':>9}{'dAP':>8}"]
        lines += [f"  {kind:<16}{self.counts[kind]:>9}{self.delta_ap[kind]:>8.3f}" for kind in KINDS]
        lines.append(f"  {'false positives':<16}{sum(self.counts[k] for k in KINDS[:-1]):>9}"
                     f"{self.delta_ap_false_positives:>8.3f}")  # fmt: skip
        lines.append(f"  {'not found':<16}{'':>9}{self.delta_ap_false_negatives:>8.3f}")
        return "\n".join(lines)


class ErrorAnalysis:
    """hotcoco's diagnostics of a result at one IoU threshold.

    Args:
        result: from ``evaluate_coco`` with backend ``ssdnorm``; its detection limit holds here too.

    Raises:
        ValueError: the result has no matches; a threshold that is not above 0 and at most 1.
    """

    def __init__(self, result: CocoResult, *, iou_threshold: float = 0.5) -> None:
        if result.matches is None:
            raise ValueError(f"ErrorAnalysis: needs backend 'ssdnorm', got a result of {result.backend!r}")
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"ErrorAnalysis: iou_threshold: got {iou_threshold}, allowed: a number above 0, up to 1")
        self.truth, self.found = result.matches.ground_truth, result.matches.detections
        self.iou_threshold = iou_threshold
        self._evaluator = make_evaluator(
            "hotcoco",
            self.truth,
            self.found,
            iou_thresholds=np.array([iou_threshold]),
            max_detections=result.max_detections,
        )
        self._evaluator.evaluate()

    def breakdown(self, *, background_iou: float = 0.1) -> ErrorBreakdown:
        """Every false positive and every object that was not found, sorted into the six kinds of TIDE.

        Raises:
            ValueError: not 0 < background_iou < iou_threshold.

        Sources:
            D. Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020
            (arXiv:2008.08115).
        """
        if not 0 < background_iou < self.iou_threshold:
            got = f"background_iou {background_iou}, iou_threshold {self.iou_threshold}"
            raise ValueError(f"breakdown: got {got}, allowed: 0 < background_iou < iou_threshold")
        tide = self._evaluator.tide_errors(pos_thr=self.iou_threshold, bg_thr=background_iou)
        return ErrorBreakdown(
            ap=tide["ap_base"],
            iou_threshold=self.iou_threshold,
            background_iou=background_iou,
            counts={kind: tide["counts"].get(key, 0) for key, kind in _HOTCOCO_KINDS.items()},
            delta_ap={kind: tide["delta_ap"].get(key, 0.0) for key, kind in _HOTCOCO_KINDS.items()},
            delta_ap_false_positives=tide["delta_ap"].get("FP", 0.0),
            delta_ap_false_negatives=tide["delta_ap"].get("FN", 0.0),
        )

    def confusion_matrix(self, *, min_score: float = 0.3) -> np.ndarray:
        """How often objects of each class (row) are detected as each class (column); the last of both is background.

        Shape:
            ``(C + 1, C + 1)`` int64.
        """
        confusion = self._evaluator.confusion_matrix(iou_thr=self.iou_threshold, min_score=min_score)
        matrix: np.ndarray = confusion["matrix"].astype(np.int64)
        return matrix

    def calibration(self, *, num_bins: int = 10) -> dict[str, Any]:
        """How far scores are from the share of hits: ``ece``, ``mce``, and by bin of scores ``bins``."""
        found = self._evaluator.calibration(n_bins=num_bins, iou_threshold=self.iou_threshold)
        return {key: found[key] for key in ("ece", "mce", "bins", "per_category")}

    def label_errors(self, *, min_score: float = 0.5) -> list[dict[str, Any]]:
        """Confident detections that contradict the annotations, best score first: candidates for wrong labels."""
        found = self._evaluator.image_diagnostics(iou_thr=self.iou_threshold, score_thr=min_score)
        image_ids, names, ids = (column.tolist() for column in (self.truth.image_ids, self.truth.names, self.truth.ids))
        return [
            {
                "type": row["type"],
                "image_id": image_ids[row["image_id"]],
                "file_name": names[row["image_id"]],
                "score": row["dt_score"],
                "detected": row["dt_category"],
                "bbox": self.found.boxes[row["dt_id"] - 1].tolist(),
                "annotated": row.get("gt_category"),
                "annotation_id": ids[row["gt_id"] - 1] if row.get("gt_id") is not None else None,
                "iou": row.get("iou"),
            }
            for row in found["label_errors"]
        ]


def f_scores(result: CocoResult) -> dict[str, float]:
    """The best F1 over all scores, mean over thresholds and classes: ``F1``, ``F1_50``, ``F1_75``; −1 for no object."""
    precision = result.curves.precision[:, :, :, 0, -1]
    recall = RECALLS[None, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall)).max(axis=1)
    f1[(precision < 0).any(axis=1)] = -1
    rows = {"F1": slice(None), "F1_50": result.iou_thresholds == 0.5, "F1_75": result.iou_thresholds == 0.75}
    return {name: mean_of_defined(f1[row]) for name, row in rows.items()}
