"""Bootstrap intervals of COCO's numbers over images, from matches that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from tqdm import tqdm

from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.matching import Matches
from ssdnorm.metrics.precision_recall import mean_of_defined, precision_at_recalls, rank_hits

_THRESHOLDS = {"AP50": 0.5, "AP75": 0.75}
METRICS = ("AP", *_THRESHOLDS)


@dataclass(frozen=True)
class Interval:
    """A number, and the interval around it that holds the expected number of such a test set at this ``level``."""

    value: float
    low: float
    high: float
    level: float
    num_resamples: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Difference(Interval):
    """An interval of ours minus theirs on the same resamples, and the share of resamples in which ours is higher."""

    share_higher: float


def bootstrap_coco(
    result: CocoResult,
    *,
    num_resamples: int = 1000,
    metrics: Sequence[str] = ("AP", "AP50"),
    level: float = 0.95,
    seed: int = 0,
    title: str | None = None,
) -> dict[str, Interval]:
    """Intervals of AP, AP50, AP75 over images: "if the test images had been as many others of the same kind".

    Each resample draws as many images as there are, with replacement, and is evaluated from the matches of
    ``result``, every detection weighted by how often its image was drawn; no box is looked at again. That is exactly
    the AP of the resampled data set (copies of an image side by side). A class without objects in a resample does
    not enter that resample's mean.

    The interval is the pivotal one around the value, ``value − (quantile − mean of the resamples)``, because AP is
    biased: the fewer objects a class has, the higher its interpolated AP, and resamples (in which some images stand
    twice) have it again. Plain percentiles lie too high and held the expected AP of a test set of the same
    size in 81 % to 96 % of our trials, this one in 93 % to 95 % (docs/evaluation.md). Numbers of test sets
    of *different* sizes differ by that bias, which no interval over images covers.

    It says nothing of other seeds in training: for that, train several.

    Args:
        result: from ``evaluate_coco`` with backend ``ssdnorm``.
        metrics: AP50 alone costs about a fifth of AP, which looks at every threshold of the result.
        level: share of the resamples inside the interval.
        title: of a progress bar on a terminal; None for none.

    Raises:
        ValueError: the result has no matches or no images, a metric is unknown or its threshold was not evaluated.

    Sources:
        B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13, for intervals from quantiles.
    """
    draws = _resample([result], num_resamples, metrics, level, seed, title)
    return {
        name: Interval(
            result.metrics[name], *interval_around(result.metrics[name], values[0], level=level), level, num_resamples
        )
        for name, values in draws.items()
    }


def bootstrap_difference(
    result: CocoResult,
    other: CocoResult,
    *,
    num_resamples: int = 1000,
    metrics: Sequence[str] = ("AP", "AP50"),
    level: float = 0.95,
    seed: int = 0,
    title: str | None = None,
) -> dict[str, Difference]:
    """Paired intervals of ``result`` minus ``other``: both are evaluated on the same resampled images.

    Images that are hard for both cancel, so the interval is narrower than those of the two numbers suggest.

    Raises:
        ValueError: as ``bootstrap_coco``; or the results are not of the same images and classes, or differ in the IoU
            thresholds of a metric or in the limit of detections.
    """
    differences = {}
    for name, (first, second) in _resample([result, other], num_resamples, metrics, level, seed, title).items():
        value = result.metrics[name] - other.metrics[name]
        gap = resampled_gap(first, second)
        share = float(np.mean(value + (gap.mean() - gap) > 0))
        differences[name] = Difference(value, *interval_around(value, gap, level=level), level, num_resamples, share)
    return differences


def resample_coco(
    result: CocoResult, *, metrics: Sequence[str] = METRICS, num_resamples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Metric → its values ``(num_resamples,)`` on resampled images, −1 where undefined.

    Results of the same images are resampled alike under one seed, so that differences of these values are paired.
    """
    return {name: each[0] for name, each in _resample([result], num_resamples, metrics, 0.5, seed, None).items()}


