from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdnorm.metrics import CocoMetric, evaluate_coco, load_detections, load_ground_truth
from ssdnorm.metrics.coco import BACKENDS, CocoResult
from ssdnorm.tables import DetectionTable, GroundTruth

from .random_sets import Found, as_tensors, draw_set

PUBLISHED = {  # cocoapi, results/val2014_fake_eval_res.txt, bbox
    "AP": 0.505, "AP50": 0.697, "AP75": 0.573, "APs": 0.586, "APm": 0.519, "APl": 0.501,
    "AR1": 0.387, "AR10": 0.594, "AR100": 0.595, "ARs": 0.640, "ARm": 0.566, "ARl": 0.564,
}  # fmt: skip
ONE_DOG = {
    "images": [{"id": 7}],
    "categories": [{"id": 3, "name": "dog"}],
    "annotations": [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 100, 100]}],
}
BRITTLE = settings(max_examples=25, derandomize=True)
SEEDS = st.integers(0, 10_000)


def assert_same(ours: CocoResult, reference: CocoResult) -> None:
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(getattr(ours.curves, name), getattr(reference.curves, name), err_msg=name)
    assert ours.metrics == reference.metrics
    assert ours.per_class == reference.per_class


def dog(*boxes_and_scores: tuple[list[float], float]) -> Found:
    return [{"image_id": 7, "category_id": 3, "bbox": box, "score": score} for box, score in boxes_and_scores]


@pytest.fixture(scope="module")
def reference(real_data: Callable[[str], Path]) -> tuple[GroundTruth, DetectionTable]:
    folder = real_data("eval_references") / "cocoapi_val2014_100"
    truth = load_ground_truth(folder / "instances_val2014_100.json")
    return truth, load_detections(folder / "instances_val2014_fakebbox100_results.json", truth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_official_example_gives_the_twelve_published_figures(reference, backend):
    metrics = evaluate_coco(*reference, backend=backend).metrics
    assert list(metrics) == list(PUBLISHED)
    assert {key: round(value, 3) for key, value in metrics.items()} == PUBLISHED


def test_every_array_of_the_official_example_equals_pycocotools(reference):
    assert_same(evaluate_coco(*reference), evaluate_coco(*reference, backend="pycocotools"))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "pycocotools"])
@pytest.mark.parametrize("options", [{"tied": True, "crowd": 0.3}, {"num_detections": 0}, {"num_objects": 0}])
def test_every_backend_gives_pycocotools_numbers(backend, options):
    truth, found = draw_set(7, **options)
    settings = {"iou_thresholds": [0.4, 0.5, 0.75], "max_detections": (2, 50)}
    ours = evaluate_coco(truth, found, backend=backend, **settings)
    reference = evaluate_coco(truth, found, backend="pycocotools", **settings)
    if backend == "faster-coco-eval":
        assert ours.metrics == pytest.approx(reference.metrics, abs=1e-12)
    else:
        assert_same(ours, reference)


def test_a_backend_that_is_not_installed_is_refused_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr("ssdnorm.metrics.backends.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install hotcoco"):
        evaluate_coco(ONE_DOG, [], backend="hotcoco")


@pytest.mark.parametrize("thresholds", [[0.5], [1.0, 0.05, 0.5], np.linspace(0.05, 0.95, 19), [0.3] * 33])
@pytest.mark.parametrize("limits", [(1, 10, 100), (3,), (2, 150)])
def test_other_thresholds_and_limits_equal_pycocotools(thresholds, limits):
    truth, found = draw_set(11, tied=True, crowd=0.2, num_images=2)
    options = {"iou_thresholds": thresholds, "max_detections": limits}
    assert_same(evaluate_coco(truth, found, **options), evaluate_coco(truth, found, backend="pycocotools", **options))


@BRITTLE
@given(SEEDS, st.booleans(), st.floats(0, 0.5), st.integers(0, 25), st.integers(0, 60), st.integers(6, 400))
def test_any_set_equals_pycocotools(seed, tied, crowd, num_objects, num_detections, span):
    truth, found = draw_set(
        seed, tied=tied, crowd=crowd, num_objects=num_objects, num_detections=num_detections, span=span, num_images=3
    )
    assert_same(evaluate_coco(truth, found), evaluate_coco(truth, found, backend="pycocotools"))


