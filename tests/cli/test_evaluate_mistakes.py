"""Mistakes on evaluate's command line: one line, exit code 2, nothing written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssdnorm.cli import main
from tests.metrics.random_sets import draw_set

from .small_evaluations import write_json, write_photos, write_run, write_voc_folder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    truth, found = draw_set(1)
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "found.json", found)
    write_voc_folder(tmp_path / "VOC", {"b": [("dog", 0, (1, 1, 9, 9))]})
    write_photos(tmp_path / "photos", ["photo_001.jpg"])
    write_json(tmp_path / "config.yaml", {})
    (tmp_path / "text.txt").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILE = "--detections found.json --annotations truth.json"


def refusal(words: str, capsys: pytest.CaptureFixture) -> str:
    before = sorted(Path().rglob("*"))
    assert main(["evaluate", *words.split()]) == 2
    assert sorted(Path().rglob("*")) == before, "something was written"
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give one of --run, --checkpoint, --detections; got none"),
        ("--run r --detections found.json", "give one of .*; got --run and --detections"),
        ("--run r --config config.yaml", "--config: a run has its own config"),
        ("--run nowhere", "--run: nowhere: no such run folder"),
        ("--run photos", "photos/checkpoints/model.safetensors: no such"),
        ("--checkpoint f", "--checkpoint: needs ground truth: --annotations .* or --config"),
        ("--checkpoint f --config config.yaml", "--checkpoint: needs --output"),
        ("--checkpoint f --config nowhere.yaml --output o", "f: no such"),
        ("--checkpoint f --annotations truth.json --output o", "truth.json needs --images"),
        ("--detections found.json", "--detections: needs ground truth: --annotations .* or --config"),
        (f"{FILE} --config config.yaml", "--config: with --detections, give --annotations or --config, not both"),
        (f"{FILE} --split test", "--split: belongs to VOC folders; truth.json is a file"),
        ("--detections found.json --config config.yaml --split test", "--split: belongs to --annotations"),
        ("--detections found.json --config config.yaml --images photos", "--images: belongs to --annotations"),
        ("--detections found.json --annotations VOC", "VOC is a VOC folder, which needs --split; it has: test"),
        ("--detections found.json --annotations VOC --split tset", "unknown split 'tset'.*Did you mean 'test'"),
        ("--detections found.json --annotations VOC --split test --images photos", "a VOC folder has its own images"),
        ("--detections found.json --annotations VOC truth.json --split test", "one COCO instances file, or VOC"),
        ("--detections found.json --annotations nowhere.json", "--annotations: nowhere.json: no such file or folder"),
        ("--detections nowhere.json --annotations truth.json", "--detections: nowhere.json: no such file or folder"),
        (f"{FILE} --images photos", "--images: .* for --show-worst, which is not given"),
        (f"{FILE} --metric cocoa", "--metric: unknown metric 'cocoa'; choose one of: coco, .*Did you mean 'coco'"),
        (f"{FILE} --backend pycoco", "--backend: unknown backend 'pycoco'; .*Did you mean 'pycocotools'"),
        (f"{FILE} --iou-thresholds 0.5 1.5", r"--iou-thresholds: got \(0.5, 1.5\), allowed: numbers above 0, up to 1"),
        (f"{FILE} --max-detections 10 1", r"--max-detections: got \(10, 1\), allowed: ascending"),
        (f"{FILE} --voc-iou 0", "--voc-iou: got 0.0, allowed"),
        (f"{FILE} --metric voc --backend pycocotools", "--backend: belongs to --metric coco, which is not asked for"),
        (f"{FILE} --metric voc --iou-thresholds 0.5", "--iou-thresholds: belongs to --metric coco"),
        (f"{FILE} --metric coco --voc-iou 0.5", "--voc-iou: belongs to --metric voc"),
        (f"{FILE} --bootstrap 0", "--bootstrap: got 0, allowed: whole numbers from 1"),
        (f"{FILE} --metric voc07 --bootstrap 10", "--bootstrap: stands on COCO's matching; add coco to --metric"),
        (f"{FILE} --backend pycocotools --bootstrap 10", "--bootstrap: needs the matches of --backend ssdnorm"),
        (f"{FILE} --against nowhere.json", "--against: nowhere.json: no such file or folder"),
        (f"{FILE} --plots", "--plots: needs --output"),
        (f"{FILE} --backend faster-coco-eval --plots --output o", "--plots: needs the matches of --backend ssdnorm"),
        (f"{FILE} --show-worst 3 --output o", "--show-worst: needs --images"),
        (f"{FILE} --show-worst 3 --images photos", "--show-worst: needs --output"),
        (f"{FILE} --show-worst 0 --images photos --output o", "--show-worst: got 0, allowed: whole numbers from 1"),
        (f"{FILE} --show-worst 3 --images nowhere --output o", "--images: nowhere: no such folder"),
        (f"{FILE} --show-worst 3 --images photos --output o", "--images: photos/photo_0...jpg: no such image"),
        (f"{FILE} --show-above 0.5", "--show-above: belongs to --show-worst"),
        (f"{FILE} --show-worst 3 --images photos --output o --show-above 2", "--show-above: got 2.0, allowed: a score"),
        (f"{FILE} --output text.txt", "--output: text.txt is a file; a folder is needed"),
        (f"{FILE} --voc-dets text.txt", "--voc-dets: text.txt is a file; a folder is needed"),
        (f"{FILE} --output .", "--output: . is a run folder, whose result.json would be lost"),
        (f"{FILE} --norm.backbone none", "unknown argument '--norm.backbone'"),
        (f"{FILE} --outptu o", "--outptu: ssdnorm evaluate has no such option"),
        ("--detections photos --annotations truth.json", "photos: no file comp4_det_test_<class>.txt in this folder"),
    ],
)  # fmt: skip
def test_a_wrong_combination_is_one_line_and_writes_nothing(files, capsys, words, message):
    assert re.search(message, refusal(words, capsys))


def test_a_bad_detection_is_refused_with_file_and_place(files, capsys):
    rows = json.loads(Path("found.json").read_text())
    rows[3]["score"] = float("nan")
    write_json(Path("found.json"), rows)
    assert "found.json: detections[3]: score: got nan, allowed: a finite number" in refusal(FILE, capsys)


def test_a_backend_that_is_not_installed_is_refused_with_how_to_get_it(files, capsys, monkeypatch):
    monkeypatch.setattr("ssdnorm.metrics.backends.find_spec", lambda name: None)
    message = refusal(f"{FILE} --backend faster-coco-eval", capsys)
    assert "--backend: faster-coco-eval is not installed: pip install faster-coco-eval" in message


def test_a_run_of_other_classes_than_the_data_is_refused(files, capsys):
    write_run(files / "run", class_names=("dog", "cat", "cow"))
    assert "shapes have the classes" in refusal("--run run", capsys)


def test_files_do_not_wait_for_what_only_models_and_pictures_need(files):
    code = f"""
import sys
from ssdnorm.cli import main
main({["evaluate", *FILE.split()]})
assert not {{"pytorch_lightning", "matplotlib", "ssdnorm.models"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "COCO metric" in done.stdout
