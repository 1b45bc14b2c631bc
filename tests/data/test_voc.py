import logging
import os
import re

import pytest

from ssdnorm.coco_format import coco_dict
from ssdnorm.data import VocDataset

from .small_sets import VocFolder, voc_object

GOOD = voc_object("dog", 1, 1, 9, 9)


def test_corners_become_zero_based_edges(voc):
    boxes = ((1, 3, 40, 20), (5.5, 6, 7.25, 9), (0, 0, 10, 10))  # the last from a 0-based tool
    voc.add("a", *(voc_object("dog", *box) for box in boxes))
    data = VocDataset(voc.root, "train", on_bad_annotation="error")
    assert data.training_boxes(0)[0].tolist() == [[0, 2, 40, 20], [4.5, 5, 7.25, 9], [0, 0, 10, 10]]
    assert data.ground_truth.boxes.tolist() == [[0, 2, 40, 18], [4.5, 5, 2.75, 4], [0, 0, 10, 10]]
    assert data.ground_truth.area.tolist() == [720, 11, 100]


def test_classes_are_those_of_all_annotations_whatever_the_split(voc):
    voc.add("a", GOOD)
    voc.add("b", voc_object("cat", 1, 1, 9, 9), split="test")
    for split in ("train", "test"):
        assert VocDataset(voc.root, split).class_names == ("cat", "dog")
    assert VocDataset(voc.root, "train").ground_truth.labels.tolist() == [2]


def test_a_part_of_an_object_is_no_class(voc):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    voc.add("a", voc_object("person", 1, 1, 9, 9).replace("</object>", part + "</object>"))
    data = VocDataset(voc.root, "train", on_bad_annotation="error")
    assert data.class_names == ("person",)
    assert data.ground_truth.num_objects == 1


def test_difficult_objects_are_always_evaluated_and_trained_on_only_if_asked(voc):
    voc.add("a", voc_object("dog", 1, 1, 9, 9, difficult=1), voc_object("dog", 11, 1, 19, 9))
    for train_on_difficult, boxes in ((True, [[0, 0, 9, 9], [10, 0, 19, 9]]), (False, [[10, 0, 19, 9]])):
        data = VocDataset(voc.root, "train", train_on_difficult=train_on_difficult)
        assert data.training_boxes(0)[0].tolist() == boxes
        assert data.ground_truth.difficult.tolist() == [True, False]
        assert [item["difficult"] for item in coco_dict(data.ground_truth)["annotations"]] == [1, 0]


def test_several_years_follow_each_other(tmp_path):
    first, second = VocFolder(tmp_path / "VOC2007"), VocFolder(tmp_path / "VOC2012")
    first.add("same", GOOD)
    second.add("same", voc_object("cat", 1, 1, 9, 9), split="val")
    data = VocDataset([first.root, second.root], ["train", "val"])
    assert [data.image_id(i) for i in range(len(data))] == [1, 2]
    assert data.class_names == ("cat", "dog")
    assert [data.training_boxes(i)[1].tolist() for i in range(2)] == [[2], [1]]
    with pytest.raises(ValueError, match="1 roots but 2 splits"):
        VocDataset(first.root, ["train", "val"])


