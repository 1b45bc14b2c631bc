"""The evaluator: detections by place in the data set to the numbers of the metrics."""

import pytest
import torch

from ssdnorm.engine.evaluation import EvaluationOptions, Evaluator, evaluate_arrays
from ssdnorm.metrics import bootstrap_coco, break_down_errors, evaluate_coco, evaluate_voc
from ssdnorm.metrics.arrays import detection_arrays, ground_truth_arrays
from ssdnorm.structures import Detections

TRUTH = {
    "images": [{"id": 30, "file_name": "x.jpg"}, {"id": 7, "file_name": "y.jpg"}, {"id": 8, "file_name": "z.jpg"}],
    "categories": [{"id": 90, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"image_id": 30, "category_id": 90, "bbox": [10, 10, 40, 40]},
        {"image_id": 7, "category_id": 2, "bbox": [20, 20, 40, 60]},
        {"image_id": 7, "category_id": 90, "bbox": [60, 0, 40, 50], "difficult": 1},
    ],
}
IMAGE_IDS, CATEGORY_IDS = [30, 7, 8], [90, 2]  # labels 1 and 2, by place in the data set


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows], dtype=torch.float32)
    return Detections(boxes=boxes, scores=scores, labels=torch.tensor([label for *_, label in rows], dtype=torch.int64))


FOUND = {
    2: detections(),
    1: detections(([20, 20, 60, 70], 0.75, 2), ([60, 0, 100, 50], 0.5, 1)),
    0: detections(([10, 10, 50, 50], 0.5, 1), ([0, 0, 9, 9], 0.25, 2)),
}


def test_places_and_labels_become_the_ids_of_the_data_set():
    result = Evaluator(TRUTH, IMAGE_IDS, CATEGORY_IDS)(FOUND)
    assert result.detections == [
        {"image_id": 30, "category_id": 90, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.5},
        {"image_id": 30, "category_id": 2, "bbox": [0.0, 0.0, 9.0, 9.0], "score": 0.25},
        {"image_id": 7, "category_id": 2, "bbox": [20.0, 20.0, 40.0, 50.0], "score": 0.75},
        {"image_id": 7, "category_id": 90, "bbox": [60.0, 0.0, 40.0, 50.0], "score": 0.5},
    ]


def test_the_numbers_are_those_of_the_metrics():
    result = Evaluator(TRUTH, IMAGE_IDS, CATEGORY_IDS)(FOUND)
    coco = evaluate_coco(TRUTH, result.detections)
    voc07 = evaluate_voc(TRUTH, result.detections, interpolation="11-point")
    voc = evaluate_voc(TRUTH, result.detections, interpolation="all-point")
    means = {"VOC07": voc07.metrics["mAP"], "VOC": voc.metrics["mAP"]}
    assert list(result.metrics.items()) == [*coco.metrics.items(), *means.items()]
    for name, row in result.per_class.items():
        assert row == {
            **coco.per_class[name],
            "VOC07": voc07.per_class[name]["AP"],
            "VOC": voc.per_class[name]["AP"],
        }
    assert coco.table() in result.table


def test_the_full_result_serves_intervals_and_errors_without_another_evaluation():
    result = Evaluator(TRUTH, IMAGE_IDS, CATEGORY_IDS)(FOUND)
    assert bootstrap_coco(result.coco, num_resamples=3)["AP"].value == result.metrics["AP"]
    assert break_down_errors(result.coco).counts["background"] == 1


def test_an_image_without_an_entry_is_refused_though_one_without_detections_counts():
    evaluator = Evaluator(TRUTH, IMAGE_IDS, CATEGORY_IDS)
    with pytest.raises(ValueError, match="evaluation: detections for 2 of the 3 images of the data set"):
        evaluator({0: FOUND[0], 1: FOUND[1]})


def test_the_order_in_which_images_come_changes_nothing():
    evaluator = Evaluator(TRUTH, IMAGE_IDS, CATEGORY_IDS)
    first, second = evaluator(FOUND), evaluator(dict(sorted(FOUND.items())))
    assert first.detections == second.detections
    assert first.metrics == second.metrics


def test_one_table_holds_both_interpolations():
    result = Evaluator(TRUTH, IMAGE_IDS, CATEGORY_IDS, EvaluationOptions(metrics=("voc07", "voc"), voc_iou=0.9))(FOUND)
    assert result.coco is None
    assert result.table.splitlines() == [
        "VOC metric (IoU 0.9, difficult objects ignored)",
        "  11-point mAP 0.5000, all-point mAP 0.5000",
        "",
        "  class  objects  detections   11-point  all-point",
        "  cat          1           2     0.0000     0.0000",
        "  dog          1           1     1.0000     1.0000",
    ]


def test_a_data_set_of_nothing_has_numbers():
    truth = ground_truth_arrays({"images": [], "categories": [], "annotations": []})
    result = evaluate_arrays(truth, detection_arrays([], truth))
    assert set(result.metrics.values()) == {-1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("voc7",)}, "metric: unknown metric 'voc7'; choose one of: coco, voc07, voc.* Did you mean 'voc"),
        ({"metrics": ()}, "metric: none is asked for"),
        ({"backend": "fast"}, "backend: unknown backend 'fast'"),
        ({"iou_thresholds": (0.5, 0.0)}, "iou_thresholds: got"),
        ({"max_detections": (0,)}, "max_detections: got"),
        ({"voc_iou": 1.5}, "voc_iou: got 1.5"),
    ],
)
def test_options_are_refused_before_anything_is_computed(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**options)