@BRITTLE
@given(SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_images_objects_and_detections_changes_nothing_when_no_scores_tie(seed, random):
    truth, found = draw_set(seed, crowd=0.1)
    before = evaluate_coco(truth, found)
    random.shuffle(truth["images"])
    random.shuffle(truth["categories"])
    random.shuffle(found)
    assert_same(evaluate_coco(truth, found), before)


@BRITTLE
@given(SEEDS)
def test_tied_scores_stand_by_image_id_and_then_in_the_order_of_the_input(seed):
    truth, found = draw_set(seed, tied=True)
    by_image = sorted(found, key=lambda row: row["image_id"])  # stable: keeps the order within an image
    assert_same(evaluate_coco(truth, by_image), evaluate_coco(truth, found))


@BRITTLE
@given(SEEDS, st.sampled_from([0, 5, 1000]))
def test_an_image_without_objects_and_detections_changes_nothing(seed, image_id):
    truth, found = draw_set(seed, crowd=0.1)
    before = evaluate_coco(truth, found)
    truth["images"].insert(2, {"id": image_id})
    assert_same(evaluate_coco(truth, found), before)


def test_no_detections_give_zero_and_no_objects_give_minus_one():
    nothing_found = evaluate_coco(ONE_DOG, [])
    assert nothing_found.metrics["AP"] == 0.0
    assert nothing_found.metrics["APl"] == 0.0
    assert nothing_found.metrics["APs"] == -1.0
    empty = {**ONE_DOG, "annotations": []}
    for found in ([], dog(([0, 0, 5, 5], 0.5))):
        assert set(evaluate_coco(empty, found).metrics.values()) == {-1.0}
        assert_same(evaluate_coco(empty, found), evaluate_coco(empty, found, backend="pycocotools"))
    assert_same(nothing_found, evaluate_coco(ONE_DOG, [], backend="pycocotools"))


@pytest.mark.parametrize(("second", "ap50"), [(0, 1.0), (20, 51 / 101)])
def test_of_two_objects_that_overlap_alike_the_later_one_is_taken(second, ap50):
    objects = [{"image_id": 7, "category_id": 3, "bbox": [x, 0, 40, 40]} for x in (0, 20)]
    found = dog(([10, 0, 40, 40], 0.9), ([second, 0, 40, 40], 0.8))  # IoU 0.6 with both; then one that fits one only
    for backend in BACKENDS:
        result = evaluate_coco({**ONE_DOG, "annotations": objects}, found, backend=backend)
        assert result.metrics["AP50"] == pytest.approx(ap50), backend


def test_matches_hold_no_detection_beyond_the_limit():
    truth, found = draw_set(1, num_images=1, num_classes=2)
    matches = evaluate_coco(truth, found, max_detections=(1, 20)).matches
    assert matches is not None
    assert np.bincount(matches.detections.labels[matches.order]).tolist() == [0, 20, 20]
    assert matches.rank.max() == 19


def test_a_box_without_area_is_a_false_positive():
    result = evaluate_coco(ONE_DOG, dog(([10, 10, 0, 0], 0.9), ([10, 10, 100, 100], 0.5)))
    assert result.metrics["AP50"] == pytest.approx(0.5)


def test_columns_give_the_same_numbers_as_dicts():
    truth, found = draw_set(3)
    columns = {key: np.array([row[key] for row in found]) for key in ("image_id", "category_id", "bbox", "score")}
    assert_same(evaluate_coco(truth, columns), evaluate_coco(truth, found))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "pycocotool"}, "unknown backend 'pycocotool'; choose one of: .* Did you mean 'pycocotools'"),
        ({"iou_thresholds": [0.5, 1.5]}, "iou_thresholds: got .*1.5.*, allowed: numbers above 0, up to 1"),
        ({"iou_thresholds": []}, "iou_thresholds: got"),
        ({"max_detections": (10, 1)}, r"max_detections: got \(10, 1\), allowed: ascending whole numbers"),
        ({"max_detections": ()}, "max_detections: got"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_coco(ONE_DOG, [], **options)
    with pytest.raises(ValueError, match=message):
        CocoMetric(**options)


def test_the_table_has_the_twelve_numbers_and_a_line_a_class(reference):
    table = evaluate_coco(*reference).table()
    assert "AP       0.505   IoU 0.50:0.95" in table
    assert "ARl      0.564   large objects" in table
    assert table.count("\n") == 12 + 2 + 80
    assert "person" in table


@pytest.mark.parametrize("batch", [1, 4])
def test_the_metric_object_gives_the_numbers_of_the_file(batch):
    truth, found = draw_set(5, crowd=0.2)
    metric = CocoMetric([f"class {c}" for c in sorted(c["id"] for c in truth["categories"])])
    pairs = as_tensors(truth, found)  # whose boxes are halves of pixels: xyxy and back is exact
    for start in range(0, len(pairs), batch):
        metric.update(*zip(*pairs[start : start + batch], strict=True))
    expected = evaluate_coco(truth, found)
    computed = metric.compute()
    assert {key: computed[key] for key in expected.metrics} == expected.metrics
    assert computed["AP50/class 7"] == expected.per_class["class 7"]["AP50"]
    metric.reset()
    assert set(metric.compute().values()) == {-1.0}
