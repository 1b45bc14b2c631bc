"""Compute precision at 101 recalls from matches, for whole data sets and resampled ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssdnorm.metrics.matching import AREA_RANGES, Matches

RECALLS = np.linspace(0.0, 1.0, 101)
_EPS = np.spacing(1)  # in the denominator, as in pycocotools


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall at every setting, −1 where a class has no object of that size.

    Shape:
        precision, scores ``(T, 101, K, A, M)``: best precision at or beyond each recall, and the score there;
        recall ``(T, K, A, M)``: the highest recall reached. T thresholds, K classes, A area ranges, M limits.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """One area range and detection limit, reduced to what precision needs: the hits, and how many stand before each.

    Precision only rises at hits (true positives), so no other position has to be looked at. Hits are sorted by
    threshold, class and evaluation order; a *segment* is one threshold and class, ``t * K + k``.

    Shape:
        ``image``, ``counted`` ``(D,)``: the image of each detection, and whether it counts when unmatched;
        ``class_start`` ``(K + 1,)``; ``hit`` ``(H,)`` places of the hits; ``hit_start`` ``(T * K + 1,)``;
        ``change``, ``sign`` ``(C,)``: places, by segment, where a match makes a detection count (+1, outside
        the area range) or not (−1, on an ignored object); ``change_start`` ``(T * K + 1,)`` and ``changes_before``
        ``(H,)``: how many changes precede each segment, each hit (itself included).
    """

    num_thresholds: int
    image: np.ndarray
    counted: np.ndarray
    class_start: np.ndarray
    hit: np.ndarray
    hit_start: np.ndarray
    change: np.ndarray
    sign: np.ndarray
    change_start: np.ndarray
    changes_before: np.ndarray
    object_image: np.ndarray
    object_class: np.ndarray
    first_score: np.ndarray
    hit_score: np.ndarray


def accumulate(matches: Matches) -> PrecisionRecall:
    """Precision, recall and scores at every threshold, class, area range and detection limit.

    Equal to pycocotools' ``COCOeval.accumulate`` in every bit of the three arrays.
    """
    num_classes = matches.ground_truth.num_classes
    shape = (len(matches.iou_thresholds), num_classes, len(AREA_RANGES), len(matches.max_detections))
    precision = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0)
    scores = precision.copy()
    recall = np.full(shape, -1.0)
    once = np.ones(matches.ground_truth.num_images, np.int64)
    for m, limit in enumerate(matches.max_detections):
        for a in range(len(AREA_RANGES)):
            ranking = rank_hits(matches, area_range=a, limit=limit)
            at_recalls = precision_at_recalls(ranking, once, with_scores=True)
            precision[..., a, m], recall[..., a, m], scores[..., a, m] = at_recalls
    return PrecisionRecall(precision, recall, scores)


def rank_hits(matches: Matches, *, area_range: int = 0, limit: int | None = None) -> Ranking:
    """Reduce matches to the hits of one area range and detection limit (default: the highest)."""
    limit = max(matches.max_detections) if limit is None else limit
    truth = matches.ground_truth
    num_classes, num_thresholds = truth.num_classes, len(matches.iou_thresholds)
    kept = matches.rank < limit
    new_place = np.cumsum(kept) - 1
    order = matches.order[kept]
    category = matches.detections.labels[order] - 1
    among = kept[matches.relevant]
    relevant = new_place[matches.relevant[among]]
    found = matches.found[:, area_range][:, among]
    on_ignored = (found >= 0) & matches.object_ignored[area_range][found] if truth.num_objects else found >= 0
    is_hit = (found >= 0) & ~on_ignored
    counted = ~matches.outside[area_range][kept]
    # a match to an ignored object takes a counted detection out, a hit brings one outside the range in
    is_change = np.where(counted[relevant], on_ignored, is_hit)
    hit_t, hit_r = np.nonzero(is_hit)
    change_t, change_r = np.nonzero(is_change)
    segments = np.arange(num_thresholds * num_classes + 1)
    hit, change = relevant[hit_r], relevant[change_r]
    change_key = change_t * len(order) + change
    class_start = np.searchsorted(category, np.arange(num_classes + 1))
    objects = ~matches.object_ignored[area_range]
    by_score = np.append(matches.detections.scores[order], 0.0)
    return Ranking(
        num_thresholds=num_thresholds,
        image=matches.detections.image[order],
        counted=counted,
        class_start=class_start,
        hit=hit,
        hit_start=np.searchsorted(hit_t * num_classes + category[hit], segments),
        change=change,
        sign=np.where(counted[change], -1, 1),
        change_start=np.searchsorted(change_t * num_classes + category[change], segments),
        changes_before=np.searchsorted(change_key, hit_t * len(order) + hit, "right"),
        object_image=truth.image[objects],
        object_class=truth.labels[objects] - 1,
        first_score=np.where(np.diff(class_start) > 0, by_score[class_start[:-1]], 0.0),
        hit_score=by_score[hit],
    )


def precision_at_recalls(
    ranking: Ranking, weights: np.ndarray, *, with_scores: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Precision at 101 recalls, final recall and, if asked for, the scores at them; each image counts by its weight.

    This is what the evaluation of a data set would give in which image *i* stands ``weights[i]`` times
    (its copies next to each other): copies of a hit follow each other, so precision at the last of them is the
    highest, and one number a hit is enough.

    Shape:
        weights ``(I,)`` integers ≥ 0 → ``(T, 101, K)``, ``(T, K)``, ``(T, 101, K)``; −1 for a class without objects.
    """
    num_thresholds, num_classes = ranking.num_thresholds, len(ranking.class_start) - 1
    hit_class = np.tile(np.arange(num_classes), num_thresholds)
    objects = np.bincount(ranking.object_class, weights[ranking.object_image], num_classes).astype(np.int64)
    weight = weights[ranking.image]
    detections_before, hits_before = _running(weight * ranking.counted), _running(weight[ranking.hit])
    changes_before = _running(weight[ranking.change] * ranking.sign)
    per_segment = np.diff(ranking.hit_start)
    true = hits_before[1:] - np.repeat(hits_before[ranking.hit_start[:-1]], per_segment)
    base = detections_before[ranking.class_start[:-1]][hit_class] + changes_before[ranking.change_start[:-1]]
    all_positive = (
        detections_before[ranking.hit + 1] + changes_before[ranking.changes_before] - np.repeat(base, per_segment)
    )
    best = true / (all_positive + _EPS)
    for start, end in zip(ranking.hit_start[:-1].tolist(), ranking.hit_start[1:].tolist(), strict=True):
        if end - start > 1:
            segment = best[start:end][::-1]
            np.maximum.accumulate(segment, out=segment)
    needed = np.maximum(_hits_needed(objects), 1)[hit_class]  # (T * K, 101)
    start, end = ranking.hit_start[:-1, None], ranking.hit_start[1:, None]
    place = np.searchsorted(hits_before[1:], hits_before[start] + needed, "left")
    reached = place < end
    place = np.where(reached, place, 0)
    exists = (objects > 0)[hit_class]
    shape = (num_thresholds, num_classes, len(RECALLS))
    padded = np.append(best, 0.0)
    precision = np.where(exists[:, None], np.where(reached, padded[place], 0.0), -1.0)
    total = hits_before[ranking.hit_start[1:]] - hits_before[ranking.hit_start[:-1]]
    recall = np.where(exists, total / np.maximum(objects, 1)[hit_class], -1.0)
    scores = None
    if with_scores:
        scores = np.where(reached, np.append(ranking.hit_score, 0.0)[place], 0.0)
        scores[:, 0] = ranking.first_score[hit_class]  # recall 0 is reached by the first detection, hit or not
        scores = np.where(exists[:, None], scores, -1.0).reshape(shape).swapaxes(1, 2)
    return precision.reshape(shape).swapaxes(1, 2), recall.reshape(shape[:2]), scores


def _running(values: np.ndarray) -> np.ndarray:
    """0, then the running sum: entry i is the sum of the first i values."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _hits_needed(objects: np.ndarray) -> np.ndarray:
    """The smallest number of hits n with ``n / objects >= recall`` in float64, for each recall: ``(K, 101)``."""
    count = np.maximum(objects, 1)[:, None].astype(np.float64)
    needed = np.ceil(RECALLS * count)
    needed = np.where((needed - 1) / count >= RECALLS, needed - 1, needed)  # undo the rounding of the product
    return np.where(needed / count >= RECALLS, needed, needed + 1).astype(np.int64)


def mean_of_defined(values: np.ndarray) -> float:
    """The mean over the values that are not the −1 of no object; −1 if all are."""
    defined = values[values > -1]
    return float(np.mean(defined)) if len(defined) else -1.0


def score_text(value: float, digits: int = 3) -> str:
    """A number of a metric as text; ``none`` for the −1 that stands for no object.

    Example:
        >>> score_text(0.25), score_text(-1.0)
        ('0.250', 'none')
    """
    return "none" if value < 0 else f"{value:.{digits}f}"
