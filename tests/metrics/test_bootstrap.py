from copy import deepcopy

import numpy as np
import pytest

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.bootstrap import bootstrap_coco, bootstrap_difference, intervals_json
from ssdnorm.metrics.precision_recall import precision_at_recalls, rank_hits

from .random_sets import Found, Truth, draw_set


def repeated(truth: Truth, found: Found, weights: np.ndarray) -> tuple[Truth, Found]:
    """The data set with every image standing there as often as its weight says, copies side by side."""
    order = sorted(image["id"] for image in truth["images"])
    copies = {i: [1000 * i + n for n in range(w)] for i, w in zip(order, weights.tolist(), strict=True)}

    def rows(old: list[dict]) -> list[dict]:
        return [{**deepcopy(row), "image_id": new} for row in old for new in copies[row["image_id"]]]

    images = [{"id": new} for i in order for new in copies[i]]
    return {**truth, "images": images, "annotations": rows(truth["annotations"])}, rows(found)


@pytest.mark.parametrize("seed", range(6))
def test_weights_give_exactly_the_ap_of_the_repeated_data_set(seed):
    truth, found = draw_set(seed, crowd=0.15, num_images=5)
    weights = np.random.default_rng(seed).integers(0, 4, 5)
    ranking = rank_hits(evaluate_coco(truth, found).matches)
    precision, recall, _ = precision_at_recalls(ranking, weights)
    expected = evaluate_coco(*repeated(truth, found, weights)).curves
    np.testing.assert_allclose(precision, expected.precision[..., 0, -1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(recall, expected.recall[..., 0, -1], rtol=0, atol=1e-15)


def test_the_interval_is_that_of_a_loop_over_repeated_data_sets():
    truth, found = draw_set(4, num_images=5)
    result = evaluate_coco(truth, found)
    rng, values = np.random.default_rng(7), []
    for _ in range(40):
        weights = np.bincount(rng.integers(0, 5, 5), minlength=5)
        values.append(evaluate_coco(*repeated(truth, found, weights)).metrics)
    intervals = bootstrap_coco(result, num_resamples=40, metrics=("AP", "AP50", "AP75"), seed=7, level=0.8)
    for name, interval in intervals.items():
        drawn = np.array([v[name] for v in values])
        low, high = np.quantile(drawn, [0.1, 0.9])
        expected = (interval.value + drawn.mean() - high, interval.value + drawn.mean() - low)
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
        assert low < high
        assert interval.value == result.metrics[name]


def test_the_same_seed_gives_the_same_interval_and_more_images_a_narrower_one():
    small = evaluate_coco(*draw_set(1, num_images=10, num_objects=60, num_detections=200))
    large = evaluate_coco(*draw_set(1, num_images=200, num_objects=1200, num_detections=4000))
    first, again = (bootstrap_coco(small, num_resamples=50, seed=3) for _ in range(2))
    assert first == again
    assert first != bootstrap_coco(small, num_resamples=50, seed=4)
    wide, narrow = first["AP50"], bootstrap_coco(large, num_resamples=50, seed=3)["AP50"]
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_a_detector_does_not_differ_from_itself_and_a_worse_one_is_below():
    truth, found = draw_set(2, num_images=30, num_objects=120, num_detections=400)
    result = evaluate_coco(truth, found)
    same = bootstrap_difference(result, result, num_resamples=30)["AP"]
    assert (same.value, same.low, same.high, same.share_higher) == (0.0, 0.0, 0.0, 0.0)
    worse = evaluate_coco(truth, found[::2])
    gap = bootstrap_difference(result, worse, num_resamples=30)["AP50"]
    assert gap.value == result.metrics["AP50"] - worse.metrics["AP50"]
    assert 0 < gap.low < gap.high
    assert gap.share_higher == 1.0


def test_the_paired_difference_is_taken_resample_by_resample():
    truth, found = draw_set(2, num_images=30, num_objects=120, num_detections=400)
    first, second = evaluate_coco(truth, found), evaluate_coco(truth, found[10:])
    gap = bootstrap_difference(first, second, num_resamples=60)["AP50"]
    alone = bootstrap_coco(first, num_resamples=60)["AP50"]
    assert gap.high - gap.low < alone.high - alone.low


def test_intervals_are_plain_numbers():
    result = evaluate_coco(*draw_set(2))
    intervals = bootstrap_coco(result, num_resamples=5)
    assert set(intervals_json(intervals)["AP"]) == {"value", "low", "high", "level", "num_resamples"}
    assert str(intervals["AP"]).startswith(f"{result.metrics['AP']:.4f} [")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("AR100",)}, r"metrics: got \['AR100'\], allowed: AP, AP50, AP75"),
        ({"num_resamples": 0}, "got num_resamples 0, level 0.95, allowed: at least 1 resample"),
        ({"level": 95}, "level 95, allowed: .* a level between 0 and 1"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_coco(evaluate_coco(*draw_set(2)), **options)


def test_results_without_matches_images_or_thresholds_are_refused():
    truth, found = draw_set(2)
    with pytest.raises(ValueError, match="evaluate with backend 'ssdnorm', got 'pycocotools'"):
        bootstrap_coco(evaluate_coco(truth, found, backend="pycocotools"))
    with pytest.raises(ValueError, match=r"AP75 needs IoU 0\.75; got "):
        bootstrap_coco(evaluate_coco(truth, found, iou_thresholds=[0.5]), metrics=("AP75",))
    with pytest.raises(ValueError, match="there are no images to draw from"):
        bootstrap_coco(evaluate_coco({"images": [], "categories": [], "annotations": []}, []))
    other = evaluate_coco(*draw_set(2, num_images=7))
    with pytest.raises(ValueError, match="must be of the same images and classes"):
        bootstrap_difference(evaluate_coco(truth, found), other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_thresholds": [0.5, 0.75]}, r"IoU thresholds; got \[0\.5, 0\.55, .*\] and \[0\.5, 0\.75\]"),
        ({"max_detections": (1, 10)}, "the same highest limit of detections; got 100 and 10"),
    ],
)
def test_a_difference_of_two_aps_that_mean_different_things_is_refused(options, message):
    truth, found = draw_set(2)
    first, second = evaluate_coco(truth, found), evaluate_coco(truth, found, **options)
    with pytest.raises(ValueError, match=message):
        bootstrap_difference(first, second)
    with pytest.raises(ValueError, match="results must have the same"):
        bootstrap_difference(second, first)


def test_thresholds_that_no_metric_reads_may_differ():
    truth, found = draw_set(2)
    ten, two = evaluate_coco(truth, found), evaluate_coco(truth, found, iou_thresholds=[0.75, 0.5])
    assert bootstrap_difference(ten, two, metrics=("AP50",), num_resamples=5)["AP50"].value == 0
