"""YOLO folders: boxes in pixels, paths as tools write them, and what is wrong with lines."""

import numpy as np
import pytest

from ssdnorm.data.yolo import YoloDataset


def test_boxes_are_shares_of_the_image_as_centre_and_size(yolo):
    yolo.add("b", "1 0.5 0.5 0.25 0.2", "0 0.25 0.5 0.5 1")
    yolo.add("a")  # an empty file: no objects
    data = YoloDataset(yolo.root, "train")
    assert [data.image_name(i) for i in range(2)] == ["a.jpg", "b.jpg"]
    assert data.class_names == ("cat", "dog")
    boxes, labels = data.training_boxes(1)
    np.testing.assert_allclose(boxes, [[15, 12, 25, 18], [0, 0, 20, 30]], atol=1e-4)
    assert labels.tolist() == [2, 1]
    assert len(data.training_boxes(0)[1]) == 0
    assert data.load_image(1).shape == (30, 40, 3)


def test_a_polygon_becomes_its_bounds_and_a_score_is_left_out(yolo):
    yolo.add("a", "0 0.25 0.2 0.75 0.2 0.5 0.8", "1 0.5 0.5 0.25 0.2 0.9")
    boxes = YoloDataset(yolo.file, "train").training_boxes(0)[0]
    np.testing.assert_allclose(boxes, [[10, 6, 30, 24], [15, 12, 25, 18]], atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "path: {root}\ntrain: train/images\nnames: {{0: cat, 1: dog}}\n",
        "train: [train/images]\nnc: 2\nnames: [cat, dog]\n",
        "train: train.txt\nnames: [cat, dog]\n",
        "names: [cat, dog]\n",
    ],
)
def test_paths_and_names_are_read_as_tools_write_them(yolo, text):
    yolo.add("a", "1 0.5 0.5 0.25 0.2")
    (yolo.root / "train.txt").write_text("./train/images/a.jpg\n")
    yolo.file.write_text(text.format(root=yolo.root))
    data = YoloDataset(yolo.root, "train")
    assert (len(data), data.class_names, data.training_boxes(0)[1].tolist()) == (1, ("cat", "dog"), [2])


def test_classes_can_be_chosen_and_reordered(yolo):
    yolo.add("a", "1 0.5 0.5 0.25 0.2", "0 0.5 0.5 0.5 0.5")
    data = YoloDataset(yolo.root, "train", class_names=["dog"])
    assert (data.class_names, data.training_boxes(0)[1].tolist()) == (("dog",), [1])
    assert "1 annotation of a class not asked for" in data.summary


def test_what_is_wrong_with_a_line_is_told_with_its_place_and_dropped_or_refused(yolo):
    lines = (
        "cat 1 2",
        "5 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1",
        "0 0.5 0.5 0 0.1",
        "0 2 2 0.1 0.1",
        "",
        "1 0.98 0.5 0.2 0.2",
    )
    yolo.add("a", *lines)
    (yolo.root / "train" / "images" / "b.jpg").write_bytes(b"\xff\xd8 nothing")
    data = YoloDataset(yolo.root, "train")
    assert len(data.training_boxes(0)[1]) == 1
    told = "\n".join(data.problems)
    for message in (
        "labels/a.txt: line 1: expected a class number and numbers; got 'cat 1 2'; dropped",
        "labels/a.txt: line 2: class 5 is not in 0 … 1; dropped",
        "labels/a.txt: line 3: expected class, centre x, y, width, height; got 4 numbers; dropped",
        "labels/a.txt: line 4 (cat): has no area; dropped",
        "labels/a.txt: line 5 (cat): lies outside the image of 40 × 30 pixels; dropped",
        "b.jpg",
    ):
        assert message in told
    assert "1 box reaching out of the image clipped" in data.summary
    with pytest.raises(ValueError, match=r"expected a class number .*on_bad_annotation: error"):
        YoloDataset(yolo.root, "train", on_bad_annotation="error")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat, cat]", "names: a class is named twice"),
        ("names: {1: cat}", r"names: expected a list of class names, or numbers from 0 with names; got \{1: 'cat'\}"),
        ("nc: 3\nnames: [cat, dog]", "nc: says 3 classes, names has 2"),
        ("train: nowhere\nnames: [a]", "train: 'nowhere': no such folder or list below 'path' or beside"),
        (f"train: {'x' * 5000}\nnames: [a]", "no such folder or list below 'path' or beside"),
        ("names: [cat", "not readable as YAML"),
        ("names: [cat, '']", "names: expected text; got ''"),
        ("train: 1", "has no data.yaml with the names of the classes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(yolo, text, message):
    yolo.file.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        YoloDataset(yolo.root, "train")


def test_an_unknown_split_is_refused_with_the_nearest_guess(yolo):
    with pytest.raises(ValueError, match=r"unknown split 'trian'; .* Did you mean 'train'"):
        YoloDataset(yolo.root, "trian")


def test_a_class_number_is_whole(yolo):
    yolo.add("a", "0.5 0.5 0.5 0.1 0.1", "-0.5 0.5 0.5 0.1 0.1", "nan 0.5 0.5 0.1 0.1", "1.0 0.5 0.5 0.25 0.2")
    data = YoloDataset(yolo.root, "train")
    assert data.training_boxes(0)[1].tolist() == [2]
    assert data.problems[0] == "labels/a.txt: line 1: class 0.5 is not in 0 … 1; dropped"
    assert data.summary.endswith("3 objects of an unknown class dropped")
