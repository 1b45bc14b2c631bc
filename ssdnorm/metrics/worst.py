"""Which detections are hits, which objects were missed, and which images have the most errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.matching import match_detections
from ssdnorm.tables import DetectionTable, GroundTruth


@dataclass(frozen=True)
class Outcomes:
    """What every detection and every object is at one IoU threshold, by COCO's matching.

    Shape:
        found: D detections, by class and falling score; hit, ignored ``(D,)`` bool: the others are false positives;
        detected ``(M,)`` bool by object; crowd regions are never detected and never missed.
    """

    truth: GroundTruth
    found: DetectionTable
    hit: np.ndarray
    ignored: np.ndarray
    detected: np.ndarray

    @property
    def false_positive(self) -> np.ndarray:
        """``(D,)`` bool."""
        return ~self.hit & ~self.ignored

    @property
    def missed(self) -> np.ndarray:
        """``(M,)`` bool."""
        return ~self.detected & ~self.truth.iscrowd


@dataclass(frozen=True)
class WorstImage:
    """An image with its number of errors by kind; ``place`` is its place in the table of the outcomes."""

    place: int
    image_id: Any
    counts: dict[str, int]


def find_outcomes(result: CocoResult, *, iou_threshold: float = 0.5, min_score: float = 0.0) -> Outcomes:
    """Match the detections of at least ``min_score`` again, at one threshold.

    Raises:
        ValueError: the result has no matches.
    """
    if result.matches is None:
        raise ValueError(f"find_outcomes: needs backend 'ssdnorm', got a result of {result.backend!r}")
    found = result.matches.detections
    found = found.select(found.scores >= min_score)
    return match_outcomes(result.matches.ground_truth, found, iou_threshold, max_detections=result.max_detections)


def match_outcomes(
    truth: GroundTruth, found: DetectionTable, iou_threshold: float = 0.5, *, max_detections: Sequence[int] = (100,)
) -> Outcomes:
    """Match all detections at one threshold."""
    matches = match_detections(truth, found, iou_thresholds=[iou_threshold], max_detections=max_detections)
    chosen, relevant = matches.found[0, 0], matches.relevant
    on_ignored = (chosen >= 0) & np.append(matches.object_ignored[0], False)[chosen]
    is_hit = (chosen >= 0) & ~on_ignored
    hit, ignored = np.zeros(len(matches.order), bool), matches.outside[0].copy()
    hit[relevant] = is_hit
    ignored[relevant] = on_ignored | (ignored[relevant] & ~is_hit)
    detected = np.zeros(truth.num_objects, bool)
    detected[chosen[is_hit]] = True
    return Outcomes(truth, found.select(matches.order), hit, ignored, detected)


def worst_images(outcomes: Outcomes, num_images: int = 20) -> list[WorstImage]:
    """The images with the most errors, most first (ties: the lower image id); images without errors are left out.

    A detector that keeps boxes down to a score of .01 has hundreds of false positives in every image: find the outcomes
    with a ``min_score`` such as .3.
    """
    truth = outcomes.truth
    false_positives = np.bincount(outcomes.found.image[outcomes.false_positive], minlength=truth.num_images)
    missed = np.bincount(truth.image[outcomes.missed], minlength=truth.num_images)
    total = false_positives + missed
    ids = truth.image_ids.tolist()
    return [
        WorstImage(i, ids[i], {"false positive": int(false_positives[i]), "missed": int(missed[i])})
        for i in np.argsort(-total, kind="stable")[:num_images].tolist()
        if total[i]
    ]
