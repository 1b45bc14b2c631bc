"""hotcoco's diagnostics reach the caller with our ids and names; F1 against loops and hotcoco."""

import json
from dataclasses import asdict

import pytest

from ssdnorm.metrics import ErrorAnalysis, evaluate_coco, f_scores, find_outcomes
from ssdnorm.metrics.backends import make_evaluator
from ssdnorm.metrics.errors import KINDS

from .random_sets import Found, Truth, draw_set

BOX = [100.0, 100.0, 40.0, 40.0]
DOG, CAT = 1, 2


def scene(*annotations: dict) -> Truth:
    return {
        "images": [{"id": 11}, {"id": 2}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [{"id": 70 + n, "image_id": 11, "category_id": DOG, "bbox": BOX, **a}
                        for n, a in enumerate(annotations)],
    }  # fmt: skip


def seen(*rows: dict) -> Found:
    return [{"image_id": 11, "category_id": DOG, "bbox": BOX, "score": 0.9, **row} for row in rows]


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
        ({"image_id": 2}, "background", 1),
    ],
)
def test_one_detection_of_one_object_is_of_the_kind_its_overlap_says(row, kind, missed):
    errors = ErrorAnalysis(evaluate_coco(scene({}), seen(row))).breakdown()
    assert errors.counts == dict.fromkeys(KINDS, 0) | {"missed": missed} | ({kind: 1} if kind else {})


def test_the_gains_are_those_computed_by_hand():
    # two dogs; the first found but after a clutter box, the second under the wrong name
    truth = scene({}, {"bbox": moved(200)})
    found = seen(
        {"bbox": moved(400), "score": 0.95}, {"score": 0.9}, {"bbox": moved(200), "category_id": CAT, "score": 0.8}
    )
    errors = ErrorAnalysis(evaluate_coco(truth, found)).breakdown()
    assert errors.ap == pytest.approx(0.5 * 51 / 101)  # precision 1/2 up to recall 1/2; cats do not exist
    assert errors.delta_ap["background"] == pytest.approx(51 / 101 - errors.ap)
    assert errors.delta_ap["classification"] == pytest.approx(2 / 3 - errors.ap)
    assert errors.delta_ap["localisation"] == errors.delta_ap["missed"] == 0.0
    assert errors.delta_ap_false_positives == pytest.approx(51 / 101 - errors.ap)
    assert errors.delta_ap_false_negatives == pytest.approx(0.5 - errors.ap)
    assert json.loads(json.dumps(asdict(errors)))["counts"] == errors.counts
    assert f"background      {1:>9}   {errors.delta_ap['background']:.3f}" in errors.table()


@pytest.mark.parametrize("seed", range(3))
def test_ap_hits_and_errors_agree_with_our_matching(seed):
    truth, found = draw_set(seed, crowd=0.1, num_detections=300)
    result = evaluate_coco(truth, found)
    errors, outcomes = ErrorAnalysis(result).breakdown(), find_outcomes(result)
    assert errors.ap == pytest.approx(result.metrics["AP50"], abs=1e-12)
    assert sum(errors.counts[kind] for kind in KINDS[:-1]) == outcomes.false_positive.sum()
    assert errors.counts["missed"] <= outcomes.missed.sum()


def test_confusions_stand_by_annotated_row_and_detected_column():
    found = seen({}, {"bbox": moved(200), "category_id": CAT}, {"bbox": moved(400)}, {"bbox": BOX, "score": 0.2})
    truth = scene({}, {"bbox": moved(200)}, {"bbox": moved(300), "category_id": CAT})
    matrix = ErrorAnalysis(evaluate_coco(truth, found)).confusion_matrix()
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]  # dog, cat, background


def test_calibration_compares_scores_with_the_share_of_hits():
    found = seen({"score": 0.95}, {"score": 0.92, "bbox": moved(400)}, {"score": 0.25, "bbox": moved(400)})
    calibration = ErrorAnalysis(evaluate_coco(scene({}), found)).calibration()
    rows = {row["bin_lower"]: row for row in calibration["bins"] if row["count"]}
    assert [round(lower, 1) for lower in rows] == [0.2, 0.9]
    assert rows[max(rows)]["avg_accuracy"] == 0.5
    assert calibration["ece"] == pytest.approx((2 * (0.935 - 0.5) + 0.25) / 3)


def test_a_label_error_names_image_class_and_annotation_as_the_file_has_them():
    found = seen({"category_id": CAT, "score": 0.8}, {"bbox": moved(400), "image_id": 2, "score": 0.7})
    truth = scene({}, {"bbox": moved(200)})
    first, second = ErrorAnalysis(evaluate_coco(truth, found)).label_errors()
    assert (first["type"], first["image_id"], first["annotation_id"]) == ("wrong_label", 11, 70)
    assert (first["detected"], first["annotated"], first["iou"], first["score"]) == ("cat", "dog", 1.0, 0.8)
    assert (second["type"], second["image_id"], second["annotation_id"]) == ("missing_annotation", 2, None)
    assert second["bbox"] == moved(400)


@pytest.mark.parametrize("options", [{}, {"crowd": 0.2, "tied": True}])
def test_f_scores_are_hotcocos(options):
    result = evaluate_coco(*draw_set(3, **options))
    matches = result.matches
    evaluator = make_evaluator(
        "hotcoco",
        matches.ground_truth,
        matches.detections,
        iou_thresholds=result.iou_thresholds,
        max_detections=(1, 10, 100),
    )
    evaluator.evaluate()
    evaluator.accumulate()
    assert f_scores(result) == pytest.approx(evaluator.f_scores(), abs=1e-12)


def test_nothing_detected_and_nothing_annotated_have_numbers():
    truth, found = draw_set(1)
    nothing = evaluate_coco(truth, [])
    assert ErrorAnalysis(nothing).breakdown().counts == dict.fromkeys(KINDS, 0) | {"missed": 40}
    assert f_scores(nothing)["F1"] == 0.0
    empty = evaluate_coco({**truth, "annotations": []}, found)
    assert ErrorAnalysis(empty).breakdown().counts["missed"] == 0
    assert f_scores(empty) == {"F1": -1.0, "F1_50": -1.0, "F1_75": -1.0}


def test_wrong_thresholds_and_results_without_matches_are_refused():
    truth, found = draw_set(1)
    result = evaluate_coco(truth, found)
    with pytest.raises(ValueError, match=r"background_iou 0\.5, iou_threshold 0\.5, allowed: 0 < background_iou"):
        ErrorAnalysis(result).breakdown(background_iou=0.5)
    with pytest.raises(ValueError, match="iou_threshold: got 0, allowed: a number above 0"):
        ErrorAnalysis(result, iou_threshold=0)
    other = evaluate_coco(truth, found, backend="pycocotools")
    for analyse in (ErrorAnalysis, find_outcomes):
        with pytest.raises(ValueError, match="needs backend 'ssdnorm', got a result of 'pycocotools'"):
            analyse(other)
