"""COCO's two files: what is read, what is written back, what is refused, and where."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdnorm.coco_format import (
    coco_dict,
    detection_table,
    ground_truth_table,
    load_detections,
    load_ground_truth,
    result_rows,
)
from ssdnorm.coco_format import files as coco_files
from ssdnorm.metrics import evaluate_coco
from tests.metrics.random_sets import draw_set


@pytest.fixture
def files(tmp_path):
    truth, found = draw_set(1, crowd=0.2, difficult=0.2)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    return tmp_path


def by_id(rows):
    return sorted(rows, key=lambda row: row["id"])


def test_files_give_back_what_was_written(files):
    truth, found = draw_set(1, crowd=0.2, difficult=0.2)
    table = load_ground_truth(files / "truth.json")
    content = coco_dict(table)
    assert content["categories"] == truth["categories"]
    assert content["images"] == [{**image, "height": 0, "width": 0} for image in truth["images"]]
    assert by_id(content["annotations"]) == by_id(truth["annotations"])
    assert result_rows(table, load_detections(files / "found.json", table)) == found


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
@pytest.mark.parametrize("indent", [None, 2])
def test_detections_read_in_pieces_are_those_of_the_whole_file(files, monkeypatch, chunk, indent):
    truth, found = draw_set(1)
    odd = [{"segmentation": {"size": [3, 4], "counts": "a},{b"}}, {"note": "},{"}, {"keypoints": [[1], {"x": {}}]}]
    for rows in ([], found[:1], found, [{**row, **odd[n % 3]} for n, row in enumerate(found)]):
        (files / "found.json").write_text(json.dumps(rows, indent=indent))
        monkeypatch.setattr(coco_files, "_CHUNK_BYTES", chunk)
        table = ground_truth_table(truth)
        read, whole = load_detections(files / "found.json", table), detection_table(rows, table)
        for name in ("image", "labels", "boxes", "scores"):
            np.testing.assert_array_equal(getattr(read, name), getattr(whole, name))


def test_an_ordinary_result_file_is_never_parsed_as_a_whole(files, monkeypatch):
    truth, found = draw_set(1)
    (files / "found.json").write_text(json.dumps(found))
    monkeypatch.setattr(coco_files, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(coco_files, "parse_json", None)
    table = ground_truth_table(truth)
    assert result_rows(table, load_detections(files / "found.json", table)) == found


def test_ids_may_be_any_hashable_values():
    truth, found = draw_set(2)
    named = json.loads(json.dumps(truth))
    for image in named["images"]:
        image["id"] = f"{image['id']:03d}"
    for row in (*named["annotations"], *(renamed := json.loads(json.dumps(found)))):
        row["image_id"] = f"{row['image_id']:03d}"
    assert evaluate_coco(named, renamed).metrics == evaluate_coco(truth, found).metrics
    table = ground_truth_table(named)
    assert result_rows(table, detection_table(renamed, table)) == renamed


def test_what_is_not_given_has_its_default():
    content = {
        "images": [{"id": 1}],
        "categories": [{"id": 3}, {"id": 4, "name": "a"}, {"id": 5, "name": "a"}],
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 5]},
            {"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 5], "area": None, "iscrowd": None},
        ],
    }
    table = ground_truth_table(content)
    assert table.class_names == ("3", "a (id 4)", "a (id 5)")
    assert (table.ids.tolist(), table.area.tolist(), table.iscrowd.any()) == ([1, 2], [20, 20], False)
    assert (table.names[0], table.sizes.tolist()) == ("", [[0, 0]])


@pytest.mark.parametrize("name", ["truth.json", "found.json"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"images": 3', r"{name}: not JSON: .* at line 1 column \d+$"),
        (b"", "{name}: not JSON"),
        (b"\xff\xd8\xff\xe0", "{name}: not JSON"),
    ],
)
def test_a_file_that_is_cut_off_or_not_json_is_refused(files, name, data, message):
    table = load_ground_truth(files / "truth.json")
    (files / name).write_bytes(data)
    with pytest.raises(ValueError, match=message.format(name=name)):
        load_ground_truth(files / name) if name == "truth.json" else load_detections(files / name, table)


def test_the_two_files_the_wrong_way_round_and_a_part_of_one_are_refused(files):
    table = load_ground_truth(files / "truth.json")
    with pytest.raises(ValueError, match=r"truth.json: got a dict, allowed: a list of detections"):
        load_detections(files / "truth.json", table)
    with pytest.raises(ValueError, match=r"found.json: ground truth: got list, allowed: a dict in COCO's format"):
        load_ground_truth(files / "found.json")
    (files / "part.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"part.json: ground truth: 'categories' is missing"):
        load_ground_truth(files / "part.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere.json: no such annotation file"):
        load_ground_truth(files / "nowhere.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["images"].append({"id": 1}), "images: id 1 is given twice"),
        (lambda t: t["images"].append({}), r"images\[6\]: 'id' is missing; got keys \[\]"),
        (lambda t: t["categories"].append({"id": 5}), "categories: id 5 is given twice"),
        (lambda t: t["annotations"][3].update(image_id=99), r"annotations\[3\] \(id 3\): image_id 99 is not among"),
        (lambda t: t["annotations"][3].update(image_id=[1]), r"annotations\[3\] \(id 3\): image_id \[1\] is not among"),
        (lambda t: t["annotations"][3].update(category_id="dog"), r"annotations\[3\] \(id 3\): category_id 'dog' is"),
        (lambda t: t["annotations"][3].update(bbox=[5, 5, -1, 5]), r"annotations\[3\].*: bbox: got \[5, 5, -1, 5\], a"),
        (lambda t: t["annotations"][3].update(bbox=[5, 5, float("nan"), 5]), r"annotations\[3\].*: bbox: got .*nan"),
        (lambda t: t["annotations"][3].update(area="big"), r"annotations\[3\].*: area: got 'big', allowed: a fin"),
        (lambda t: t["annotations"][3].pop("bbox"), r"annotations\[3\].*: bbox: got None, allowed: four finite"),
        (lambda t: t["annotations"][3].update(area=-5), r"annotations\[3\].*: area: got -5, allowed: .* of at least 0"),
        (lambda t: t["annotations"][3].update(area=10**400), r"annotations\[3\].*: area: got 1000.*0, allowed: a fin"),
        (lambda t: t["annotations"][3].update(iscrowd="no"), r"annotations\[3\].*: iscrowd: got 'no', allowed: 0 or 1"),
        (lambda t: t["annotations"][3].update(image_id=True), r"annotations\[3\].*: image_id True is not among"),
        (lambda t: t["images"][2].update(id=[1]), r"images\[2\]: id: got \[1\], allowed: a whole number, or text"),
        (lambda t: t["images"][2].update(id=True), r"images\[2\]: id: got True, allowed: a whole number, or text"),
        (lambda t: t["images"][2].update(id="a"), r"images\[2\]: id: got 'a', but 13 before it"),
        (lambda t: t["images"][2].update(height=-5), r"images\[2\]: height: got -5, allowed: a whole number of pixels"),
        (lambda t: t["images"][2].update(width="9"), r"images\[2\]: width: got '9', allowed: a whole number of pixels"),
        (lambda t: t["images"][2].update(file_name=["a"]), r"images\[2\]: file_name: got \['a'\], allowed: text"),
        (lambda t: t["categories"][0].update(name=["a"]), r"categories\[0\]: name: got \['a'\], allowed: text"),
        (lambda t: t["categories"][0].update(name={"a": 1}), r"categories\[0\]: name: got \{'a': 1\}, allowed: text"),
        (lambda t: t["categories"][0].update(name=5), r"categories\[0\]: name: got 5, allowed: text"),
        (lambda t: t["categories"][0].update(name="a\nb"), r"categories\[0\]: name: got 'a\\nb', allowed: text"),
        (lambda t: t["annotations"].__setitem__(3, 7), r"annotations\[3\]: got int, allowed: a dict"),
    ],
)  # fmt: skip
def test_a_bad_annotation_file_is_refused_with_its_place(files, change, message):
    truth, _ = draw_set(1)
    change(truth)
    (files / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=rf"truth.json: {message}"):
        load_ground_truth(files / "truth.json")


def test_bad_annotations_are_left_out_where_the_caller_says_so():
    truth, _ = draw_set(1)
    for place, change in enumerate(({"image_id": 99}, {"category_id": 99}, {"bbox": None}, {"bbox": [1, 1, 1, -1]})):
        truth["annotations"][place] |= change
    kinds = []
    table = ground_truth_table(truth, on_bad=lambda kind, _: kinds.append(kind))
    assert kinds == ["no image", "class", "not finite", "inverted"]
    assert by_id(coco_dict(table)["annotations"]) == truth["annotations"][4:]


ONE = {"images": [{"id": 7}], "categories": [{"id": 3, "name": "dog"}], "annotations": []}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_id": 9}, r"detections\[1\]: image_id 9 is not among the images \(1 of 2 detections cannot be used\)"),
        ({"category_id": 4}, r"detections\[1\]: category_id 4 is not among the categories"),
        ({"score": float("nan")}, r"detections\[1\]: score: got nan, allowed: a finite number"),
        ({"score": None}, r"detections\[1\]: score: got None, allowed: a finite number"),
        ({"score": "0.5"}, r"detections\[1\]: score: got '0.5', allowed: a finite number"),
        ({"bbox": [1, 2, -3, 4]}, r"detections\[1\]: bbox: got \[1, 2, -3, 4\], allowed: .*at least 0"),
        ({"bbox": [1, 2, float("inf"), 4]}, r"detections\[1\]: bbox: got .*inf"),
        ({"bbox": [1, 2, 1e308, 4]}, r"detections\[1\]: bbox: got .*e\+308.*, allowed: .*below 1e9"),
        ({"bbox": [1, 2, 3]}, r"detections\[1\]: bbox: got \[1, 2, 3\], allowed: four finite numbers"),
        ({"bbox": "1234"}, r"detections\[1\]: bbox: got '1234', allowed: four finite numbers"),
    ],
)
def test_a_bad_detection_is_refused_with_its_place(tmp_path, row, message):
    found = [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 100, 100], "score": 0.5} for _ in range(2)]
    found[1] |= row
    with pytest.raises(ValueError, match=message):
        detection_table(found, ground_truth_table(ONE))
    (tmp_path / "found.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"found.json: {message}"):
        load_detections(tmp_path / "found.json", ground_truth_table(ONE))


def test_a_missing_key_a_missing_column_and_unequal_columns_are_refused():
    table = ground_truth_table(ONE)
    with pytest.raises(ValueError, match=r"detections\[0\]: score: got None, allowed: a finite"):
        detection_table([{"image_id": 7, "category_id": 3, "bbox": [1, 1, 1, 1]}], table)
    with pytest.raises(ValueError, match="detections: column 'category_id' is missing; got"):
        detection_table({"image_id": [7]}, table)
    columns = {"image_id": [7], "category_id": [3], "bbox": [[1, 1, 1, 1]], "score": []}
    with pytest.raises(ValueError, match="must be equally long; got 1, 1, 1, 0"):
        detection_table(columns, table)


def without_number_lists(value):
    """The same value with lists of numbers and of such lists emptied where they stand under "segmentation"."""
    if isinstance(value, list):
        return [without_number_lists(item) for item in value]
    if not isinstance(value, dict):
        return value
    only_numbers = {key for key, item in value.items() if key == "segmentation" and is_numbers(item)}
    return {key: [] if key in only_numbers else without_number_lists(item) for key, item in value.items()}


def is_numbers(value):
    return isinstance(value, list) and all(
        item is None or isinstance(item, (int, float)) or is_numbers(item) for item in value
    )


NUMBERS = st.lists(st.integers() | st.floats(-1e9, 1e9), max_size=4)
NAMES = st.sampled_from(["segmentation", "bbox", 'a "segmentation": [1] b', "]}", "\\", "[", '\\"segmentation"'])
JSON_VALUES = st.recursive(
    st.none() | st.integers() | NAMES | NUMBERS | st.lists(NUMBERS, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from([None, 1]))
def test_outlines_are_left_out_of_any_json_and_nothing_else(value, indent):
    text = json.dumps(
        {"segmentation": [[0.5, 1], [2, 3]], "annotations": [value, {"segmentation": value}]}, indent=indent
    )
    assert json.loads(coco_files._without_outlines(text.encode())) == without_number_lists(json.loads(text))


def test_run_length_codes_and_outlines_change_no_annotation(tmp_path):
    outlines = [[[1, 2.5, 3e1, 4, 5, 6]], {"counts": [1, 2], "size": [30, 40]}, {"counts": "x]", "size": [1]}, None, []]
    rows = [
        {"image_id": 7, "category_id": 3, "bbox": [x, 2, 3, 4], "segmentation": outline}
        for x, outline in enumerate(outlines)
    ]
    (tmp_path / "truth.json").write_text(json.dumps({**ONE, "annotations": rows}))
    assert load_ground_truth(tmp_path / "truth.json").boxes[:, 0].tolist() == [0, 1, 2, 3, 4]
