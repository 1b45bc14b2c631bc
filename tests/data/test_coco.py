import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdnorm.data import CocoDataset, subset
from ssdnorm.data.coco import _without_outlines


def test_labels_close_the_holes_in_the_ids_and_the_ids_come_back(coco):
    coco.add_image(42, "a.jpg")
    coco.annotate(42, 7, [1.25, 2, 10.5, 4])
    coco.annotate(42, 3, [0, 0, 5, 5])
    data = CocoDataset(*coco.save())
    assert data.class_names == ("cat", "dog")
    assert data.category_ids == (3, 7)
    assert data.target(0)["labels"].tolist() == [2, 1]
    assert data.target(0)["boxes"].tolist() == [[1.25, 2, 11.75, 6], [0, 0, 5, 5]]
    assert data.target(0)["image_id"] == data.image_id(0) == 42
    assert [item["category_id"] for item in data.ground_truth()["annotations"]] == [7, 3]


def test_boxes_leave_as_exactly_as_they_came(coco):
    coco.add_image(1, "a.jpg")
    bbox = [0.1, 0.2, 7.300000000000001, 1 / 3]
    coco.annotate(1, 3, bbox, area=1.23456789012345)
    (annotation,) = CocoDataset(*coco.save()).ground_truth()["annotations"]
    assert annotation["bbox"] == bbox
    assert annotation["area"] == 1.23456789012345


def test_an_area_that_is_null_is_the_boxs(coco):
    coco.add_image(1, "a.jpg")
    coco.annotate(1, 3, [0, 0, 5, 4], area=None)
    (annotation,) = CocoDataset(*coco.save()).ground_truth()["annotations"]
    assert annotation["area"] == 20


def test_crowd_regions_are_ground_truth_but_never_trained_on(coco):
    coco.add_image(1, "a.jpg")
    coco.annotate(1, 3, [0, 0, 5, 5], iscrowd=1)
    coco.annotate(1, 7, [1, 1, 5, 5])
    data = CocoDataset(*coco.save())
    assert data.training_boxes(0)[1].tolist() == [2]
    assert data.target(0)["iscrowd"].tolist() == [True, False]
    assert [item["iscrowd"] for item in data.ground_truth()["annotations"]] == [1, 0]


def test_annotations_in_any_order_find_their_images(coco):
    for image_id in (5, 2, 9):
        coco.add_image(image_id, f"{image_id}.jpg")
    for image_id, left in ((9, 1), (5, 2), (9, 3)):
        coco.annotate(image_id, 3, [left, 0, 5, 5])
    data = CocoDataset(*coco.save())
    assert [data.image_id(i) for i in range(3)] == [5, 2, 9]
    assert [data.training_boxes(i)[0][:, 0].tolist() for i in range(3)] == [[2], [], [1, 3]]


def test_classes_can_be_chosen_and_ordered(coco):
    coco.add_image(1, "a.jpg")
    coco.annotate(1, 3, [0, 0, 5, 5])
    coco.annotate(1, 7, [1, 1, 5, 5])
    file, images = coco.save()
    assert CocoDataset(file, images, class_names=["dog", "cat"]).target(0)["labels"].tolist() == [2, 1]
    dogs = CocoDataset(file, images, class_names=["dog"], on_bad_annotation="error")
    assert dogs.target(0)["labels"].tolist() == [1]
    assert dogs.ground_truth()["categories"] == [{"id": 7, "name": "dog"}]
    assert dogs.summary == "instances.json: 1 annotation of a class not asked for"
    with pytest.raises(ValueError, match=r"unknown category of instances\.json 'dgo'.*Did you mean 'dog'"):
        CocoDataset(file, images, class_names=["dgo"])


BAD = {
    "has no area": [1, 1, 0, 5],
    "is inverted": [5, 5, -3, 2],
    "lies outside the image of 40 × 30 pixels": [40, 1, 5, 5],
    "is not four finite numbers": [1, float("nan"), 5, 5],
}


@pytest.mark.parametrize(("reason", "bbox"), [*BAD.items(), ("is not four finite numbers", [1, 2, 3])])
def test_a_bad_box_is_dropped_with_annotation_and_file(coco, reason, bbox):
    coco.add_image(1, "a.jpg")
    coco.annotate(1, 3, [0, 0, 5, 5])
    coco.annotate(1, 7, bbox)
    file, images = coco.save()
    data = CocoDataset(file, images)
    assert data.target(0)["labels"].tolist() == [1]
    assert data.problems == [f"instances.json: annotation 101 of a.jpg (category 7): bbox {bbox} {reason}; dropped"]
    with pytest.raises(ValueError, match=reason):
        CocoDataset(file, images, on_bad_annotation="error")