def resampled_gap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences on the same resamples; 0 where one of the metrics is undefined."""
    return np.where((first < 0) | (second < 0), 0.0, first - second)


def interval_around(value: float, resampled: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """The pivotal interval of ``bootstrap_coco``: the value, and the resamples' deviations from their mean mirrored."""
    low, high = np.quantile(value + (resampled.mean() - resampled), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def intervals_json(intervals: dict[str, Interval]) -> dict[str, dict[str, float]]:
    """Intervals as plain dicts, for ``result.json``."""
    return {name: asdict(interval) for name, interval in intervals.items()}


def _resample(
    results: Sequence[CocoResult],
    num_resamples: int,
    metrics: Sequence[str],
    level: float,
    seed: int,
    title: str | None,
) -> dict[str, np.ndarray]:
    """Metric name → ``(results, num_resamples)``, with the same images drawn for every result."""
    if not metrics or not set(metrics) <= set(METRICS):
        raise ValueError(f"bootstrap: metrics: got {list(metrics)!r}, allowed: {', '.join(METRICS)}")
    if num_resamples < 1 or not 0 < level < 1:
        got = f"num_resamples {num_resamples}, level {level}"
        raise ValueError(f"bootstrap: got {got}, allowed: at least 1 resample, a level between 0 and 1")
    reduced = [_matches_for(metrics, result) for result in results]
    for other in reduced[1:]:
        _check_alike(reduced[0], other)
    rankings = [rank_hits(matches) for matches in reduced]
    thresholds, num_images = reduced[0].iou_thresholds, reduced[0].ground_truth.num_images
    rows = {name: slice(None) if name == "AP" else thresholds == _THRESHOLDS[name] for name in metrics}
    rng = np.random.default_rng(seed)
    values = {name: np.empty((len(results), num_resamples)) for name in metrics}
    for n in tqdm(range(num_resamples), desc=title, unit="resample", disable=True if title is None else None):
        weights = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
        for place, ranking in enumerate(rankings):
            precision, *_ = precision_at_recalls(ranking, weights)
            for name, which in rows.items():
                values[name][place, n] = mean_of_defined(precision[which])
    return values


def _matches_for(metrics: Sequence[str], result: CocoResult) -> Matches:
    """The matches of a result, at the thresholds that the metrics need."""
    matches = result.matches
    if matches is None:
        raise ValueError(f"this needs per-image matches: evaluate with backend 'ssdnorm', got {result.backend!r}")
    if not matches.ground_truth.num_images:
        raise ValueError("bootstrap: there are no images to draw from")
    needed = {name: _THRESHOLDS[name] for name in metrics if name != "AP"}
    for name, threshold in needed.items():
        if threshold not in matches.iou_thresholds:
            got = matches.iou_thresholds.tolist()
            raise ValueError(f"bootstrap: {name} needs IoU {threshold}; got {got}")
    if "AP" in metrics:
        return matches
    places = np.isin(matches.iou_thresholds, list(needed.values()))
    return replace(matches, iou_thresholds=matches.iou_thresholds[places], found=matches.found[places])


def _check_alike(first: Matches, second: Matches) -> None:
    """Refuse two results of which one number minus the other would mean nothing."""
    for ids in ("image_ids", "category_ids"):
        if not np.array_equal(getattr(first.ground_truth, ids), getattr(second.ground_truth, ids)):
            raise ValueError("bootstrap_difference: the two results must be of the same images and classes")
    ours, theirs = first.iou_thresholds.tolist(), second.iou_thresholds.tolist()
    if ours != theirs:
        raise ValueError(f"bootstrap_difference: results must have the same IoU thresholds; got {ours} and {theirs}")
    if first.max_detections[-1] != second.max_detections[-1]:
        got = f"{first.max_detections[-1]} and {second.max_detections[-1]}"
        raise ValueError(f"bootstrap_difference: results must have the same highest limit of detections; got {got}")
