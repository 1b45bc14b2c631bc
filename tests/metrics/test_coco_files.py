import json

import pytest
import torch

from ssdnorm.metrics import coco_results, evaluate_coco, load_detections, load_ground_truth

from .random_sets import draw_set


@pytest.fixture
def files(tmp_path):
    truth, found = draw_set(1)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    return tmp_path


def test_files_give_back_what_was_written(files):
    truth, found = draw_set(1)
    assert load_ground_truth(files / "truth.json") == truth
    assert load_detections(files / "found.json", truth) == found


@pytest.mark.parametrize("name", ["truth.json", "found.json"])
def test_a_truncated_file_is_one_clear_line(files, name):
    path = files / name
    path.write_text(path.read_text()[:500])
    with pytest.raises(ValueError, match=rf"{name}: not JSON: .* at line 1 column \d+$") as caught:
        load_ground_truth(path) if name == "truth.json" else load_detections(path, draw_set(1)[0])
    assert "\n" not in str(caught.value)


def test_an_empty_file_and_a_picture_are_not_json(tmp_path):
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "photo.json").write_bytes(b"\xff\xd8\xff\xe0")
    for name in ("empty.json", "photo.json"):
        with pytest.raises(ValueError, match=f"{name}: not JSON"):
            load_ground_truth(tmp_path / name)


def test_detections_must_be_a_list(files):
    with pytest.raises(ValueError, match=r"truth.json: got a dict, allowed: a list of detections"):
        load_detections(files / "truth.json", draw_set(1)[0])


def test_ground_truth_must_be_a_dict_with_three_lists(files):
    with pytest.raises(ValueError, match=r"found.json: ground truth: got list, allowed: a dict in COCO's format"):
        load_ground_truth(files / "found.json")
    (files / "part.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"part.json: ground truth: 'categories' is missing"):
        load_ground_truth(files / "part.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["images"].append({"id": 1}), "images: id 1 is given twice"),
        (lambda t: t["categories"].append({"id": 5}), "categories: id 5 is given twice"),
        (lambda t: t["annotations"][3].update(image_id=99), "annotations: image_id 99: not an image"),
        (lambda t: t["annotations"][3].update(category_id="dog"), "annotations: category_id 'dog': not a category"),
        (lambda t: t["annotations"][3].update(bbox=[5, 5, -1, 5]), r"annotations\[3\]: bbox: got .*-1.0"),
        (lambda t: t["annotations"][3].update(area="big"), r"annotations\[3\]: area: got 'big', allowed: a number"),
        (lambda t: t["annotations"][3].pop("bbox"), r"annotations\[3\]: 'bbox' is missing; got keys"),
        (lambda t: t["annotations"].__setitem__(3, 7), r"annotations\[3\]: got int, allowed: a dict"),
    ],
)  # fmt: skip
def test_a_bad_annotation_file_is_refused_with_its_place(files, change, message):
    truth, _ = draw_set(1)
    change(truth)
    (files / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=rf"truth.json: {message}"):
        load_ground_truth(files / "truth.json")


def test_nan_in_a_detections_file_is_refused(files):
    text = (files / "found.json").read_text()
    rows = json.loads(text)
    rows[4]["score"] = float("nan")  # Python's json writes NaN
    (files / "found.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"found.json: detections\[4\]: score: got nan, allowed: finite"):
        load_detections(files / "found.json", draw_set(1)[0])


def test_many_unknown_ids_are_named_and_counted():
    truth, found = draw_set(1)
    found = [{**row, "image_id": 1000 + n} for n, row in enumerate(found)]
    with pytest.raises(ValueError, match="image_id 1000, 1001, 1002, 1003, 1004 and 145 more: not an image"):
        evaluate_coco(truth, found)


def test_results_have_original_ids_xywh_boxes_and_every_digit():
    score = torch.tensor([0.1, 1 / 3])
    found = {"boxes": torch.tensor([[10.25, 20.0, 30.5, 60.0], [0.0, 0.0, 1 / 3, 1.0]]), "scores": score}
    rows = coco_results([{**found, "labels": torch.tensor([2, 1])}], image_ids=[42], category_ids=[7, 90])
    assert rows[0] == {"image_id": 42, "category_id": 90, "bbox": [10.25, 20.0, 20.25, 40.0], "score": score[0].item()}
    assert rows[1]["category_id"] == 7
    assert json.loads(json.dumps(rows)) == rows
    assert rows[1]["bbox"][2] == torch.tensor(1 / 3).item() != 1 / 3  # float32, as it came


def test_results_refuse_labels_without_an_id_and_unequal_lengths():
    one = {"boxes": [[0, 0, 1, 1]], "scores": [0.5], "labels": [3]}
    with pytest.raises(ValueError, match=r"detections\[0\]: label 3 has no category id; labels are \[1, 2\]"):
        coco_results([one], [1], [7, 90])
    with pytest.raises(ValueError, match="got 1 detections for 2 image ids"):
        coco_results([one], [1, 2], [7, 90])
