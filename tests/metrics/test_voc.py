import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdnorm.metrics import VocMetric, evaluate_voc

from .random_sets import Found, Truth, as_tensors, draw_set

BRITTLE = settings(max_examples=25, derandomize=True)
SEEDS = st.integers(0, 10_000)
PADILLA = {  # rafaelpadilla/Object-Detection-Metrics, tests/test_case_1, published with its toolkit
    ("11-point", 0.1): 0.3333333333, ("11-point", 0.3): 0.2683982683, ("11-point", 0.5): 0.0303030303,
    ("11-point", 0.75): 0.0, ("all-point", 0.1): 0.3371980676, ("all-point", 0.3): 0.2456866804,
    ("all-point", 0.5): 0.0222222222, ("all-point", 0.75): 0.0,
}  # fmt: skip


def devkit_ap(truth: Truth, found: Found, category_id: int, threshold: float, interpolation: str) -> float:
    """VOCevaldet.m line by line, in its own 1-based inclusive corners, with the recalls of the ports to Python."""

    def corners(box):
        x, y, w, h = box
        return x + 1, y + 1, x + w, y + h

    objects = [a for a in truth["annotations"] if a["category_id"] == category_id]
    of_image: dict = {}
    for a in objects:
        of_image.setdefault(a["image_id"], []).append([corners(a["bbox"]), bool(a["difficult"]), False])
    npos = sum(not a["difficult"] for a in objects)
    if npos == 0:
        return -1.0
    mine = [d for d in found if d["category_id"] == category_id]
    tp, fp = [], []
    for d in sorted(mine, key=lambda d: -d["score"]):  # stable, as MATLAB's sort
        bb = corners(d["bbox"])
        ovmax, best = -np.inf, None
        for thing in of_image.get(d["image_id"], []):
            gt = thing[0]
            iw = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
            ih = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, best = iw * ih / ua, thing
        hit = wrong = 0
        if ovmax >= threshold:
            if not best[1]:
                hit, wrong = int(not best[2]), int(best[2])
                best[2] = True
        else:
            wrong = 1
        tp.append(hit)
        fp.append(wrong)
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    keep = tp + fp > 0  # 0 / 0 before the first counted detection
    rec, prec = (tp / npos)[keep], (tp[keep] / (tp + fp)[keep])
    if interpolation == "11-point":
        ap = 0.0
        for t in np.arange(0.0, 1.1, 0.1):
            ap += (max(prec[rec >= t]) if (rec >= t).any() else 0.0) / 11
        return float(ap)
    mrec, mpre = np.r_[0, rec, 1], np.r_[0, prec, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    rises = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return float(np.sum((mrec[rises] - mrec[rises - 1]) * mpre[rises]))


def padilla(folder) -> tuple[Truth, Found]:
    """The toolkit's boxes reach from x to x + w inclusive: one pixel wider than written."""
    truth: Truth = {"images": [], "categories": [{"id": 1, "name": "object"}], "annotations": []}
    found: Found = []
    for n, path in enumerate(sorted((folder / "gts").glob("*.txt"))):
        truth["images"].append({"id": n})
        for line in path.read_text().splitlines():
            x, y, w, h = map(float, line.split()[1:])
            truth["annotations"].append({"image_id": n, "category_id": 1, "bbox": [x, y, w + 1, h + 1]})
        for line in (folder / "dets" / path.name).read_text().splitlines():
            score, x, y, w, h = map(float, line.split()[1:])
            found.append({"image_id": n, "category_id": 1, "bbox": [x, y, w + 1, h + 1], "score": score})
    return truth, found


@pytest.mark.parametrize(("interpolation", "iou_threshold"), PADILLA)
def test_the_published_example_gives_the_published_ap(real_data, interpolation, iou_threshold):
    truth, found = padilla(real_data("eval_references") / "padilla_case1")
    result = evaluate_voc(truth, found, iou_threshold=iou_threshold, interpolation=interpolation)
    assert result.metrics["mAP"] == pytest.approx(PADILLA[interpolation, iou_threshold], abs=1e-9)


@BRITTLE
@given(SEEDS, st.booleans(), st.floats(0, 1), st.integers(0, 30), st.integers(0, 80), st.floats(0.05, 1))
def test_any_set_equals_the_devkits_loop(seed, tied, difficult, num_objects, num_detections, threshold):
    truth, found = draw_set(
        seed, tied=tied, difficult=difficult, num_objects=num_objects, num_detections=num_detections, num_images=3
    )
    for interpolation in ("11-point", "all-point"):
        result = evaluate_voc(truth, found, iou_threshold=threshold, interpolation=interpolation)
        for category in truth["categories"]:
            expected = devkit_ap(truth, found, category["id"], threshold, interpolation)
            assert result.per_class[category["name"]]["AP"] == expected


def test_width_and_height_are_the_devkits_inclusive_ones_and_an_iou_at_the_threshold_is_enough():
    # xmin 11 xmax 20 is 10 pixels; the detection covers xmin 11 xmax 15: IoU is exactly a half
    truth = one_class([[10, 0, 10, 4]])
    half = rows(([10, 0, 5, 4], 0.5))
    assert evaluate_voc(truth, half).metrics["mAP"] == pytest.approx(1.0)
    assert evaluate_voc(truth, half, iou_threshold=0.500001).metrics["mAP"] == 0.0


def one_class(boxes: list, difficult: tuple[int, ...] = ()) -> Truth:
    return {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": box, "difficult": int(n in difficult)}
            for n, box in enumerate(boxes)
        ],
    }


def rows(*boxes_and_scores: tuple[list, float]) -> Found:
    return [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in boxes_and_scores]


def test_empty_detections_give_zero_and_a_class_without_objects_minus_one():
    truth = one_class([[0, 0, 10, 10]])
    assert evaluate_voc(truth, []).metrics == {"mAP": 0.0}
    nothing = one_class([])
    assert evaluate_voc(nothing, rows(([0, 0, 5, 5], 0.5))).metrics == {"mAP": -1.0}
    only_difficult = one_class([[0, 0, 10, 10]], difficult=(0,))
    assert evaluate_voc(only_difficult, rows(([0, 0, 10, 10], 0.5))).per_class["dog"]["AP"] == -1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "11point"}, "unknown interpolation '11point'; choose one of: .* Did you mean '11-point'"),
        ({"iou_threshold": 0}, "iou_threshold: got 0, allowed: a number above 0, up to 1"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_voc(one_class([]), [], **options)
    with pytest.raises(ValueError, match=message):
        VocMetric(**options)


def test_the_metric_object_gives_the_numbers_of_the_function():
    truth, found = draw_set(5, difficult=0.3)
    metric = VocMetric([f"class {c}" for c in sorted(c["id"] for c in truth["categories"])])
    metric.update(*zip(*as_tensors(truth, found), strict=True))
    expected = evaluate_voc(truth, found)
    aps = {f"AP/{name}": row["AP"] for name, row in expected.per_class.items()}
    assert metric.compute() == {**expected.metrics, **aps}
    metric.reset()
    assert metric.compute()["mAP"] == -1.0