def test_unknown_categories_and_images_are_dropped(coco):
    coco.add_image(1, "a.jpg")
    coco.annotate(1, 5, [0, 0, 5, 5])
    coco.annotate(8, 3, [0, 0, 5, 5])
    assert CocoDataset(*coco.save()).problems == [
        "instances.json: annotation 100: category_id 5 is not among the categories; dropped",
        "instances.json: annotation 101: image_id 8 is not among the images; dropped",
    ]


def test_a_missing_image_goes_with_its_annotations_and_one_message(coco):
    coco.add_image(1, "a.jpg")
    coco.add_image(2, "b.jpg", on_disk=False)
    coco.annotate(2, 3, [0, 0, 5, 5])
    data = CocoDataset(*coco.save())
    assert len(data) == 1
    assert data.problems == [f"instances.json: image 2: no b.jpg in {coco.images}; dropped"]


def test_a_truncated_image_is_found_while_loading_or_named_when_its_turn_comes(coco):
    coco.add_image(1, "a.jpg")
    coco.add_image(2, "b.jpg")
    path = coco.images / "b.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    file, images = coco.save()
    assert len(CocoDataset(file, images, check_images=True)) == 1
    with pytest.raises(ValueError, match=r"b\.jpg: truncated JPEG"):
        CocoDataset(file, images).load_image(1)


def test_missing_columns_have_their_defaults(coco):
    coco.add_image(1, "a.jpg")
    coco.content["images"][0] = {"id": 1, "file_name": "a.jpg"}
    coco.content["annotations"] = [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 5]}]
    (annotation,) = CocoDataset(*coco.save()).ground_truth()["annotations"]
    assert (annotation["id"], annotation["area"], annotation["iscrowd"]) == (1, 20, 0)
    assert CocoDataset(*coco.save()).image_size(0) == (30, 40)


def test_repeated_annotation_ids_are_numbered_anew(coco):
    coco.add_image(1, "a.jpg")
    for _ in range(2):
        coco.annotate(1, 3, [0, 0, 5, 5], id=4)
    assert [item["id"] for item in CocoDataset(*coco.save()).ground_truth()["annotations"]] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            r"images\[0\]: expected a mapping with id and",
        ),
        (
            '{"images": [{"id": "1", "file_name": "a"}], "annotations": [], "categories": []}',
            r"images\[0\]: expected a whole number as id; got '1'",
        ),
    ],
)
def test_a_file_that_is_no_coco_file_is_refused(tmp_path, text, message):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        CocoDataset(file, tmp_path)


def test_repeated_image_ids_are_refused(coco):
    coco.add_image(1, "a.jpg")
    coco.add_image(1, "b.jpg")
    with pytest.raises(ValueError, match="images: id 1 is given more than once"):
        CocoDataset(*coco.save())


def test_wrong_paths_are_refused(coco, tmp_path):
    coco.add_image(1, "a.jpg", on_disk=False)
    file, images = coco.save()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder of images"):
        CocoDataset(file, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: no such annotation file"):
        CocoDataset(tmp_path / "nowhere.json", images)
    with pytest.raises(ValueError, match=r"no usable image in .*First problem: .*no a\.jpg"):
        CocoDataset(file, images)


def test_real_coco_images_agree_with_the_file(real_data):
    root = real_data("coco_union")
    file = root / "annotations" / "instances_train2017.json"
    data = CocoDataset(file, root / "train2017", on_bad_annotation="error", check_images=True)
    content = json.loads(file.read_text())
    truth = data.ground_truth()
    by_id = {item["id"]: item for item in content["annotations"]}
    assert len(truth["annotations"]) == len(by_id) == 2509
    for item in truth["annotations"]:
        assert all(item[key] == by_id[item["id"]][key] for key in ("bbox", "image_id", "category_id", "iscrowd"))
    assert sum(item["iscrowd"] for item in truth["annotations"]) == 15
    places = {data.image_id(i): i for i in range(len(data))}
    assert all(len(data.training_boxes(places[image_id])[0]) == 0 for image_id in (250, 508))
    grey = data.load_image(places[86])
    assert grey.shape == (*data.image_size(places[86]), 3)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert [subset(data, [places[508], 0]).image_id(i) for i in range(2)] == [508, data.image_id(0)]


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
    assert json.loads(_without_outlines(text.encode())) == without_number_lists(json.loads(text))


def test_run_length_codes_and_outlines_change_no_annotation(coco):
    coco.add_image(1, "a.jpg")
    outlines = [[[1, 2.5, 3e1, 4, 5, 6]], {"counts": [1, 2], "size": [30, 40]}, {"counts": "x]", "size": [1]}, None, []]
    for place, outline in enumerate(outlines):
        coco.annotate(1, 3, [place + 1, 2, 3, 4], segmentation=outline)
    assert CocoDataset(*coco.save()).target(0)["boxes"][:, 0].tolist() == [1, 2, 3, 4, 5]