@pytest.mark.parametrize(("name", "suffix"), [("photo 1", ".JPG"), ("grün_ß", ".png"), ("a.b", ".jpeg")])
def test_any_file_name_is_found(voc, name, suffix):
    voc.add(name, GOOD, suffix=suffix)
    data = VocDataset(voc.root, "train", on_bad_annotation="error")
    assert data.image_name(0) == name + suffix
    assert data.load_image(0).shape == (30, 40, 3)


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_images_of_one_name_the_jpeg_is_taken_in_whatever_order_the_disk_lists_them(voc, monkeypatch, backwards):
    for suffix in (".jpg", ".png"):
        voc.add("a", GOOD, suffix=suffix)
    entries = sorted(os.scandir(voc.root / "JPEGImages"), key=lambda entry: entry.name, reverse=backwards)
    monkeypatch.setattr(os, "scandir", lambda folder: iter(entries))
    assert VocDataset(voc.root, "train", class_names=["dog"]).image_name(0) == "a.jpg"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (voc_object("cat", 5, 5, 5, 9), " (cat): box (5, 5, 5, 9) has no area"),
        (voc_object("cat", 9, 5, 5, 9), " (cat): box (9, 5, 5, 9) is inverted"),
        (voc_object("cat", 41, 5, 50, 9), " (cat): box (41, 5, 50, 9) lies outside the image of 40 × 30 pixels"),
        (voc_object("cat", "nan", 5, 9, 9), " (cat): box (nan, 5, 9, 9) is not four finite numbers below 1e9"),
        (voc_object("cat", 1, "one", 9, 9), ": (cat) could not convert string to float: 'one'"),
        (GOOD.replace("<ymax>9</ymax>", ""), ": (dog) has no <ymax>"),
        (GOOD.replace("<name>dog</name>", ""), ": has no <name>"),
    ],
)
def test_a_bad_object_is_dropped_alone_with_its_file_and_place(voc, bad, message, caplog):
    voc.add("a", GOOD, bad)
    data = VocDataset(voc.root, "train")
    assert data.problems == [f"Annotations/a.xml: object 1{message}; dropped"]
    assert data.problems[0] in caplog.messages
    assert caplog.messages[-1] == data.summary
    assert data.summary.startswith("VOC train: 1 ")
    assert data.ground_truth.boxes.tolist() == [[0, 0, 9, 9]]
    with pytest.raises(ValueError, match=re.escape(f"Annotations/a.xml: object 1{message} (on_bad_annotation: error)")):
        VocDataset(voc.root, "train", on_bad_annotation="error")


def test_a_box_reaching_out_is_cut_for_training_and_kept_for_evaluation(voc):
    voc.add("a", voc_object("dog", 31, 11, 60, 20))
    data = VocDataset(voc.root, "train", on_bad_annotation="error")
    assert data.training_boxes(0)[0].tolist() == [[30, 10, 40, 20]]
    assert data.ground_truth.boxes.tolist() == [[30, 10, 30, 10]]
    assert data.summary == "VOC train: 1 box reaching out of the image clipped"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotation><object>", "malformed XML"),
        ('<!DOCTYPE x [<!ENTITY e "e">]><annotation>&e;</annotation>', "document types and entities are refused"),
    ],
)
def test_an_image_with_unreadable_annotations_is_dropped(voc, content, reason):
    voc.add("good", GOOD)
    voc.add("bad")
    (voc.root / "Annotations" / "bad.xml").write_text(content)
    data = VocDataset(voc.root, "train")
    assert len(data) == 1
    assert data.problems[0].startswith(f"Annotations/bad.xml: {reason}")


def test_an_image_that_is_left_out_does_not_move_the_ids_of_the_others(voc):
    for name in "abc":
        voc.add(name, GOOD)
    cut = voc.root / "JPEGImages" / "a.jpg"
    cut.write_bytes(cut.read_bytes()[:-40])
    checked, believed = (VocDataset(voc.root, "train", check_images=check) for check in (True, False))
    assert [checked.image_id(i) for i in range(len(checked))] == [2, 3]
    assert [believed.image_id(i) for i in range(len(believed))] == [1, 2, 3]


def test_missing_truncated_and_repeated_images_are_dropped(voc):
    voc.add("good", GOOD)
    voc.add("missing").unlink()
    cut = voc.add("cut")
    cut.write_bytes(cut.read_bytes()[:-40])
    voc.add("empty").write_bytes(b"")
    voc.add("good", GOOD)
    (voc.root / "ImageSets" / "Main" / "train.txt").open("a").write("\nno_xml\n")
    voc.add("no_xml", split="other")
    (voc.root / "Annotations" / "no_xml.xml").unlink()
    data = VocDataset(voc.root, "train")
    assert [data.image_name(i) for i in range(len(data))] == ["good.jpg"]
    assert data.summary == (
        "VOC train: 1 missing image dropped, 2 unreadable images dropped, 1 repeated image dropped, "
        "1 unreadable annotation file dropped"
    )
    assert f"{cut}: truncated JPEG; dropped" in data.problems


