"""Match detections to objects by COCO's greedy rule, for a whole data set at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssdnorm.tables import DetectionTable, GroundTruth

_PAIRS_AT_ONCE = 2_000_000
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


@dataclass(frozen=True)
class Matches:
    """The outcome of matching, from which every COCO number, interval and error breakdown is computed.

    Detections beyond the limit per image and class are gone; the rest, **D** of them, stand in evaluation order: by
    class, then best score first, ties by image id and then by their order in the input. Only **R** of them overlap an
    object of their class enough for any threshold ("relevant"); all others are false positives or ignored by size.

    Shape:
        ``order`` ``(D,)`` places in ``detections``; ``rank`` ``(D,)`` place among those of the same image and class;
        ``relevant`` ``(R,)`` places in ``order``; ``found`` ``(T, A, R)`` int32 the object each relevant detection is
        matched to, −1 for none; ``object_ignored`` ``(A, G)`` and ``outside`` ``(A, D)`` bool by area range.
    """

    ground_truth: GroundTruth
    detections: DetectionTable
    iou_thresholds: np.ndarray
    max_detections: tuple[int, ...]
    order: np.ndarray
    rank: np.ndarray
    relevant: np.ndarray
    found: np.ndarray
    object_ignored: np.ndarray
    outside: np.ndarray


def match_detections(
    ground_truth: GroundTruth,
    detections: DetectionTable,
    *,
    iou_thresholds: Sequence[float] | np.ndarray,
    max_detections: Sequence[int] = (1, 10, 100),
) -> Matches:
    """Match detections to objects as pycocotools does, for all thresholds and the four area ranges.

    Within an image and class, detections choose in the order of their scores (ties: input order). Each takes the free
    object of highest IoU at or above the threshold (ties: the later annotation); an object outside the area range or a
    crowd region only when no other is free, and a crowd region can be taken again and again. IoU with a crowd region
    is the intersection over the *detection's* area.

    The vectorisation: only pairs of the same image and class with enough IoU are looked at, and round *r* lets the
    *r*-th relevant detection of every image and class choose at once. Thresholds × area ranges are the bits of one
    integer.

    Sources:
        pycocotools/cocoeval.py ``evaluateImg`` and common/maskApi.c ``bbIou``: the rules, and IoU to the last bit.
    """
    thresholds = np.asarray(iou_thresholds, np.float64)
    order, rank, group = _evaluation_order(ground_truth, detections, max(max_detections))
    pair_detection, pair_object, pair_iou = _overlapping_pairs(ground_truth, detections, order, group, thresholds.min())
    relevant, first_pair = np.unique(pair_detection, return_index=True)
    ranges = np.array(list(AREA_RANGES.values()))
    area = detections.boxes[order, 2] * detections.boxes[order, 3]
    object_ignored = ground_truth.iscrowd | _outside(ground_truth.area, ranges)
    found = np.full((len(thresholds), len(ranges), len(relevant)), -1, np.int32)
    rounds = _rounds(relevant, first_pair, len(pair_iou), rank, group)
    step = 64 // len(ranges)
    for start in range(0, len(thresholds), step):
        part = thresholds[start : start + step]
        _choose(found[start : start + step], part, rounds, pair_object, pair_iou, object_ignored, ground_truth.iscrowd)
    return Matches(
        ground_truth, detections, thresholds, tuple(max_detections), order, rank, relevant, found, object_ignored,
        _outside(area, ranges),
    )  # fmt: skip


def box_iou_pairs(first: np.ndarray, second: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of paired xywh boxes; for a crowd region in ``second``, intersection over the first box's area.

    The operations and their order are those of maskApi.c, so that results agree to the last bit.

    Shape:
        first, second ``(P, 4)`` float64; crowd ``(P,)`` bool → ``(P,)``.
    """
    x1, y1, w1, h1 = first.T
    x2, y2, w2, h2 = second.T
    width = np.minimum(w1 + x1, w2 + x2) - np.maximum(x1, x2)
    height = np.minimum(h1 + y1, h2 + y2) - np.maximum(y1, y2)
    inter = width * height
    area = w1 * h1
    union = np.where(crowd, area, area + w2 * h2 - inter)
    meets = (width > 0) & (height > 0)
    return np.divide(inter, union, out=np.zeros_like(inter), where=meets)


