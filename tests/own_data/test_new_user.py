"""From a folder of pictures to a drawn detection in five commands, for each format."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from ssdnorm.build import build_dataset
from ssdnorm.cli import main
from ssdnorm.config_file import parse_overrides, read_config
from ssdnorm.data.coco import CocoDataset
from ssdnorm.data.formats import find_data
from ssdnorm.own_data.recipe import choose_recipe
from ssdnorm.own_data.survey import Objects
from tests.data.small_sets import CocoFolder, VocFolder, YoloFolder, smooth_photo, voc_object, write_image

CPU = ["--runtime.accelerator", "cpu", "--runtime.devices", "1"]
TINY = ["--model.width", "0.02", "--training.max_steps", "3", "--training.batch_size", "2", *CPU]


def voc(root: Path) -> Path:
    folder = VocFolder(root / "mine")
    for i in range(12):
        folder.add(f"a{i}", voc_object("cat" if i % 2 else "dog", 5, 5, 20, 25), split="train" if i < 9 else "test")
        write_image(folder.root / "JPEGImages" / f"a{i}.jpg", smooth_photo(30, 40, i))
    return folder.root


def coco(root: Path) -> Path:
    folder = CocoFolder(root / "mine")
    for i in range(1, 13):
        folder.add_image(i, f"a{i}.png")
        folder.annotate(i, 7 if i % 2 else 3, [5, 5, 15, 20])
    folder.save()
    return root / "mine"


def yolo(root: Path) -> Path:
    folder = YoloFolder(root / "mine")
    for i in range(12):
        folder.add(f"a{i}", f"{i % 2} 0.4 0.5 0.3 0.5", split="train" if i < 9 else "valid", seed=i)
    return folder.root


def test_crowd_regions_are_no_objects_that_boxes_are_fitted_to(tmp_path):
    folder = CocoFolder(tmp_path / "mine")
    folder.add_image(1, "a.png")
    folder.annotate(1, 7, [4, 6, 16, 15])
    folder.annotate(1, 3, [0, 0, 40, 30], iscrowd=1)
    objects = Objects.of(CocoDataset(*folder.save()))
    assert objects.labels.tolist() == [2]
    assert objects.boxes.flatten().tolist() == pytest.approx([0.1, 0.2, 0.5, 0.7])


FORMATS = {"voc": (voc, "train test"), "coco": (coco, "train"), "yolo": (yolo, "train validation")}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_five_commands_lead_from_a_folder_to_a_picture(name, tmp_path, monkeypatch, capsys):
    make, splits = FORMATS[name]
    data = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "mine", "--suggest", "--model.name", "ssd_vgg16", "--model.image_size", "64"]) == 0
    printed = capsys.readouterr().out
    assert f"mine: {name.upper()} format, splits: {', '.join(splits.split())}" in printed
    assert "Coverage of the default boxes" in printed
    assert "<svg" in (tmp_path / "inspect.html").read_text()

    assert main(["init", "mine", "--image-size", "64", *TINY]) == 0
    train, evaluate, predict = (line.split() for line in capsys.readouterr().out.split("next:\n")[1].splitlines())
    config = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    used = {split: config["data"][split] for split in ("train", "validation", "test")}
    if name == "coco":  # one file: both other splits are made
        lists = {split: Path(source["only"]).read_text().split() for split, source in used.items()}
        assert sorted(int(name) for names in lists.values() for name in names) == list(range(1, 13))
    if name == "yolo":
        assert used["validation"] == used["test"]

    assert main(train[1:]) == 0
    assert main([*evaluate[1:]]) == 0
    assert predict[-1] == "PICTURES"
    picture = next(path for path in data.rglob("*") if path.suffix in (".jpg", ".png"))
    assert main([*predict[1:-1], str(picture)]) == 0
    assert json.loads((tmp_path / "runs" / "mine" / "predictions" / "detections.json").read_text())
    assert shlex.join(train).startswith("ssdnorm train --config mine.yaml")


def test_a_missing_validation_split_is_made_from_the_training_pictures(tmp_path, monkeypatch, capsys):
    voc(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--output", "a.yaml", "--image-size", "64", "96", "--seed", "4", *CPU]) == 0
    text = (tmp_path / "a.yaml").read_text()
    config = yaml.safe_load(text)
    assert config["model"]["image_size"] == [64, 96]
    assert len(config["model"]["default_boxes"]["sizes"]) == 5
    assert config["data"]["train"] == {"format": "voc", "root": "mine", "split": "train", "only": "a.train.txt"}
    assert config["data"]["test"]["split"] == "test"
    lists = [set((tmp_path / f"a.{split}.txt").read_text().split()) for split in ("train", "validation")]
    assert lists[0] | lists[1] == {f"a{i}" for i in range(9)}
    assert not lists[0] & lists[1]
    assert lists[1]
    assert "# default boxes: fitted" in text
    assert "with seed 4" in text
    assert config["training"]["seed"] == 4
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a.train.txt").write_text("a0")
    assert main(["init", "mine", "--output", "a.yaml", "--image-size", "64", *CPU]) == 2
    assert "--output: a.train.txt, a list of images, exists already; choose another" in capsys.readouterr().err
    assert (tmp_path / "a.train.txt").read_text() == "a0"


def test_pictures_of_equal_names_in_two_folders_are_told_apart(tmp_path, monkeypatch, capsys):
    folder = YoloFolder(tmp_path / "mine")
    for camera in ("camA", "camB"):
        for part in ("images", "labels"):
            (folder.root / "train" / part / camera).mkdir(parents=True)
        for i in range(6):
            folder.add(f"{camera}/000{i}", f"{i % 2} 0.4 0.5 0.3 0.5")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", *TINY]) == 0
    lists = [(tmp_path / f"mine.{split}.txt").read_text().split() for split in ("train", "validation", "test")]
    names = [f"{camera}/000{i}" for camera in ("camA", "camB") for i in range(6)]
    assert sorted(name for listed in lists for name in listed) == names
    config = read_config("mine.yaml")
    for split, listed in zip(("train", "validation", "test"), lists, strict=True):
        data = build_dataset(config, split)
        assert [str(Path(data.image_path(i)).relative_to("mine/train/images")) for i in range(len(data))] == [
            f"{name}.jpg" for name in listed
        ]
    for only, message in (
        ("['0001']", "'0001' are 2 images; choose one of: camA/0001, camB/0001"),
        ("[camA/9]", "no image 'camA/9' in the data set of 12 images"),
        ("[]", r"data\.train\.only: \[\]: lists no image; null takes all"),
        ("empty.txt", r"data\.train\.only: empty\.txt: lists no image"),
        ("nowhere.txt", r"data\.train\.only: nowhere\.txt: no readable text file"),
    ):
        (tmp_path / "empty.txt").touch()
        with pytest.raises(ValueError, match=message):
            build_dataset(read_config("mine.yaml", ["--data.train.only", only]), "train")


def test_with_weights_it_is_the_full_network_with_batch_norm_and_half_of_the_steps(tmp_path):
    found = find_data(yolo(tmp_path))
    options = {"image_size": None, "seed": 0, "overrides": {}}
    scratch, full = (
        choose_recipe(found, tmp_path / "mine.yaml", weights=weights, **options).config
        for weights in (None, "VGG16_Weights.IMAGENET1K_FEATURES")
    )
    assert (scratch.model.width, full.model.width, full.model.weights) == (0.25, 1, "VGG16_Weights.IMAGENET1K_FEATURES")
    assert scratch.norm == full.norm
    for group in (scratch.optimizer.norms, scratch.optimizer.biases, full.optimizer.norms, full.optimizer.biases):
        assert (group.lr_factor, group.weight_decay) == (1.0, 0.0)
    assert full.norm.backbone == "batch_norm"
    assert full.training.max_steps * 2 == scratch.training.max_steps == 1000
    assert full.training.precision == scratch.training.precision == "auto"
    assert full.model.image_size == scratch.model.image_size == 160


@pytest.mark.parametrize("given", [True, False])
def test_training_pictures_without_an_object_are_left_out_unless_focal_loss_uses_them(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = YoloFolder(tmp_path / "mine")
    for i in range(24):
        folder.add(f"a{i:02}", *["0 0.4 0.5 0.3 0.5"] * (i % 3 > 0), split="valid" if given and i > 15 else "train")
    options = {"image_size": 64, "weights": None, "seed": 0}
    recipe = choose_recipe(find_data("mine"), Path("mine.yaml"), overrides={}, **options)
    recipe.write(Path("mine.yaml"))
    (note,) = (note for note in recipe.notes if note.startswith("without objects:"))
    train, validation, test = (build_dataset(read_config("mine.yaml"), s) for s in ("train", "validation", "test"))
    held_out = len(validation) if given else len(validation) + len(test)
    assert note.startswith(f"without objects: {24 - held_out - len(train)} training pictures, left out")
    assert all(len(train.training_boxes(i)[1]) for i in range(len(train)))
    assert not all(len(validation.training_boxes(i)[1]) for i in range(len(validation)))
    for overrides in (
        {"loss.focal": {"alpha": 0.25, "gamma": 2.0}},
        {"data.train.only": ["a00", "a01", "a02", "a03", "a04", "a05"]},
    ):
        recipe = choose_recipe(find_data("mine"), Path("b.yaml"), overrides=overrides, **options)
        assert not any(note.startswith("without objects:") for note in recipe.notes)


def test_with_weights_layers_can_be_frozen_and_another_norm_is_named(tmp_path):
    overrides = {"model.freeze": ["conv1", "conv2"], "norm": {"backbone": {"kind": "none"}, "extras": "none"}}
    weights = "VGG16_Weights.IMAGENET1K_FEATURES"
    options = {"image_size": None, "seed": 0, "overrides": overrides}
    recipe = choose_recipe(find_data(yolo(tmp_path)), tmp_path / "mine.yaml", weights=weights, **options)
    assert recipe.config.model.freeze == ["conv1", "conv2"]
    assert recipe.config.optimizer.lr == 0.001  # a tenth of what batch norm bears
    assert "network: 1 times VGG16's channels, no norm in its convolutions, ImageNet weights" in recipe.notes


@pytest.mark.parametrize(("side", "chosen"), [("0.3", 160), ("0.01", 300)])
def test_the_input_is_the_smallest_whose_default_boxes_cover_the_objects(side, chosen, tmp_path, monkeypatch, capsys):
    folder = YoloFolder(tmp_path / "mine")
    for i in range(12):
        folder.add(f"a{i}", f"{i % 2} 0.4 0.5 {side} {side}", split="train", seed=i)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", *TINY]) == 0
    printed = capsys.readouterr().out
    assert f"image size: {chosen} pixels" in printed
    assert "steps: 3 of 2 images, 1 times each of 8 pictures" in printed
    assert "classes: 2 of 2 have fewer than 20 objects" in printed
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["model"]["image_size"] == chosen


@pytest.mark.parametrize("weights", [None, "VGG16_Weights.IMAGENET1K_FEATURES"])
def test_classes_with_too_few_objects_can_be_left_out_by_what_it_proposes(weights, tmp_path, monkeypatch):
    folder = YoloFolder(tmp_path / "mine")
    for i in range(30):
        labels = [f"{k} 0.4 0.5 0.3 0.5" for k in range(6) if k != 2 or i < 3]
        folder.add(f"a{i}", *labels, split="train", seed=i)
    names = ["dog's", "7", "ferret", "yes", "bus, big", "C #1"]
    folder.file.write_text(f"train: ../train/images\nval: ../valid/images\nnames: {json.dumps(names)}\n")
    monkeypatch.chdir(tmp_path)
    options = {"image_size": None, "weights": weights, "seed": 0}
    recipe = choose_recipe(find_data("mine"), Path("mine.yaml"), overrides={}, **options)
    (note,) = (note for note in recipe.notes if note.startswith("classes: 1 of 6 have fewer than 20 objects"))
    proposed = shlex.split(note.partition("leave the others out (")[2].partition("), or")[0])
    recipe = choose_recipe(find_data("mine"), Path("mine.yaml"), overrides=parse_overrides(proposed), **options)
    assert recipe.config.data.class_names == [name for name in names if name != "ferret"]
    assert not any(note.startswith("classes:") for note in recipe.notes)


def test_the_page_tells_what_is_wrong_and_what_is_twice(tmp_path, monkeypatch, capsys):
    folder = YoloFolder(tmp_path / "mine")
    for i in range(4):
        folder.add(f"a{i}", "0 0.4 0.5 0.3 0.5", "1 2 2 0.1 0.1" if i == 2 else "", seed=i)
    folder.add("copy", "1 0.4 0.5 0.3 0.5", split="test", seed=1)
    monkeypatch.chdir(tmp_path)
    assert (
        main(["inspect", "mine", "--output", "a.html", "--model.default_boxes.sizes", "[5, 9, 20, 40, 80, 160, 315]"])
        == 0
    )
    printed, page = capsys.readouterr().out, (tmp_path / "a.html").read_text()
    for said in (
        "train: labels/a2.txt: line 2 (dog): lies outside the image of 40 × 30 pixels; dropped",
        "train a1.jpg = test copy.jpg",
    ):
        assert said in printed
        assert said in page
    assert "data:image/jpeg;base64," in page
    assert "100.0%" in page  # covered


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "nowhere"], "nowhere: no such folder or file"),
        (["inspect", "mine", "--model.width", "0"], "model.width: must be greater than 0; got 0"),
        (["inspect", "mine", "--config", "mine/list.yaml"], "mine/list.yaml: expected keys and values; got [1]"),
        (["inspect", "mine", "--norm.taps", "{conv4_4: l2_norm}"], "unknown tap 'conv4_4'"),
        (
            ["init", "mine", "--image-size", "1", "2", "3"],
            "--image-size: expected a side, or height and width; got 1 2 3",
        ),
        (["init", "mine", "--image-size", "20"], "model.image_size: must be greater than or equal to 32"),
        (
            ["init", "mine", "--output", "mine/data.yaml"],
            "--output: mine/data.yaml exists already; choose another name",
        ),
        (["init", "mine", "--weights", "nothing.npz", "--model.width", "-1"], "model.width: must be greater than 0"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(words, message, tmp_path, monkeypatch, capsys):
    (yolo(tmp_path) / "list.yaml").write_text("- 1")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