def test_an_image_without_objects_stays(voc):
    voc.add("a", GOOD)
    voc.add("b")
    boxes, labels = VocDataset(voc.root, "train").training_boxes(1)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_where_the_xml_has_a_wrong_size_or_none_the_real_one_is_used(voc):
    voc.add("a", voc_object("dog", 1, 1, 30, 30), width=30, height=40)
    data = VocDataset(voc.root, "train", on_bad_annotation="error")
    assert data.image_size(0) == (30, 40)
    assert data.problems == ["Annotations/a.xml: says 30 × 40, a.jpg has 40 × 30"]
    assert VocDataset(voc.root, "train", check_images=False).image_size(0) == (40, 30)
    voc.add("without", GOOD, width=0, height=0)
    assert VocDataset(voc.root, "train", check_images=False).image_size(1) == (30, 40)


def test_a_class_list_that_does_not_fit_is_refused_with_a_guess(voc):
    voc.add("a", voc_object("RBC", 1, 1, 9, 9), voc_object("WBC", 1, 1, 9, 9))
    with pytest.raises(ValueError, match=r"class_names: unknown class 'rbc'.*Did you mean 'RBC'"):
        VocDataset(voc.root, "train", class_names=["rbc", "WBC"])
    with pytest.raises(ValueError, match="class_names: expected a list of different names"):
        VocDataset(voc.root, "train", class_names=["RBC", "RBC"])
    for wrong in ("", "a\nb"):
        with pytest.raises(ValueError, match="class_names: expected names of one line; got"):
            VocDataset(voc.root, "train", class_names=["RBC", "WBC", wrong])


def test_labels_follow_the_class_list_and_other_classes_are_dropped(voc):
    voc.add("a", voc_object("RBC", 1, 1, 9, 9), voc_object("WBC", 2, 1, 9, 9), voc_object("Platelets", 3, 1, 9, 9))
    data = VocDataset(voc.root, "train", class_names=["WBC", "RBC"])
    assert data.ground_truth.labels.tolist() == [2, 1]
    assert data.summary == "VOC train: 1 object of an unknown class dropped"
    assert len(VocDataset(voc.root, "train", class_names=["WBC", "RBC", "Platelets", "rare"]).class_names) == 4


def test_wrong_folders_and_splits_are_refused_with_a_guess(voc, tmp_path):
    voc.add("a", split="trainval")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        VocDataset(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match="has no folder Annotations"):
        VocDataset(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"unknown split 'trainva'; .* Did you mean 'trainval'"):
        VocDataset(voc.root, "trainva")
    with pytest.raises(ValueError, match=r"on_bad_annotation: unknown action 'dorp'.*Did you mean 'drop'"):
        VocDataset(voc.root, "trainval", on_bad_annotation="dorp")


def test_a_split_without_a_usable_image_is_refused(voc):
    voc.add("a").unlink()
    with pytest.raises(ValueError, match=r"VOC train: no usable image\. First problem: train\.txt: a has no image"):
        VocDataset(voc.root, "train")


def test_only_twenty_problems_are_logged_and_all_are_kept(voc, caplog):
    voc.add("a", GOOD, *(voc_object("dog", 5, 5, 5, 5) for _ in range(30)))
    with caplog.at_level(logging.WARNING, "ssdnorm.data"):
        data = VocDataset(voc.root, "train")
    assert len(data.problems) == 30
    assert sum("has no area" in message for message in caplog.messages) == 20
    assert caplog.messages[-1] == "VOC train: 30 boxes without area dropped"


def test_bccd_survives_its_two_boxes_without_area(real_data):
    data = VocDataset(real_data("BCCD"), "trainval")
    assert data.problems == [
        "Annotations/BloodImage_00338.xml: object 12 (RBC): box (504, 337, 504, 337) has no area; dropped",
        "Annotations/BloodImage_00343.xml: object 3 (RBC): box (181, 329, 181, 329) has no area; dropped",
    ]
    assert data.summary == "BCCD trainval: 2 boxes without area dropped"
    assert len(data) == 292
    test = VocDataset(real_data("BCCD"), "test", on_bad_annotation="error")
    assert data.ground_truth.num_objects + test.ground_truth.num_objects == 4888 - 2
    assert data.class_names == test.class_names == ("Platelets", "RBC", "WBC")
