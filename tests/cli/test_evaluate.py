"""The evaluate command on files: every option, what is written, and the official examples."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ssdnorm.cli import main
from ssdnorm.coco_format import load_ground_truth, result_rows
from ssdnorm.metrics import bootstrap_coco, evaluate_coco, evaluate_voc, f_scores, read_voc_detections
from tests.metrics.random_sets import draw_set

from .small_evaluations import write_json, write_photos, write_voc_folder

DOGS = {"b": [("dog", 0, (11, 11, 60, 60)), ("cat", 1, (1, 1, 20, 20))], "a": [("cat", 0, (31, 31, 80, 80))], "c": []}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    truth, found = draw_set(1, crowd=0.1, difficult=0.2)
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "found.json", found)
    write_json(tmp_path / "other.json", found[::2])
    write_photos(tmp_path / "photos", [image["file_name"] for image in truth["images"]])
    return tmp_path


def evaluate(files: Path, *words: str, detections: str = "found.json") -> int:
    given = ["--detections", str(files / detections), "--annotations", str(files / "truth.json")]
    return main(["evaluate", *given, *words])


def result_of(files: Path, *words: str, **names: str) -> dict:
    assert evaluate(files, "--output", str(files / "out"), *words, **names) == 0
    return json.loads((files / "out" / "result.json").read_text())


def loaded(files: Path) -> tuple[dict, list]:
    return tuple(json.loads((files / name).read_text()) for name in ("truth.json", "found.json"))


def test_the_numbers_of_all_metrics_are_printed_and_written_with_where_they_come_from(files, capsys):
    result = result_of(files)
    truth, found = loaded(files)
    coco = evaluate_coco(truth, found)
    kinds = {"VOC07": "11-point", "VOC": "all-point"}
    voc = {name: evaluate_voc(truth, found, interpolation=kind) for name, kind in kinds.items()}
    expected = {**coco.metrics, **{name: value.metrics["mAP"] for name, value in voc.items()}}
    assert list(result["metrics"].items()) == list(expected.items())
    for label, row in result["per_class"].items():
        assert row == {**coco.per_class[label], **{name: voc[name].per_class[label]["AP"] for name in voc}}
    assert result["backend"] == "ssdnorm"
    assert result["intervals"] is result["against"] is None
    assert sum(result["errors"]["counts"].values()) > 0
    assert result["f_scores"] == f_scores(coco)
    assert (result["images"], result["detections"]) == (6, 150)
    assert result["objects"] == sum(not a["iscrowd"] for a in truth["annotations"])
    assert {"ssdnorm", "torch", "numpy"} <= set(result["versions"])
    assert result["inputs"]["detections"]["path"].endswith("found.json")
    assert len(result["inputs"]["detections"]["sha256"]) == 64
    assert [p.name for p in (files / "out").iterdir()] == ["result.json"]  # the detections were the input
    printed = capsys.readouterr().out
    assert coco.table() in printed
    difficult = sum(row.get("difficult", 0) for row in truth["annotations"])
    assert f"{difficult} difficult objects count like others here; VOC's metric ignores them" in printed
    assert f"11-point mAP {expected['VOC07']:.4f}, all-point mAP {expected['VOC']:.4f}" in printed


def test_without_an_output_numbers_are_printed_and_nothing_is_written(files, capsys):
    before = sorted(files.rglob("*"))
    assert evaluate(files) == 0
    assert "nothing written" in capsys.readouterr().out
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize("names", [["voc07"], ["voc"], ["coco"], ["voc", "coco"]])
def test_only_the_metrics_that_are_asked_for_are_computed(files, names):
    result = result_of(files, "--metric", *names)
    assert ("AP" in result["metrics"]) == ("coco" in names) == (result["errors"] is not None)
    assert ("VOC07" in result["metrics"], "VOC" in result["metrics"]) == ("voc07" in names, "voc" in names)
    assert result["options"]["metrics"] == names
    assert result["backend"] == ("ssdnorm" if "coco" in names else None)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_another_backend_gives_the_same_numbers_and_is_named_with_its_version(files, backend):
    ours = result_of(files)
    theirs = result_of(files, "--backend", backend)
    assert theirs["metrics"] == pytest.approx(ours["metrics"], abs=1e-12)
    assert theirs["backend"] == backend
    assert backend in theirs["versions"]
    assert theirs["errors"] is None


def test_thresholds_and_limits_reach_the_metrics(files):
    truth, found = loaded(files)
    words = ["--iou-thresholds", "0.5", "0.75", "--max-detections", "2", "30", "--voc-iou", "0.3"]
    result = result_of(files, *words)
    coco = evaluate_coco(truth, found, iou_thresholds=[0.5, 0.75], max_detections=[2, 30])
    assert {key: result["metrics"][key] for key in coco.metrics} == coco.metrics
    assert {"AR2", "AR30"} <= set(result["metrics"])
    assert result["metrics"]["VOC07"] == evaluate_voc(truth, found, iou_threshold=0.3).metrics["mAP"]
    assert result["options"]["iou_thresholds"] == [0.5, 0.75]
    assert result["options"]["max_detections"] == [2, 30]


def test_bootstrap_writes_intervals_of_ap_and_where_it_is_computed_of_ap50(files, capsys):
    intervals = result_of(files, "--bootstrap", "20")["intervals"]
    expected = bootstrap_coco(evaluate_coco(*loaded(files)), num_resamples=20)
    assert {name: row["low"] for name, row in intervals.items()} == {name: row.low for name, row in expected.items()}
    assert f"AP50   {expected['AP50']}" in capsys.readouterr().out
    assert list(result_of(files, "--bootstrap", "5", "--iou-thresholds", "0.6")["intervals"]) == ["AP"]


def test_against_writes_the_paired_difference_under_the_same_options(files, capsys):
    words = ["--metric", "coco", "--iou-thresholds", "0.5", "0.6", "--max-detections", "1", "5"]
    result = result_of(files, "--against", str(files / "other.json"), "--bootstrap", "30", *words)
    truth, found = loaded(files)
    theirs = evaluate_coco(truth, found[::2], iou_thresholds=[0.5, 0.6], max_detections=[1, 5]).metrics
    assert result["against"]["metrics"] == theirs
    gap = result["against"]["difference"]["AP50"]
    assert gap["value"] == result["metrics"]["AP50"] - theirs["AP50"]
    assert gap["low"] < gap["value"] < gap["high"]
    assert gap["num_resamples"] == 30
    assert result["inputs"]["against"]["path"].endswith("other.json")
    assert "These minus" in capsys.readouterr().out
    gap = result_of(files, "--against", str(files / "found.json"), "--metric", "coco")["against"]["difference"]["AP"]
    assert (gap["value"], gap["low"], gap["high"], gap["num_resamples"]) == (0, 0, 0, 1000)


def test_plots_are_pictures_with_the_numbers_behind_them(files):
    result = result_of(files, "--plots", "--bootstrap", "5")
    folder = files / "out" / "plots"
    names = {f"{name}.{kind}" for name in ("precision_recall", "classes", "errors") for kind in ("png", "svg")}
    names |= {"confusion.png", "calibration.png", "f1.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(Image.open(path).width > 600 for path in folder.glob("*.png"))
    assert len(result["precision_recall"]["precision"]["0.50"]) == 101
    assert result["confusion_matrix"]["classes"] == ["class 5", "class 7", "class 9", "background"]
    assert sum(map(sum, result["confusion_matrix"]["counts"])) >= result["objects"]
    assert sum(row["count"] for row in result["calibration"]["bins"]) > 100
    assert 0 < result["operating_points"]["all"]["f1"] < 1
    assert result["label_errors"]["total"] == len(result["label_errors"]["first"]) > 0


def test_the_worst_images_are_drawn_with_their_errors_of_at_least_a_score(files):
    result = result_of(files, "--show-worst", "2", "--images", str(files / "photos"))
    worst = result["worst_images"]
    assert len(worst) == 2
    totals = [sum(row["errors"].values()) for row in worst]
    assert totals == sorted(totals, reverse=True)
    pictures = [files / "out" / "worst" / row["picture"] for row in worst]
    assert sorted(pictures) == sorted((files / "out" / "worst").iterdir())
    assert [path.stem for path in pictures] == [f"{n}_{Path(row['file_name']).stem}" for n, row in enumerate(worst, 1)]
    assert Image.open(pictures[0]).width > 2 * 120  # ground truth and detections, side by side
    words = ["--show-worst", "6", "--images", str(files / "photos"), "--show-above"]
    many, few = (result_of(files, *words, score)["worst_images"] for score in ("0", "0.9"))
    wrong = [sum(row["errors"]["false positive"] for row in rows) for rows in (many, few)]
    assert wrong[0] > 2 * wrong[1]


def test_voc_files_that_were_written_are_read_back_to_the_same_numbers(files):
    result = result_of(files, "--voc-dets", str(files / "voc"))
    assert sorted(path.name for path in (files / "voc").iterdir())[0] == "comp4_det_test_class 5.txt"
    again = result_of(files, detections="voc")
    assert again["metrics"] == pytest.approx(result["metrics"], abs=1e-12)
    written = json.loads((files / "out" / "detections.json").read_text())
    truth = load_ground_truth(files / "truth.json")
    assert written == result_rows(truth, read_voc_detections(files / "voc", truth))


def test_empty_detections_and_ground_truth_without_objects_give_numbers(files):
    write_json(files / "none.json", [])
    more = ["--plots", "--bootstrap", "3", "--show-worst", "2", "--images", str(files / "photos")]
    for words in (["--backend", "pycocotools"], more):
        result = result_of(files, *words, detections="none.json")
        assert result["metrics"]["AP"] == result["metrics"]["VOC07"] == 0.0
    assert result["errors"]["counts"]["missed"] > 0
    write_json(files / "truth.json", {**loaded(files)[0], "annotations": []})
    assert set(result_of(files, "--plots", "--bootstrap", "3")["metrics"].values()) == {-1.0}


def dogs_in_coco_form() -> list[dict]:
    return [
        {"image_id": 1, "category_id": 2, "bbox": [10, 10, 50, 50], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [30, 30, 50, 40], "score": 0.8},
        {"image_id": 3, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.7},
    ]


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_a_voc_folder_is_evaluated_with_every_metric_from_either_form_of_detections(tmp_path, form):
    root = write_voc_folder(tmp_path / "VOC2007", DOGS)
    if form == "coco":
        path = write_json(tmp_path / "dets.json", dogs_in_coco_form())
    else:
        path = tmp_path / "results"
        path.mkdir()
        (path / "comp4_det_test_dog.txt").write_text("b 0.9 11 11 60 60\n")
        (path / "comp4_det_test_cat.txt").write_text("a 0.8 31 31 80 70\nc 0.7 6 6 25 25\n")
    words = ["--annotations", str(root), "--split", "test", "--output", str(tmp_path / "out"), "--show-worst", "5"]
    assert main(["evaluate", "--detections", str(path), *words]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    # the cat's IoU is 40 / 50; COCO knows no difficult objects, so the second cat is missed there
    assert result["per_class"]["dog"]["AP"] == pytest.approx(1.0)
    assert result["per_class"]["cat"]["VOC"] == 1.0
    assert result["per_class"]["cat"]["AP50"] == pytest.approx(51 / 101)
    assert result["per_class"]["cat"]["AP"] == pytest.approx(0.7 * 51 / 101)
    assert [row["file_name"] for row in result["worst_images"]] == ["b.jpg", "c.jpg"]
    assert (tmp_path / "out" / "detections.json").exists() == (form == "voc")
    assert result["inputs"]["split"] == ["test"]


def test_the_data_set_of_a_config_can_be_the_ground_truth(tmp_path):
    root = write_voc_folder(tmp_path / "VOC2007", DOGS)
    source = {"format": "voc", "root": str(root), "split": "test"}
    config = {"data": {"class_names": ["dog", "cat"], "train": source, "test": source}}
    rows = [{**row, "category_id": 3 - row["category_id"]} for row in dogs_in_coco_form()]  # dog is 1 here
    words = ["--config", str(write_json(tmp_path / "config.yaml", config)), "--output", str(tmp_path / "out")]
    assert main(["evaluate", "--detections", str(write_json(tmp_path / "dets.json", rows)), *words]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(result["per_class"]) == ["dog", "cat"]  # by category id
    assert result["per_class"]["dog"]["VOC07"] == pytest.approx(1.0)


def test_files_do_not_wait_for_what_only_models_and_pictures_need(files):
    words = ["evaluate", "--detections", str(files / "found.json"), "--annotations", str(files / "truth.json")]
    code = f"""
import sys
from ssdnorm.cli import main
assert main({words}) == 0
assert not {{"pytorch_lightning", "matplotlib", "ssdnorm.models", "ssdnorm.data"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
