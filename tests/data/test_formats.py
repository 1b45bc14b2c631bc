"""A folder's format and splits, found by its files."""

import json

import pytest

from ssdnorm.data.formats import find_data

BOX = "0 0.5 0.5 0.5 0.5"


def test_a_voc_year_is_found_with_its_splits_also_one_level_below(voc):
    for split in ("trainval", "val", "train", "test", "cat_train"):
        voc.add(f"in_{split}", split=split)
    found = find_data(voc.root.parent)
    assert found == find_data(voc.root)
    assert found.format == "voc"
    assert {name: source["split"] for name, source in found.splits.items()} == {
        "train": "train", "validation": "val", "test": "test"
    }  # fmt: skip
    (voc.root / "ImageSets" / "Main" / "val.txt").unlink()
    assert {name: source["split"] for name, source in find_data(voc.root).splits.items()} == {
        "train": "trainval", "test": "test"
    }  # fmt: skip


def test_coco_files_are_found_with_the_folder_of_their_images(coco):
    coco.add_image(1, "a.png")
    coco.annotate(1, 3, [1, 2, 3, 4])
    coco.save()
    (coco.file.parent / "instances_val.json").write_text(json.dumps(coco.content))
    (coco.file.parent / "other.json").write_text("{}")
    found = find_data(coco.file.parent)
    assert found.format == "coco"
    assert found.splits["validation"]["annotations"].endswith("instances_val.json")
    assert found.splits["train"] == {"format": "coco", "annotations": str(coco.file), "images": str(coco.images)}
    assert list(find_data(coco.file).splits) == ["train"]


def test_roboflows_coco_folders_are_found(coco):
    coco.add_image(1, "a.png")
    coco.annotate(1, 3, [1, 2, 3, 4])
    for split in ("train", "valid"):
        coco.images.parent.joinpath(split).mkdir()
        (coco.images.parent / split / "a.png").write_bytes((coco.images / "a.png").read_bytes())
        (coco.images.parent / split / "_annotations.coco.json").write_text(json.dumps(coco.content))
    splits = find_data(coco.images.parent).splits
    assert {name: source["images"].rsplit("/", 1)[1] for name, source in splits.items()} == {
        "train": "train", "validation": "valid"
    }  # fmt: skip


def test_a_yolo_folder_is_found_with_the_splits_that_have_images(yolo):
    yolo.add("a", BOX)
    yolo.add("b", BOX, split="valid")
    found = find_data(yolo.root)
    assert found.format == "yolo"
    assert {name: source["split"] for name, source in found.splits.items()} == {"train": "train", "validation": "val"}
    assert find_data(yolo.file).splits["train"] == {"format": "yolo", "root": str(yolo.file), "split": "train"}


def test_what_is_none_of_the_three_is_refused(tmp_path):
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(ValueError, match=r"neither VOC, COCO nor YOLO data; Annotations are there, but no "):
        find_data(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or file"):
        find_data(tmp_path / "nowhere")
    content = {"images": [{"file_name": "a.jpg"}], "annotations": [{"bbox": [1]}], "categories": []}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"a.json: no a.jpg found near; expected its images in"):
        find_data(tmp_path)
