"""Mistakes on the command line: one line, exit code 2, nothing written."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from ssdnorm import ssd300_vgg16
from ssdnorm.cli import main
from ssdnorm.models.checkpoint import save_checkpoint
from tests.metrics.random_sets import draw_set

from .small_evaluations import TINY, write_json, write_photos, write_run, write_voc_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    truth, found = draw_set(1)
    write_json(folder / "truth.json", truth)
    write_json(folder / "found.json", found)
    write_json(folder / "nan.json", [*found[:3], {**found[3], "score": float("nan")}])
    write_voc_folder(folder / "VOC", {"b": [("dog", 0, (1, 1, 9, 9))]})
    write_photos(folder / "photos", ["photo_001.jpg"])
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "text.txt").write_text("not a folder")
    (folder / "folder.pt2").mkdir()
    write_json(folder / "config.yaml", {})
    write_run(folder / "run", class_names=("dog", "cat", "cow"))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    norms = {"norm": {"backbone": "batch_norm", "extras": "none", "taps": {"conv4_3": "none"}}}
    (folder / "batch_norm.yaml").write_text(yaml.safe_dump(TINY | norms))
    model = ssd300_vgg16(2, width=0.02, dropout=0)
    save_checkpoint(folder / "m.safetensors", model, class_names=["thing"], post_process={})
    return folder


FILE = "evaluate --detections found.json --annotations truth.json"
VOC = "evaluate --detections found.json --annotations VOC"
RUN = "evaluate --run run"
WORST = f"{FILE} --show-worst 3 --output o --images"
EXPORT = "export --checkpoint m.safetensors --output"
PREDICT = "predict --checkpoint m.safetensors --output o photos/photo_001.jpg"
DIAGNOSE = "diagnose --output o --checkpoint m.safetensors"
PICTURES = f"{DIAGNOSE} --images photos"
TRAIN = "train --config tiny.yaml --output o"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate", "one of the arguments --run --checkpoint --detections is required"),
        (f"{RUN} --detections found.json", "--detections: not allowed with argument --run"),
        (f"{RUN} --config config.yaml", "--config: a run has its own config"),
        ("evaluate --run nowhere", "--run: nowhere: no such file or folder"),
        ("evaluate --run photos", "photos/checkpoints/model.safetensors: no such"),
        (RUN, "shapes have the classes"),
        ("evaluate --checkpoint f", "--checkpoint: needs ground truth: --annotations .* or --config"),
        ("evaluate --checkpoint f --config config.yaml", "--checkpoint: needs --output"),
        ("evaluate --checkpoint f --config nowhere.yaml --output o", "f: no such"),
        ("evaluate --checkpoint f --annotations truth.json --output o", "truth.json needs --images"),
        ("evaluate --detections found.json", "--detections: needs ground truth: --annotations .* or --config"),
        ("evaluate --detections nan.json --annotations truth.json", r"nan.json: detections\[3\]: score: got nan"),
        (f"{FILE} --config config.yaml", "--config: with --detections, give --annotations or --config, not both"),
        (f"{FILE} --split test", "--split: belongs to VOC folders; truth.json is a file"),
        ("evaluate --detections found.json --config config.yaml --split test", "--split: belongs to --annotations"),
        ("evaluate --detections found.json --config config.yaml --images photos", "--images: belongs to --annotations"),
        (VOC, "VOC is a VOC folder, which needs --split; it has: test"),
        (f"{VOC} --split tset", "unknown split 'tset'.*Did you mean 'test'"),
        (f"{VOC} --split test --images photos", "a VOC folder has its own images"),
        (f"{VOC} truth.json --split test", "one COCO instances file, or VOC"),
        ("evaluate --detections found.json --annotations nowhere.json", "--annotations: nowhere.json: no such file or"),
        ("evaluate --detections nowhere.json --annotations truth.json", "--detections: nowhere.json: no such file or"),
        ("evaluate --detections photos --annotations truth.json", "photos: no file comp4_det_test_<class>.txt in this"),
        (f"{FILE} --images photos", "--images: .* for --show-worst, which is not given"),
        (f"{FILE} --metric cocoa", "--metric: unknown metric 'cocoa'; choose one of: coco, .*Did you mean 'coco'"),
        (f"{FILE} --backend pycoco", "--backend: unknown backend 'pycoco'; .*Did you mean 'pycocotools'"),
        (f"{FILE} --iou-thresholds 0.5 1.5", r"--iou-thresholds: got \(0.5, 1.5\), allowed: numbers above 0, up to 1"),
        (f"{FILE} --max-detections 10 1", r"--max-detections: got \(10, 1\), allowed: ascending"),
        (f"{FILE} --voc-iou 0", "--voc-iou: got 0.0, allowed"),
        (f"{FILE} --metric voc --backend pycocotools", "--backend: belongs to --metric coco, which is not asked for"),
        (f"{FILE} --metric voc --iou-thresholds 0.5", "--iou-thresholds: belongs to --metric coco"),
        (f"{FILE} --metric coco --voc-iou 0.5", "--voc-iou: belongs to --metric voc"),
        (f"{FILE} --bootstrap 0", "--bootstrap: must be 1 or more; got 0"),
        (f"{FILE} --metric voc07 --bootstrap 10", "--bootstrap: stands on COCO's matching; add coco to --metric"),
        (f"{FILE} --backend pycocotools --bootstrap 10", "--bootstrap: needs the matches of --backend ssdnorm"),
        (f"{FILE} --against nowhere.json", "--against: nowhere.json: no such file or folder"),
        (f"{FILE} --plots", "--plots: needs --output"),
        (f"{FILE} --show-worst 3 --output o", "--show-worst: needs --images"),
        (f"{FILE} --show-worst 3 --images photos", "--show-worst: needs --output"),
        (f"{WORST} nowhere", "--images: nowhere: no such file or folder"),
        (f"{WORST} photos", "photos/photo_0...jpg: No such file or directory"),
        (f"{WORST} photos --show-above 2", "--show-above: got 2.0, allowed: a score"),
        (f"{FILE} --show-above 0.5", "--show-above: belongs to --show-worst"),
        (f"{FILE} --voc-dets text.txt", "--voc-dets: text.txt is a file; a folder is needed"),
        (f"{FILE} --output .", "--output: . is a run folder, whose result.json would be lost"),
        (f"{FILE} --norm.backbone none", "unknown argument '--norm.backbone'"),
        (f"{RUN} --norm.backbone=group_norm", "--norm.backbone: has no effect on a trained model; choose among"),
        (f"{RUN} --model.width=0.5", "--model.width: has no effect"),
        (f"{RUN} --training.ema_decay=0.9", "--training.ema_decay: has no effect"),
        (f"{RUN} --data.train.root=x", "--data.train.root: has no effect"),
        (f"{RUN} --data.validation=null", "--data.validation: has no effect"),
        (f"{RUN} --data.train_on_difficult=false", "--data.train_on_difficult: has no effect"),
        (f"{RUN} --runtime.cache_images=9", "--runtime.cache_images: has no effect"),
        (f"{RUN} --annotations VOC --split test --data.test.split=val", "--data.test.split: does not go with --ann"),
        (f"{EXPORT} m.txt", "--output: the file ends in .onnx or .pt2"),
        (f"{EXPORT} m.onnx --opset 11", "opset: must be 18 or more; got 11"),
        (f"{EXPORT} folder.pt2", "--output: folder.pt2 is a folder; a file is written"),
        (f"{EXPORT} m.pt2 --opset 20", "--opset: is ONNX's"),
        (f"{PREDICT} --score-threshold 1", r"threshold: must lie in \[0, 1\); got 1$"),
        (f"{PREDICT} --threshold -0.1", r"threshold: must lie in \[0, 1\); got -0.1"),
        (f"{PREDICT} --onnx m.onnx", "--onnx: not allowed with argument --checkpoint"),
        (f"{PREDICT} --max-frames none", "--max-frames: must be 1 or more; got none"),
        (f"{PREDICT} 99999999999", "99999999999: no such picture, video"),
        (f"{PREDICT} nowhere.jpg", "nowhere.jpg: no such picture, video, folder with pictures, or pattern"),
        (f"{PREDICT} --mc-dropout 2", "the model has no dropout above 0"),
        (f"{PREDICT} --mc-dropout 2 --compile", "--compile: does not go with --mc-dropout"),
        (f"{PREDICT} --threshold best", "--threshold: best: "),
        (f"{PREDICT} 1 --labels yolo", "--labels: are for pictures; 1 is a video or camera"),
        (f"{PREDICT} --labels coco,pascal", "--labels: unknown format 'pascal'; choose one of: coco, voc, yolo"),
        (f"{PREDICT} --allow-norm batch_norm", "--allow-norm: expected package.module:Class; got 'batch_norm'"),
        (f"{PREDICT} --device zzz", "--device: 'zzz' cannot be used here; try cpu, cuda or cuda:1"),
        (f"{PREDICT} --device meta", "--device: meta computes nothing; choose cpu or cuda"),
        (f"{PREDICT} --device mps", "--device: "),
        (f"{PREDICT} --device cuda:99", "--device: 'cuda:99' cannot be used here"),
        (f"{PREDICT} --device xpu", "--device: 'xpu' cannot be used here"),
        (f"{PICTURES} --config tiny.yaml --model.width 1", "--model.width: has no effect on a trained model"),
        ("diagnose --output o --images photos", "give one of --run, --checkpoint, --weights, or --config for a fresh"),
        (DIAGNOSE, "--images: give pictures, or --config for the data's own"),
        (f"{PICTURES} --run photos", "--run: not allowed with argument --checkpoint"),
        (f"{PICTURES} --num-images 0", "--num-images: must be 1 or more; got 0"),
        (f"{PICTURES} --layers conv43", r"Did you mean 'conv4_3'\?"),
        (f"{PICTURES} --batch-norm", "the model has no batch norm"),
        (f"{PICTURES} --model.width 1", "unknown argument '--model.width'"),
        (f"{DIAGNOSE} --images nothing", "nothing: no such picture"),
        (f"{DIAGNOSE} --images damaged.jpg", "no picture could be read; damaged.jpg"),
        (f"{DIAGNOSE} --images 0", "--images: 0: pictures only, no videos or cameras"),
        ("diagnose --output o --checkpoint f --images photos", "f: no such"),
        ("diagnose --output o --weights none.npz --images photos", "--weights: none.npz: no such file"),
        ("diagnose --output o --config batch_norm.yaml --batch-norm --batch-size 1", "batches of two images or more"),
        ("diagnose --output o --config tiny.yaml --against m.safetensors", "m: it has 1 classes; those of the data"),
        ("diagnose --output text.txt --config tiny.yaml", "--output: text.txt is a file; a folder is needed"),
        (f"{TRAIN} --norm.backbone batchnorm", "command line: norm.backbone: unknown norm 'batchnorm'; choose one"),
        (f"{TRAIN} --training.batch_size 0", "command line: training.batch_size: must be greater than 0 or 'auto'"),
        (f"{TRAIN} --data.train '{{format: voc, root: nowhere, split: a, num_images: null, seed: null}}'", "nowhere"),
        (f"{TRAIN} --data.class_names '[cat, dog]'", "data.class_names: shapes have the classes"),
        (f"{TRAIN} --training.precision 16-mixed", "16-mixed needs a GPU; on a CPU choose 32-true or bf16-mixed"),
        (f"{TRAIN} --runtime.accelerator cuda --runtime.devices 9", "runtime: accelerator 'cuda', devices 9: "),
        (f"{TRAIN} --runtime.accelerator abacus", "runtime: accelerator 'abacus'"),
        (f"{TRAIN} --runtime.batch_may_change true --training.epochs 2", "a length in epochs would change, too"),
        (f"{TRAIN} --runtime.devices 2 --norm.taps.fc7 sync_batch_norm", "sync_batch_norm on several devices"),
        (f"{TRAIN} --runtime.devices 2 --data.test.num_images 1", "2 devices are more than the 1 images of data.te"),
        (f"{TRAIN} --model.weights none.npz", "none.npz: no such weights file"),
        (f"{TRAIN} --model.default_boxes.sizes '[30, 60]'", "model.default_boxes.sizes: expected 7 rising numbers"),
        (f"{TRAIN} --model.default_boxes.steps [8]", "model.default_boxes.steps: expected 6 entries, one per tap"),
        (f"{TRAIN} --model.name ssd_vgg16 --model.image_size 160 --model.default_boxes ssd300_voc", "for 300 pixels"),
        ("train --config none.yaml --output o", "no such config file"),
        ("train --config tiny.yaml", "give --config and --output, or --resume with a run folder"),
        ("train --output o", "give --config and --output, or --resume with a run folder"),
        ("train --config quickstart --output=", "--output: a path is needed; got an empty one"),
        ("trian --config x", "unknown command 'trian'; choose one of: inspect, .* Did you mean 'train'"),
        ("train --config quickstart --outptu x", "--outptu: ssdnorm train has no such option.* mean '--output'"),
        ("train --config quickstart --output x --nrom=none", "--nrom: .* Did you mean '--norm'"),
        ("train --config quickstart --output x --optimiser.lr 1", "optimiser.* Did you mean 'optimizer'"),
        ("train --config quickstart --output x --device cuda:1", "--device: invalid choice: 'cuda:1'"),
        ("train --config quickstart --output x --seed 1 --training.seed 2", "--training.seed: is given twice, once by"),
        ("predict --checkpoint m --devise cpu a.png", "--devise: ssdnorm predict .* Did you mean '--device'"),
        ("compare --config compare_quickstart --output x --job 2", "--job: .* Did you mean '--jobs'"),
        ("compare --config compare_quickstart --output x --jobs 0", "--jobs: must be 1 or more; got 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    before = sorted(Path().rglob("*"))
    assert main(shlex.split(words)) == 2
    assert sorted(Path().rglob("*")) == before, "something was written"
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines].index(True) == len(lines) - 1
    assert re.search(message, lines[-1]), lines


def test_a_backend_that_is_not_installed_is_refused_with_how_to_get_it(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("ssdnorm.metrics.backends.find_spec", lambda name: None)
    assert main([*FILE.split(), "--backend", "faster-coco-eval"]) == 2
    message = "--backend: faster-coco-eval is not installed: pip install faster-coco-eval"
    assert message in capsys.readouterr().err
