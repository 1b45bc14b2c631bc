import json

import numpy as np
import pytest

from ssdnorm.coco_format import coco_dict
from ssdnorm.data import CocoDataset, subset


def test_labels_close_the_holes_in_the_ids_and_crowd_regions_are_never_trained_on(coco):
    coco.add_image(42, "a.jpg")
    for category, box, crowd in ((7, [1.25, 2, 10.5, 4], 0), (3, [0, 0, 5, 5], 0), (3, [1, 1, 9, 9], 1)):
        coco.annotate(42, category, box, iscrowd=crowd)
    data = CocoDataset(*coco.save())
    assert data.class_names == ("cat", "dog")
    assert data.category_ids == (3, 7)
    assert data.image_id(0) == 42
    assert data.training_boxes(0)[0].tolist() == [[1.25, 2, 11.75, 6], [0, 0, 5, 5]]
    assert data.training_boxes(0)[1].tolist() == [2, 1]
    truth = coco_dict(data.ground_truth)["annotations"]
    assert [(row["category_id"], row["iscrowd"]) for row in truth] == [(7, 0), (3, 0), (3, 1)]


def test_classes_can_be_chosen_and_ordered(coco):
    coco.add_image(1, "a.jpg")
    coco.annotate(1, 3, [0, 0, 5, 5])
    coco.annotate(1, 7, [1, 1, 5, 5])
    file, images = coco.save()
    assert CocoDataset(file, images, class_names=["dog", "cat"]).ground_truth.labels.tolist() == [2, 1]
    dogs = CocoDataset(file, images, class_names=["dog"], on_bad_annotation="error")
    assert dogs.ground_truth.labels.tolist() == [1]
    assert coco_dict(dogs.ground_truth)["categories"] == [{"id": 7, "name": "dog"}]
    assert dogs.summary == "instances.json: 1 annotation of a class not asked for"
    with pytest.raises(ValueError, match=r"unknown category of instances\.json 'dgo'.*Did you mean 'dog'"):
        CocoDataset(file, images, class_names=["dgo"])


READ, PLACED = "annotations[1] (id 101): ", "annotation 101 of a.jpg (dog): bbox "


@pytest.mark.parametrize(
    ("category", "bbox", "message"),
    [
        (7, [1, 1, 0, 5], f"{PLACED}[1.0, 1.0, 0.0, 5.0] has no area"),
        (7, [40, 1, 5, 5], f"{PLACED}[40.0, 1.0, 5.0, 5.0] lies outside the image of 40 × 30 pixels"),
        (7, [5, 5, -3, 2], f"{READ}bbox: got [5, 5, -3, 2], allowed: width and height of at least 0 (not xyxy)"),
        (7, [1, 2, 3], f"{READ}bbox: got [1, 2, 3], allowed: four finite numbers x, y, width, height, below 1e9"),
        (5, [0, 0, 5, 5], f"{READ}category_id 5 is not among the categories"),
    ],
)
def test_a_bad_annotation_is_dropped_with_its_place(coco, category, bbox, message):
    coco.add_image(1, "a.jpg")
    coco.annotate(1, 3, [0, 0, 5, 5])
    coco.annotate(1, category, bbox)
    file, images = coco.save()
    data = CocoDataset(file, images)
    assert data.ground_truth.labels.tolist() == [1]
    assert data.problems == [f"instances.json: {message}; dropped"]
    with pytest.raises(ValueError, match=r"^instances\.json: .* \(on_bad_annotation: error\)$"):
        CocoDataset(file, images, on_bad_annotation="error")


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


def test_missing_columns_have_their_defaults_and_repeated_ids_of_annotations_are_numbered_anew(coco):
    coco.add_image(1, "a.jpg")
    coco.content["images"][0] = {"id": 1, "file_name": "a.jpg"}
    coco.content["annotations"] = [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 5], "id": 4}] * 2
    data = CocoDataset(*coco.save())
    assert [data.ground_truth.ids.tolist(), data.ground_truth.area.tolist()] == [[1, 2], [20, 20]]
    assert not data.ground_truth.iscrowd.any()
    assert data.image_size(0) == (30, 40)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [{"id": "1", "file_name": "a"}]}, "images: id: got '1', allowed: whole numbers"),
        ({"images": [{"id": 1}]}, "image 1: has no file_name"),
        ({"categories": []}, "expected different names of categories"),
    ],
)
def test_a_file_that_no_data_set_can_be_made_of_is_refused(tmp_path, content, message):
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}], **content}))
    with pytest.raises(ValueError, match=message):
        CocoDataset(file, tmp_path)


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
    truth = coco_dict(data.ground_truth)
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