def expand_pairs(detection_group: np.ndarray, object_group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of a detection and an object of the same group, in portions of about two million pairs.

    Yields places in the two arrays, sorted by detection, then object; a detection's pairs are in one portion.
    """
    by_group = stable_order(object_group)
    sorted_groups = object_group[by_group]
    first = np.searchsorted(sorted_groups, detection_group, "left")
    count = np.searchsorted(sorted_groups, detection_group, "right") - first
    candidates = np.flatnonzero(count)
    portions = np.cumsum(count[candidates]) // _PAIRS_AT_ONCE
    for part in np.split(candidates, np.flatnonzero(np.diff(portions)) + 1):
        detection = np.repeat(part, count[part])
        if len(detection):
            yield detection, by_group[np.repeat(first[part], count[part]) + _place_in_run(detection)]


def best_of_each(detection: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For pairs sorted by detection: the detections, and the place of the best pair of each (ties: the first)."""
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    highest = np.maximum.reduceat(iou, starts)
    is_best = np.flatnonzero(iou == np.repeat(highest, np.diff(np.r_[starts, len(iou)])))
    detections, first = np.unique(detection[is_best], return_index=True)
    return detections, is_best[first]


def class_and_image(boxes: GroundTruth | DetectionTable, num_images: int) -> np.ndarray:
    """One number for the class and image of every box, in the order of the classes."""
    return boxes.labels * max(1, num_images) + boxes.image


def stable_order(numbers: np.ndarray) -> np.ndarray:
    """What sorts integers from 0 on, equal ones as they stood.

    In digits of 16 bits, the last one first: NumPy sorts those by radix, ten times faster than larger integers.
    """
    order = np.argsort(numbers.astype(np.uint16), kind="stable")  # which keeps the last 16 bits
    for shift in range(16, int(numbers.max(initial=0)).bit_length(), 16):
        digit = (numbers >> shift).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def best_first(scores: np.ndarray) -> np.ndarray:
    """What sorts float64 scores in falling order, equal ones as they stood."""
    bits = (0.0 - scores).view(np.int64)  # no negative zero among them
    negative = bits >> 63  # all bits of a negative number turn, of the others the sign
    return stable_order((bits ^ (negative | np.iinfo(np.int64).min)).view(np.uint64))


def _outside(area: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    return (area < ranges[:, :1]) | (area > ranges[:, 1:])


def _evaluation_order(
    ground_truth: GroundTruth, detections: DetectionTable, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections by (class, −score, image, input order) with rank and (class, image) group, up to a limit."""
    order = stable_order(detections.image)
    order = order[best_first(detections.scores[order])]
    order = order[stable_order(detections.labels[order])]
    group = class_and_image(detections, ground_truth.num_images)[order]
    by_group = stable_order(group)
    rank = np.empty(len(order), np.int64)
    rank[by_group] = _place_in_run(group[by_group])
    keep = rank < limit
    return order[keep], rank[keep], group[keep]


def _place_in_run(values: np.ndarray) -> np.ndarray:
    """0, 1, 2, … within every run of equal neighbours."""
    places = np.arange(len(values))
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else places
    return places - np.repeat(starts, np.diff(np.r_[starts, len(values)]))


def _overlapping_pairs(
    ground_truth: GroundTruth, detections: DetectionTable, order: np.ndarray, group: np.ndarray, lowest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of one image and class with IoU at or above the lowest threshold, by detection, best IoU first."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    object_group = class_and_image(ground_truth, ground_truth.num_images)
    for detection, object_place in expand_pairs(group, object_group):
        boxes, is_crowd = ground_truth.boxes[object_place], ground_truth.iscrowd[object_place]
        iou = box_iou_pairs(detections.boxes[order[detection]], boxes, is_crowd)
        enough = iou >= min(lowest, 1 - 1e-10)
        found.append((detection[enough], object_place[enough], iou[enough]))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    detection, object_place, iou = (np.concatenate(columns) for columns in zip(*found, strict=True))
    # of equal IoUs the later annotation first, which the reference ends up with
    by_detection = np.lexsort((-object_place, -iou, detection))
    return detection[by_detection], object_place[by_detection], iou[by_detection]


@dataclass(frozen=True)
class _Round:
    """Detections that choose at the same time, one an image and class, those with most pairs first."""

    relevant: np.ndarray  # places among the relevant detections
    first_pair: np.ndarray
    having: list[int]  # how many of them have more than 0, 1, 2, … pairs


def _rounds(
    relevant: np.ndarray, first_pair: np.ndarray, num_pairs: int, rank: np.ndarray, group: np.ndarray
) -> list[_Round]:
    num = np.diff(np.r_[first_pair, num_pairs])
    by_group = np.lexsort((rank[relevant], group[relevant]))
    turn = np.empty(len(relevant), np.int64)
    turn[by_group] = _place_in_run(group[relevant][by_group])
    order = np.lexsort((-num, turn))
    ends = np.cumsum(np.bincount(turn)) if len(turn) else np.empty(0, np.int64)
    rounds = []
    for start, end in zip(np.r_[0, ends[:-1]], ends, strict=False):
        chosen = order[start:end]
        having = np.searchsorted(-num[chosen], -np.arange(num[chosen[0]]), "left")
        rounds.append(_Round(chosen, first_pair[chosen], having.tolist()))
    return rounds


def _choose(
    found: np.ndarray,
    thresholds: np.ndarray,
    rounds: list[_Round],
    pair_object: np.ndarray,
    pair_iou: np.ndarray,
    object_ignored: np.ndarray,
    crowd: np.ndarray,
) -> None:
    """Fill ``found`` ``(T, A, R)`` for up to 64 / A thresholds; bit a·T + t stands for area range a, threshold t."""
    num_thresholds, num_ranges = found.shape[:2]
    bit = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))
    all_thresholds = np.uint64((1 << num_thresholds) - 1)
    every_range = np.uint64(sum(1 << (a * num_thresholds) for a in range(num_ranges)))
    allowed = np.zeros(len(pair_iou), np.uint64)
    for t, threshold in enumerate(thresholds):
        allowed |= np.where(pair_iou >= min(threshold, 1 - 1e-10), bit[t], np.uint64(0))
    allowed *= every_range
    ignored = np.zeros(len(crowd), np.uint64)
    for a in range(num_ranges):
        ignored |= np.where(object_ignored[a], all_thresholds << np.uint64(a * num_thresholds), np.uint64(0))
    free = np.full(len(crowd), ~np.uint64(0))
    takes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for turn in rounds:
        undecided = np.full(len(turn.relevant), ~np.uint64(0))
        for second_choice in (False, True):  # objects that count first, ignored ones for what is left
            for slot, num in enumerate(turn.having):
                pair = turn.first_pair[:num] + slot
                object_place = pair_object[pair]
                kind = ignored[object_place] if second_choice else ~ignored[object_place]
                take = allowed[pair] & free[object_place] & kind & undecided[:num]
                undecided[:num] &= ~take
                free[object_place] &= ~np.where(crowd[object_place], np.uint64(0), take)
                takes.append((turn.relevant[:num], object_place, take))
    if not takes:
        return
    detection_place, object_place, take = (np.concatenate(columns) for columns in zip(*takes, strict=True))
    taken = take > 0
    detection_place, object_place, take = detection_place[taken], object_place[taken], take[taken]
    for a in range(num_ranges):
        for t in range(num_thresholds):
            chosen = (take & bit[a * num_thresholds + t]) > 0
            found[t, a, detection_place[chosen]] = object_place[chosen]
