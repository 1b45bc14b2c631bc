import numpy as np
import pytest

from ssdnorm.coco_format import coco_dict
from ssdnorm.data import CocoDataset, ShapesDataset, subset
from ssdnorm.data.annotation_checks import BOX_KINDS, find_bad_boxes


def test_a_subset_has_the_images_asked_for_in_that_order():
    data = ShapesDataset(9, seed=3, image_size=(40, 50))
    part = subset(data, [7, 2, 4])
    assert len(part) == 3
    assert len(data) == 9
    for place, original in enumerate([7, 2, 4]):
        assert part.image_id(place) == data.image_id(original)
        assert part.image_name(place) == data.image_name(original)
        np.testing.assert_array_equal(part.load_image(place), data.load_image(original))
        for mine, theirs in zip(part.training_boxes(place), data.training_boxes(original), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert {item["image_id"] for item in coco_dict(part.ground_truth)["annotations"]} == {8, 3, 5}


@pytest.mark.parametrize(("indices", "message"), [([0, 9], "9 is out"), ([-1], "-1 is out"), ([1, 1], "twice")])
def test_a_subset_of_images_that_are_not_there_or_twice_is_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        subset(ShapesDataset(9, seed=0, image_size=(40, 40)), indices)


def test_ground_truth_and_training_boxes_say_the_same():
    data = ShapesDataset(5, seed=1, image_size=(60, 80))
    truth = coco_dict(data.ground_truth)
    assert [image["id"] for image in truth["images"]] == [1, 2, 3, 4, 5]
    assert truth["images"][0] == {"id": 1, "file_name": "shapes_1_0.png", "height": 60, "width": 80}
    for place in range(5):
        rows = [item for item in truth["annotations"] if item["image_id"] == place + 1]
        xywh = np.array([item["bbox"] for item in rows])
        boxes, labels = data.training_boxes(place)
        np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], xywh[:, 2:], rtol=1e-5)
        assert labels.tolist() == [item["category_id"] for item in rows]


def test_loading_does_not_keep_python_objects_per_annotation(coco):
    coco.add_image(1, "a.jpg")
    for _ in range(50):
        coco.annotate(1, 3, [0, 0, 5, 5])
    data = CocoDataset(*coco.save())
    columns = {name: value for name, value in vars(data.ground_truth).items() if name != "class_names"}
    assert all(value.dtype != object for value in (*columns.values(), data.paths))


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([0, 0, 40, 30], ""),
        ([-1, 0, 41, 30], ""),
        ([-1.1, 0, 5, 5], "clipped"),
        ([5, 5, 5, 9], "area"),
        ([5, 9, 9, 9], "area"),
        ([9, 5, 5, 9], "inverted"),
        ([40, 5, 45, 9], "outside"),
        ([5, -9, 9, 0], "outside"),
        ([5, 5, np.inf, 9], "not finite"),
        ([np.nan, 5, 9, 9], "not finite"),
        ([-1e200, 5, 1e200, 9], "not finite"),  # its area would overflow
    ],
)
def test_bad_boxes_are_told_apart(box, kind):
    (found,) = find_bad_boxes(np.array([box], np.float64), np.array([[30, 40]]))
    assert BOX_KINDS[found] == kind


def test_a_place_out_of_range_is_refused():
    with pytest.raises(IndexError, match="2 is out of range for a data set of 2 images"):
        ShapesDataset(2, seed=0).training_boxes(2)
