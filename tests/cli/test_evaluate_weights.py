"""The evaluate command on a run and on weights: which data, which numbers, and that every image counts once."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssdnorm import load_detector, ssd300_vgg16
from ssdnorm.cli import main
from ssdnorm.cli.evaluate_sources import _data_keys
from ssdnorm.config_file import merge_config
from ssdnorm.data import EncodedImage, ShapesDataset
from ssdnorm.metrics import evaluate_coco, evaluate_voc
from ssdnorm.models.checkpoint import save_checkpoint

from .small_evaluations import SHAPES, write_json, write_photos, write_run, write_voc_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "x")


def evaluate(*words: object) -> None:
    assert main(["evaluate", *map(str, words)]) == 0


def evaluation(folder: Path) -> tuple[dict, list]:
    return tuple(json.loads((folder / name).read_text()) for name in ("result.json", "detections.json"))


def test_a_run_is_evaluated_on_its_test_set_into_its_evaluation_folder(run, capsys):
    evaluate("--run", run)
    result, detections = evaluation(run / "evaluation")
    truth = ShapesDataset(3, seed=2).ground_truth
    assert len(detections) == 3 * 20  # the limit of the run's post-processing
    coco = evaluate_coco(truth, detections)
    assert {key: result["metrics"][key] for key in coco.metrics} == coco.metrics
    assert result["metrics"]["VOC07"] == evaluate_voc(truth, detections).metrics["mAP"]
    assert set(result["per_class"]) == set(SHAPES)
    assert set(result["inputs"]) == {"run", "checkpoint", "config"}
    assert len(result["inputs"]["checkpoint"]["sha256"]) == 64
    assert coco.table() in capsys.readouterr().out


def test_the_detections_of_a_run_give_the_same_numbers_as_a_file(run, tmp_path):
    evaluate("--run", run, "--output", tmp_path / "a")
    words = ["--config", run / "config.yaml", "--output", tmp_path / "b"]
    evaluate("--detections", tmp_path / "a" / "detections.json", *words)
    first, second = (json.loads((tmp_path / name / "result.json").read_text()) for name in "ab")
    for key in ("metrics", "per_class", "errors", "images", "objects", "detections"):
        assert first[key] == second[key]


def test_a_run_takes_every_option_and_keys_of_its_config(run, tmp_path):
    words = ["--data.test.num_images", "4", "--metric", "coco", "--backend", "ssdnorm", "--bootstrap", "5", "--plots"]
    words += ["--show-worst", "2", "--show-above", "0.1", "--voc-dets", tmp_path / "voc"]
    evaluate("--run", run, "--output", tmp_path / "out", *words)
    result, detections = evaluation(tmp_path / "out")
    assert result["images"] == 4
    assert result["inputs"]["overrides"] == ["--data.test.num_images", "4"]
    assert set(result["intervals"]) == {"AP", "AP50"}
    assert "VOC07" not in result["metrics"]
    assert (tmp_path / "out" / "plots" / "errors.png").exists()
    pictures = sorted((tmp_path / "out" / "worst").iterdir())
    assert [path.name for path in pictures] == [row["picture"] for row in result["worst_images"]]
    assert Image.open(pictures[0]).width > 600
    lines = [line for path in (tmp_path / "voc").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == len(detections)


def test_weights_with_a_config_are_evaluated_on_its_test_set(run, tmp_path):
    words = ["--config", run / "config.yaml", "--output", tmp_path, "--post_process.max_detections", "7"]
    evaluate("--checkpoint", run / "checkpoints" / "model.safetensors", *words)
    result, detections = evaluation(tmp_path)
    assert len(detections) == 3 * 7
    assert result["inputs"]["config"]["path"].endswith("config.yaml")


def test_weights_are_evaluated_on_a_voc_folder_with_their_own_post_processing(tmp_path):
    run = write_run(tmp_path / "run", class_names=("dog", "cat"), score_threshold=0.02)
    root = write_voc_folder(tmp_path / "VOC", {"b": [("cat", 0, (5, 5, 60, 60))], "a": [("dog", 0, (9, 9, 80, 80))]})
    words = ["--annotations", root, "--split", "test", "--output", tmp_path / "out", "--metric", "voc07"]
    evaluate("--checkpoint", run / "checkpoints" / "model.safetensors", *words)
    result, detections = evaluation(tmp_path / "out")
    assert list(result["per_class"]) == ["dog", "cat"]  # the checkpoint's order
    assert len(detections) == 2 * 20
    assert {row["image_id"] for row in detections} == {1, 2}


def test_annotations_take_the_place_of_drawn_test_images_with_every_key(tmp_path):
    shapes = {"format": "shapes", "num_images": 3, "seed": 2, "image_size": 99, "max_objects": 3, "min_side": 0.2}
    shapes |= {"max_side": 0.4, "class_colors": True}
    keys = _data_keys(Namespace(annotations=[Path("VOC")], split=["test"], images=None))
    source = merge_config(("file", {"data": {"train": shapes, "test": shapes}}), ("", {"data.test": keys})).data.test
    assert (source.format, source.root, source.split) == ("voc", ["VOC"], ["test"])


def test_weights_of_another_system_see_images_resized_as_they_were_trained_on(tmp_path):
    root = write_voc_folder(tmp_path / "VOC", {"b": [("dog", 0, (5, 5, 60, 60))]})
    photo = root / "JPEGImages" / "b.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (900, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photo, quality=95)
    words = ["--annotations", root, "--split", "test", "--post_process.max_detections", "5"]
    found = {}
    for antialias in (True, False):
        weights = tmp_path / f"{antialias}.safetensors"
        model = ssd300_vgg16(2, width=0.02, seed=0)
        save_checkpoint(weights, model, class_names=["dog"], post_process={}, antialias=antialias)
        evaluate("--checkpoint", weights, *words, "--output", tmp_path / "out")
        rows = evaluation(tmp_path / "out")[1]
        pixels = torch.from_numpy(EncodedImage.read(photo).decode()).permute(2, 0, 1)
        (expected,) = load_detector(weights)([pixels])
        assert len(rows) == 5
        corners = np.array([row["bbox"] for row in rows])
        corners[:, 2:] += corners[:, :2]
        found[antialias] = corners
        if not antialias:  # both in floats
            np.testing.assert_allclose(corners, expected["boxes"][:5].numpy(), atol=1e-2)
    assert np.abs(found[True] - found[False]).max() > 0.1  # pixels


@pytest.mark.parametrize("source", ["--run", "--checkpoint"])
def test_a_coco_file_with_its_images_takes_the_place_of_the_data(tmp_path, source):
    run = write_run(tmp_path / "run", class_names=("dog", "cat"))
    truth = {
        "images": [{"id": 7, "file_name": "x.jpg", "height": 90, "width": 120}],
        "categories": [{"id": 30, "name": "cat"}, {"id": 20, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 30, "bbox": [5, 5, 50, 50], "iscrowd": 0, "area": 9}],
    }
    write_photos(tmp_path / "photos", ["x.jpg"])
    place = run if source == "--run" else run / "checkpoints" / "model.safetensors"
    words = ["--annotations", write_json(tmp_path / "it's {truth}: .json", truth), "--output", tmp_path / "o"]
    evaluate(source, place, *words, "--images", tmp_path / "photos")
    result, detections = evaluation(tmp_path / "o")
    assert {row["image_id"] for row in detections} == {7}
    assert {row["category_id"] for row in detections} <= {20, 30}
    assert list(result["per_class"]) == ["dog", "cat"]  # the checkpoint's order


@pytest.mark.slow
def test_two_processes_find_what_one_finds_and_write_once(run, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["--run", str(run), "--metric", "coco", "--training.batch_size", "1"]  # the same sums, to the last bit
    evaluate(*words, "--output", one)
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *words, "--runtime.devices", "2"]
    done = subprocess.run([*command, "--output", str(two)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("COCO metric") == 1
    one, two = evaluation(one), evaluation(two)
    assert one[1] == two[1]  # three images: the last batch is uneven
    assert one[0]["metrics"] == two[0]["metrics"]
