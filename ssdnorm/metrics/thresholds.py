"""Which score to ask for: precision, recall and F1 by lowest score, and the best threshold of each class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.worst import Outcomes, find_outcomes


@dataclass(frozen=True)
class ScoreCurves:
    """Precision, recall and F1 if only detections of at least each score were kept.

    Shape:
        scores, precision, recall, f1 ``(n,)``: different scores, rising.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def best(self) -> dict[str, float] | None:
        """The point of the highest F1; None without a hit.

        Its ``threshold`` lies halfway to the next lower score: detections are kept whose score is above it.
        """
        if not len(self.f1) or not self.f1.max() > 0:
            return None
        place = int(np.argmax(self.f1))
        below = self.scores[place - 1] if place else 0.0
        point = {name: float(getattr(self, name)[place]) for name in ("precision", "recall", "f1")}
        return {"threshold": float(below + self.scores[place]) / 2, **point}


def score_curves(scores: np.ndarray, hit: np.ndarray, num_objects: int) -> ScoreCurves:
    """Curves from detections that count.

    Args:
        scores: of the detections, in any order.
        hit: which of them are hits, bool.
        num_objects: objects that count.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(hit[order])
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))[: len(scores)][::-1]  # of each score, rising
    kept, hits = last + 1, hits[last]
    return ScoreCurves(
        scores[last], hits / kept, hits / max(num_objects, 1), 2 * hits / np.maximum(kept + num_objects, 1)
    )


def curves_of(outcomes: Outcomes, label: int | None = None) -> ScoreCurves:
    """Curves of one class, or of all classes together; ignored detections and crowd regions do not count."""
    found, objects = ~outcomes.ignored, ~outcomes.truth.iscrowd
    if label is not None:
        found, objects = found & (outcomes.found.labels == label), objects & (outcomes.truth.labels == label)
    return score_curves(outcomes.found.scores[found], outcomes.hit[found], int(objects.sum()))


def operating_points(result: CocoResult, *, iou_threshold: float = 0.5) -> dict[str, Any]:
    """The point of the highest F1 of all classes together (``all``) and by class (``classes``); None without a hit.

    Raises:
        ValueError: the result has no matches.
    """
    outcomes = find_outcomes(result, iou_threshold=iou_threshold)
    names = outcomes.truth.class_names
    classes = {name: curves_of(outcomes, label).best() for label, name in enumerate(names, 1)}
    return {"iou_threshold": iou_threshold, "all": curves_of(outcomes).best(), "classes": classes}


def thresholds_of(points: dict[str, Any]) -> dict[str, float] | None:
    """Class name → threshold; a class without a hit gets that of all classes together, and None if none has a hit."""
    if points["all"] is None:
        return None
    return {name: (point or points["all"])["threshold"] for name, point in points["classes"].items()}


def points_table(points: dict[str, Any]) -> str:
    """One line per class, as text."""
    rows: Iterable[tuple[str, Any]] = [*points["classes"].items(), ("all together", points["all"])]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"Best F1 at IoU {points['iou_threshold']:g}, and the score to ask for",
        f"  {'class':<{width}} {'score':>8} {'precision':>10} {'recall':>8} {'F1':>8}",
    ]
    for name, point in rows:
        numbers = "no hit" if point is None else (
            f"{point['threshold']:>8.3f} {point['precision']:>10.3f} {point['recall']:>8.3f} {point['f1']:>8.3f}"
        )  # fmt: skip
        lines.append(f"  {name:<{width}} {numbers:>8}")
    return "\n".join(lines)
