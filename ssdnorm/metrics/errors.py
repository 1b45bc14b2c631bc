"""This file is about where a detector fails: six kinds of error, and how much AP each of them costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdnorm.metrics.arrays import DetectionArrays, GroundTruthArrays
from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.matching import Matches, best_of_each, box_iou_pairs, expand_pairs, match_detections
from ssdnorm.metrics.precision_recall import Ranking, precision_at_recalls

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_NO_ERROR = -1


@dataclass(frozen=True)
class ErrorBreakdown:
    """How often each kind of error occurs, and the AP that would be gained if that kind alone were mended.

    Attributes:
        ap: AP at ``iou_threshold``, before.
        counts, delta_ap: by kind, in the order of ``KINDS``. The gains do not add up to ``1 − ap``.
        delta_ap_false_positives, delta_ap_false_negatives: the gain if all false positives, all unfound objects went.
        kind: ``(D,)`` place in ``KINDS`` of each detection in evaluation order, −1 for a hit or an ignored one.
        object_kind: ``(G,)`` place in ``KINDS`` of each object that was not found: missed, or the classification or
            localisation error that points at it; −1 for an object that was found and for a crowd region.
    """

    ap: float
    iou_threshold: float
    background_iou: float
    counts: dict[str, int]
    delta_ap: dict[str, float]
    delta_ap_false_positives: float
    delta_ap_false_negatives: float
    kind: np.ndarray
    object_kind: np.ndarray
    matches: Matches

    @property
    def missed(self) -> np.ndarray:
        """``(G,)`` bool: the objects that no hit, classification or localisation error accounts for."""
        return self.object_kind == KINDS.index("missed")

    def to_json(self) -> dict[str, Any]:
        """The numbers as a plain dict."""
        names = ("ap", "iou_threshold", "background_iou", "counts", "delta_ap")
        special = ("delta_ap_false_positives", "delta_ap_false_negatives")
        return {name: getattr(self, name) for name in (*names, *special)}

    def table(self) -> str:
        """One line a kind of error, as text."""
        lines = [f"Errors at IoU {self.iou_threshold:g} (AP {self.ap:.3f})", f"  {'kind':<16}{'count':>9}{'dAP':>8}"]
        lines += [f"  {kind:<16}{self.counts[kind]:>9}{self.delta_ap[kind]:>8.3f}" for kind in KINDS]
        lines.append(f"  {'false positives':<16}{sum(self.counts[k] for k in KINDS[:-1]):>9}"
                     f"{self.delta_ap_false_positives:>8.3f}")  # fmt: skip
        lines.append(f"  {'not found':<16}{'':>9}{self.delta_ap_false_negatives:>8.3f}")
        return "\n".join(lines)


def break_down_errors(
    result: CocoResult, *, iou_threshold: float = 0.5, background_iou: float = 0.1, min_score: float = 0.0
) -> ErrorBreakdown:
    """Sort every false positive and every object that was not found into six kinds.

    With *same* and *other* the highest IoU of a false positive with an object of its own class and of another class
    in its image (crowd regions left out), *t* the threshold and *b* the background's, the first that holds:

    - localisation: b ≤ same < t. Mended: it becomes the hit of that object.
    - classification: other ≥ t. Mended: it gets that object's class and becomes its hit.
    - duplicate: same ≥ t, so the object was taken. Mended: removed.
    - background: both below b. Mended: removed.
    - both: what is left, b ≤ other < t. Mended: removed.

    An object is missed if no hit, localisation or classification error points at it. Mended: it is not counted.
    A mended detection whose object has a hit already, or a mended error of the same kind with a higher score, is
    removed. Detections on crowd regions are ignored, as in the metric.

    Args:
        result: from ``evaluate_coco`` with backend ``ssdnorm``; its detection limit holds here too.
        min_score: detections below it are left out first, as a user with that threshold would see the detector.

    Raises:
        ValueError: the result has no matches; thresholds that are not 0 < background_iou < iou_threshold ≤ 1.

    Sources:
        D. Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020 (arXiv:2008.08115).

    Differs from the authors' tidecv: of several errors at one object, the best *of the kind that is mended* becomes the
    hit, not the best of both kinds.
    """
    if result.matches is None:
        raise ValueError(f"break_down_errors: needs backend 'ssdnorm', got a result of {result.backend!r}")
    if not 0 < background_iou < iou_threshold <= 1:
        got = f"background_iou {background_iou}, iou_threshold {iou_threshold}"
        raise ValueError(f"break_down_errors: got {got}, allowed: 0 < background_iou < iou_threshold <= 1")
    truth, found = result.matches.ground_truth, result.matches.detections
    found = found.select(found.scores >= min_score)
    limits = result.max_detections
    matches = match_detections(truth, found, iou_thresholds=[iou_threshold], max_detections=limits)
    hit_object, ignored = _hits(matches)
    false = (hit_object < 0) & ~ignored
    kept = found.select(matches.order)
    same_iou, same_object, other_iou, other_object = _best_overlaps(truth, kept, false)
    tests = [
        (same_iou >= background_iou) & (same_iou < iou_threshold),
        other_iou >= iou_threshold,
        same_iou >= iou_threshold,
        np.maximum(same_iou, other_iou) < background_iou,
    ]
    names = ("localisation", "classification", "duplicate", "background")
    kind = np.select(tests, [KINDS.index(name) for name in names], KINDS.index("both"))
    kind = np.where(false, kind, _NO_ERROR)
    points_at = np.where(kind == KINDS.index("localisation"), same_object, -1)
    points_at = np.where(kind == KINDS.index("classification"), other_object, points_at)
    unfound = ~truth.crowd
    unfound[hit_object[hit_object >= 0]] = False
    object_kind = np.where(unfound, KINDS.index("missed"), _NO_ERROR)
    pointing = np.flatnonzero((points_at >= 0) & np.append(unfound, False)[points_at])
    object_kind[points_at[pointing]] = kind[pointing]
    missed = object_kind == KINDS.index("missed")

    counts = {name: int((kind == place).sum()) for place, name in enumerate(KINDS)} | {"missed": int(missed.sum())}
    counted, everything = ~ignored, np.ones(len(truth), bool)
    ap = _ap(truth, kept, hit_object, counted, everything)
    delta = {}
    for place, name in enumerate(KINDS):
        mended, left = hit_object, counted & (kind != place)
        if name in ("localisation", "classification"):
            mended = _promoted(kept.scores, hit_object, np.where(kind == place, points_at, -1))
            left = left | (mended >= 0)
        delta[name] = _ap(truth, kept, mended, left, ~missed if name == "missed" else everything) - ap
    return ErrorBreakdown(
        ap=ap,
        iou_threshold=iou_threshold,
        background_iou=background_iou,
        counts=counts,
        delta_ap=delta,
        delta_ap_false_positives=_ap(truth, kept, hit_object, hit_object >= 0, everything) - ap,
        delta_ap_false_negatives=_ap(truth, kept, hit_object, counted, ~unfound) - ap,
        kind=kind,
        object_kind=object_kind,
        matches=matches,
    )


@dataclass(frozen=True)
class WorstImage:
    """An image with its number of errors by kind; ``place`` is its place among the sorted image ids."""

    place: int
    image_id: Any
    counts: dict[str, int]

    @property
    def num_errors(self) -> int:
        return sum(self.counts.values())


def worst_images(breakdown: ErrorBreakdown, num_images: int = 20) -> list[WorstImage]:
    """The images with the most errors, most first (ties: the lower image id); images without errors are left out.

    A detector that keeps boxes down to a score of .01 has hundreds of false positives everywhere: compute the breakdown
    with a ``min_score`` such as .3.
    """
    matches = breakdown.matches
    ids = matches.ground_truth.image_ids
    image = matches.detections.image[matches.order]
    table = np.zeros((len(KINDS), len(ids)), np.int64)
    for place in range(len(KINDS)):
        table[place] = np.bincount(image[breakdown.kind == place], minlength=len(ids))
    table[KINDS.index("missed")] = np.bincount(matches.ground_truth.image[breakdown.missed], minlength=len(ids))
    total = table.sum(0)
    worst = np.argsort(-total, kind="stable")[:num_images]
    return [
        WorstImage(place, ids[place], dict(zip(KINDS, table[:, place].tolist(), strict=True)))
        for place in worst.tolist()
        if total[place] > 0
    ]


def _hits(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """For all sizes and the only threshold: the object of each hit (−1), and which detections are ignored."""
    num = len(matches.order)
    hit_object, ignored = np.full(num, -1), matches.outside[0].copy()
    chosen = matches.found[0, 0]
    matched = chosen >= 0
    on_ignored = np.append(matches.object_ignored[0], False)[chosen] & matched
    hit_object[matches.relevant[matched & ~on_ignored]] = chosen[matched & ~on_ignored]
    ignored[matches.relevant] = np.where(matched, on_ignored, ignored[matches.relevant])
    return hit_object, ignored


def _best_overlaps(truth: GroundTruthArrays, found: DetectionArrays, chosen: np.ndarray) -> tuple[np.ndarray, ...]:
    """Highest IoU and its object with objects of the own class, then with those of other classes: four ``(D,)``."""
    best = [np.zeros(len(found)), np.full(len(found), -1), np.zeros(len(found)), np.full(len(found), -1)]
    which, things = np.flatnonzero(chosen), np.flatnonzero(~truth.crowd)
    for row, column in expand_pairs(found.image[which], truth.image[things]):
        detection, thing = which[row], things[column]
        iou = box_iou_pairs(found.boxes[detection], truth.boxes[thing], np.zeros(1, bool))
        same = found.category[detection] == truth.category[thing]
        for first, mask in ((0, same & (iou > 0)), (2, ~same & (iou > 0))):
            if mask.any():
                who, pair = best_of_each(detection[mask], iou[mask])
                best[first][who], best[first + 1][who] = iou[mask][pair], thing[mask][pair]
    return tuple(best)


def _promoted(scores: np.ndarray, hit_object: np.ndarray, points_at: np.ndarray) -> np.ndarray:
    """``hit_object`` with the best-scoring error that points at each free object made its hit."""
    candidates = np.flatnonzero((points_at >= 0) & ~np.isin(points_at, hit_object[hit_object >= 0]))
    best_first = candidates[np.argsort(-scores[candidates], kind="stable")]
    things, first = np.unique(points_at[best_first], return_index=True)
    promoted = hit_object.copy()
    promoted[best_first[first]] = things
    return promoted


def _ap(
    truth: GroundTruthArrays, found: DetectionArrays, hit_object: np.ndarray, counted: np.ndarray, objects: np.ndarray
) -> float:
    """Mean 101-point AP over classes that have objects, given which detections count and which object each one hits."""
    num_classes = len(truth.category_ids)
    has_objects = np.bincount(truth.category[~truth.crowd], minlength=num_classes) > 0
    if not has_objects.any():
        return -1.0
    places = np.flatnonzero(counted)
    category = found.category[places]
    category = np.where(hit_object[places] >= 0, np.append(truth.category, 0)[hit_object[places]], category)
    order = np.lexsort((-found.scores[places], category))
    category, hit = category[order], np.flatnonzero(hit_object[places][order] >= 0)
    kept = objects & ~truth.crowd
    none = np.empty(0, np.int64)
    ranking = Ranking(
        num_thresholds=1,
        image=np.zeros(len(places), np.int64),
        counted=np.ones(len(places), bool),
        class_start=np.searchsorted(category, np.arange(num_classes + 1)),
        hit=hit,
        hit_start=np.searchsorted(category[hit], np.arange(num_classes + 1)),
        change=none,
        sign=none,
        change_start=np.zeros(num_classes + 1, np.int64),
        changes_before=np.zeros(len(hit), np.int64),
        object_image=truth.image[kept],
        object_class=truth.category[kept],
        first_score=np.zeros(num_classes),
        hit_score=np.zeros(len(hit)),
    )
    precision, _ = precision_at_recalls(ranking)
    per_class = np.maximum(precision[0].mean(0), 0.0)  # all its objects left out: 0, as before
    return float(per_class[has_objects].mean())
