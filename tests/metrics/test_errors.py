import json

import numpy as np
import pytest

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.errors import KINDS, break_down_errors, worst_images

from .random_sets import Found, Truth, draw_set, perfect_detections

BOX = [100.0, 100.0, 40.0, 40.0]
DOG, CAT = 1, 2


def scene(*annotations: dict) -> Truth:
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": DOG, "bbox": BOX, **a} for a in annotations],
    }


def seen(*rows: dict) -> Found:
    return [{"image_id": 1, "category_id": DOG, "bbox": BOX, "score": 0.9, **row} for row in rows]


def moved(right: float) -> list[float]:
    return [BOX[0] + right, *BOX[1:]]  # IoU (40 − right) / (40 + right)


@pytest.mark.parametrize(
    ("row", "kind", "missed"),
    [
        ({}, None, 0),
        ({"bbox": moved(20)}, "localisation", 0),  # IoU 1/3
        ({"category_id": CAT}, "classification", 0),
        ({"category_id": CAT, "bbox": moved(20)}, "both", 1),
        ({"bbox": moved(35)}, "background", 1),  # IoU 1/15
        ({"bbox": moved(100)}, "background", 1),
        ({"image_id": 2}, "background", 1),
    ],
)
def test_one_detection_of_one_object_is_of_the_kind_its_overlap_says(row, kind, missed):
    errors = break_down_errors(evaluate_coco(scene({}), seen(row)))
    expected = dict.fromkeys(KINDS, 0) | {"missed": missed} | ({kind: 1} if kind else {})
    assert errors.counts == expected


def test_a_second_detection_of_a_found_object_is_a_duplicate():
    errors = break_down_errors(evaluate_coco(scene({}), seen({}, {"score": 0.5})))
    assert errors.counts == dict.fromkeys(KINDS, 0) | {"duplicate": 1}
    assert errors.delta_ap["duplicate"] == 0.0  # after the last hit it costs nothing


def test_detections_on_a_crowd_region_are_no_errors_and_crowds_are_not_missed():
    truth = scene({"iscrowd": 1}, {"bbox": moved(500)})
    errors = break_down_errors(evaluate_coco(truth, seen({}, {"score": 0.8})))
    assert errors.counts == dict.fromkeys(KINDS, 0) | {"missed": 1}


def test_mending_gives_the_gain_computed_by_hand():
    # two dogs; the first found but after a clutter box, the second under the wrong name
    truth = scene({}, {"bbox": moved(200)})
    found = seen(
        {"bbox": moved(400), "score": 0.95}, {"score": 0.9}, {"bbox": moved(200), "category_id": CAT, "score": 0.8}
    )
    errors = break_down_errors(evaluate_coco(truth, found))
    assert errors.ap == pytest.approx(0.5 * 51 / 101)  # precision 1/2 up to recall 1/2; cats do not exist
    assert errors.delta_ap["background"] == pytest.approx(51 / 101 - errors.ap)
    assert errors.delta_ap["classification"] == pytest.approx(2 / 3 - errors.ap)
    assert errors.delta_ap["localisation"] == errors.delta_ap["missed"] == 0.0
    assert errors.delta_ap_false_positives == pytest.approx(51 / 101 - errors.ap)
    assert errors.delta_ap_false_negatives == pytest.approx(0.5 - errors.ap)


def test_of_two_errors_at_one_object_the_better_is_mended_and_the_other_removed():
    truth = scene({}, {"image_id": 2})
    found = seen({"bbox": moved(20), "score": 0.7}, {"bbox": moved(-20), "score": 0.6}, {"image_id": 2, "score": 0.1})
    errors = break_down_errors(evaluate_coco(truth, found))
    assert errors.counts["localisation"] == 2
    assert errors.ap + errors.delta_ap["localisation"] == pytest.approx(1.0)


def test_an_error_at_an_object_that_is_found_anyway_is_only_removed():
    truth = scene({})
    found = seen({"category_id": CAT, "score": 0.99}, {"score": 0.5})
    errors = break_down_errors(evaluate_coco(truth, found))
    assert errors.counts["classification"] == 1
    assert errors.delta_ap["classification"] == 0.0  # no cat exists, so the wrong name cost nothing
    assert (errors.object_kind == -1).all()


@pytest.mark.parametrize("seed", range(5))
def test_ap_is_the_metrics_and_every_detection_and_object_is_accounted_for(seed):
    truth, found = draw_set(seed, crowd=0.1, num_detections=300)
    result = evaluate_coco(truth, found)
    errors = break_down_errors(result)
    assert errors.ap == pytest.approx(result.metrics["AP50"], abs=1e-12)
    assert min(errors.delta_ap.values()) >= -1e-12
    found_at = errors.matches.found[0, 0]
    on_crowd = errors.matches.ground_truth.crowd[found_at] & (found_at >= 0)
    hits = int((found_at >= 0).sum() - on_crowd.sum())
    false = sum(errors.counts[kind] for kind in KINDS[:-1])
    assert hits + false + int(on_crowd.sum()) == len(errors.matches.order) == len(errors.kind)
    unfound = int((errors.object_kind >= 0).sum())
    assert hits + unfound == int((~errors.matches.ground_truth.crowd).sum())
    assert sum(count > 0 for count in errors.counts.values()) >= 5


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_equals_a_loop_over_all_boxes(seed):
    truth, found = draw_set(seed, crowd=0.1)
    errors = break_down_errors(evaluate_coco(truth, found))
    boxes, objects = errors.matches.detections, errors.matches.ground_truth
    for d, kind in zip(errors.matches.order.tolist(), errors.kind.tolist(), strict=True):
        if kind < 0:
            continue
        same, other = [0.0], [0.0]
        for g in range(len(objects)):
            if objects.image[g] == boxes.image[d] and not objects.crowd[g]:
                (same if objects.category[g] == boxes.category[d] else other).append(
                    iou(boxes.boxes[d], objects.boxes[g])
                )
        if 0.1 <= max(same) < 0.5:
            expected = "localisation"
        elif max(other) >= 0.5:
            expected = "classification"
        elif max(same) >= 0.5:
            expected = "duplicate"
        elif max(*same, *other) < 0.1:
            expected = "background"
        else:
            expected = "both"
        assert KINDS[kind] == expected


def iou(a: np.ndarray, b: np.ndarray) -> float:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def test_a_perfect_detector_has_no_errors_and_an_empty_one_misses_all():
    truth, _ = draw_set(1, num_objects=10)
    for annotation in truth["annotations"]:
        annotation["bbox"][0] += 1000 * annotation["id"]
    perfect = break_down_errors(evaluate_coco(truth, perfect_detections(truth)))
    assert set(perfect.counts.values()) == {0}
    assert worst_images(perfect) == []
    nothing = break_down_errors(evaluate_coco(truth, []))
    assert nothing.counts == dict.fromkeys(KINDS, 0) | {"missed": 10}
    empty = break_down_errors(evaluate_coco({**truth, "annotations": []}, perfect_detections(truth)))
    assert (empty.ap, empty.counts["background"]) == (-1.0, 10)


def test_a_score_threshold_leaves_detections_out_first():
    found = seen({"score": 0.2}, {"bbox": moved(400), "score": 0.6})
    errors = break_down_errors(evaluate_coco(scene({}), found), min_score=0.3)
    assert errors.counts == dict.fromkeys(KINDS, 0) | {"background": 1, "missed": 1}


def test_the_worst_images_come_first_and_clean_ones_not_at_all():
    truth = scene({}, {"image_id": 2}, {"image_id": 2, "bbox": moved(200)})
    found = seen({}, {"bbox": moved(400)}, {"image_id": 2, "bbox": moved(400)})
    worst = worst_images(break_down_errors(evaluate_coco(truth, found)))
    assert [(w.image_id, w.num_errors) for w in worst] == [(2, 3), (1, 1)]
    assert worst[0].counts == dict.fromkeys(KINDS, 0) | {"background": 1, "missed": 2}
    assert len(worst_images(break_down_errors(evaluate_coco(truth, found)), 1)) == 1


def test_the_numbers_go_into_json_and_a_table():
    errors = break_down_errors(evaluate_coco(*draw_set(1)))
    assert json.loads(json.dumps(errors.to_json()))["counts"] == errors.counts
    assert f"missed          {errors.counts['missed']:>9}" in errors.table()


def test_wrong_thresholds_and_results_without_matches_are_refused():
    truth, found = draw_set(1)
    with pytest.raises(ValueError, match=r"background_iou 0\.5, iou_threshold 0\.5, allowed: 0 < background_iou"):
        break_down_errors(evaluate_coco(truth, found), background_iou=0.5)
    with pytest.raises(ValueError, match="needs backend 'ssdnorm', got a result of 'pycocotools'"):
        break_down_errors(evaluate_coco(truth, found, backend="pycocotools"))
