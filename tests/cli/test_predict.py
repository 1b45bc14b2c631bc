"""The predict and export commands: pictures, folders, patterns and videos in; drawings, a list and one line out."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image

from ssdnorm import ssd300_vgg16
from ssdnorm.cli import main
from ssdnorm.cli.frames import find_sources
from ssdnorm.data import CocoDataset, VocDataset
from ssdnorm.models.checkpoint import read_checkpoint, save_checkpoint, write_checkpoint
from ssdnorm.models.features import SSDFeatures
from ssdnorm.models.onnx_detector import OnnxDetector


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A detector that finds a large cat everywhere, with a score of 0.67, and nothing else."""
    model = ssd300_vgg16(3, width=0.02, dropout=0)
    with torch.no_grad():
        for tap, conv in model.head.logits.items():
            conv.weight.zero_()
            row = [0.0, 0.7, -20.0] if tap == "conv11_2" else [20.0, 0.0, 0.0]
            conv.bias.copy_(torch.tensor(row).repeat(conv.bias.shape[0] // 3))
        for conv in model.head.locs.values():
            conv.weight.zero_()
    path = tmp_path_factory.mktemp("predict") / "model.safetensors"
    save_checkpoint(path, model, class_names=["cat", "dog"], post_process={"score_threshold": 0.05})
    return path


@pytest.fixture(scope="module")
def exported(checkpoint):
    """The checkpoint with a threshold of 0.9, that as an ONNX file, and one of the first with its detections inside."""
    high, raw, inside = (checkpoint.with_name(name) for name in ("high.safetensors", "raw.onnx", "inside.onnx"))
    write_checkpoint(high, replace(read_checkpoint(checkpoint), post_process={"score_threshold": 0.9}))
    assert main(["export", "--checkpoint", str(high), "--output", str(raw)]) == 0
    words = ["--detections", "--input", "float32", "--output", str(inside)]
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["export", "--checkpoint", str(checkpoint), *words]) == 0
    assert printed.getvalue().startswith(f"written: {inside} (")
    outputs = "boxes, scores, labels, num_detections"
    assert printed.getvalue().endswith(f"images (B, 3, 300, 300) float32 -> {outputs}\n")
    return {"high": high, "raw": raw, "inside": inside}


def test_a_torch_export_file_is_written_and_described(checkpoint, tmp_path, capsys):
    path = tmp_path / "m.pt2"
    assert main(["export", "--checkpoint", str(checkpoint), "--output", str(path)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"written: {path} (")
    assert line.endswith("images (B, 3, 300, 300) uint8 -> locs, logits\n")
    assert path.stat().st_size > 10_000


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("b.png", (90, 60)), ("a.jpg", (64, 128))):
        Image.fromarray(np.full((size[1], size[0], 3), 128, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for i in range(5):
        writer.write(np.full((64, 96, 3), (200, 40 * i, 0), np.uint8))  # BGR
    writer.release()
    return path


def predict(*words) -> int:
    return main(["predict", *map(str, words)])


def entries_of(output, *words):
    """What is listed of each frame."""
    assert predict("--output", output, *words) == 0
    return json.loads((output / "detections.json").read_text())


def test_a_custom_norm_class_must_be_allowed(pictures, tmp_path, capsys):
    model = ssd300_vgg16(3, width=0.02, tap_norms={"fc7": "torch.nn:BatchNorm2d"})
    path, output = tmp_path / "model.safetensors", tmp_path / "out"
    save_checkpoint(path, model, class_names=["cat", "dog"], post_process={})
    assert predict("--checkpoint", path, "--output", output, pictures / "a.jpg") == 2
    assert "--allow-norm torch.nn:BatchNorm2d" in capsys.readouterr().err
    allow = ("--allow-norm", "torch.nn:BatchNorm2d")
    assert predict("--checkpoint", path, *allow, "--output", output, pictures / "a.jpg") == 0
    assert predict("--onnx", path, *allow, "--output", output, pictures / "a.jpg") == 2


def test_a_folder_becomes_drawings_a_list_and_one_line(checkpoint, pictures, tmp_path, capsys):
    listed = entries_of(tmp_path / "out", "--checkpoint", checkpoint, pictures)
    assert [entry["picture"] for entry in listed] == ["00000_a.jpg", "00001_b.jpg"]
    first = listed[1]["detections"][0]
    assert first["class"] == "cat"
    x, y, width, height = first["bbox"]
    assert 0 <= x < x + width <= 90
    assert 0 <= y < y + height <= 60
    drawn = Image.open(tmp_path / "out" / "00001_b.jpg").convert("RGB")
    assert drawn.size == (90, 60)
    assert (abs(np.asarray(drawn).astype(int) - 128).max(axis=2) > 60).any()  # a coloured line on grey
    num_objects = sum(len(entry["detections"]) for entry in listed)
    line = capsys.readouterr().out
    assert line.startswith(f"2 images, {num_objects} objects, mean latency ")
    assert line.count("\n") == 1


def test_a_threshold_below_the_checkpoints_is_honoured_and_refused_where_it_cannot_be(
    exported, pictures, tmp_path, capsys
):
    for source in ("--checkpoint", exported["high"]), ("--onnx", exported["raw"]):
        (entry,) = entries_of(tmp_path / source[0], *source, "--score-threshold", 0.5, pictures / "a.jpg")
        assert entry["detections"]
    words = ("--onnx", exported["inside"], "--output", tmp_path / "out", "--score-threshold", 0.01)
    assert predict(*words, pictures / "a.jpg") == 2
    assert "inside.onnx begin at 0.05" in capsys.readouterr().err


def test_what_cannot_be_written_is_not_called_unreadable(checkpoint, pictures, tmp_path, capsys):
    (tmp_path / "out" / "00000_a.jpg").mkdir(parents=True)
    assert predict("--checkpoint", checkpoint, "--output", tmp_path / "out", pictures / "a.jpg") != 0
    said = capsys.readouterr().err
    assert "not read" not in said
    assert "00000_a.jpg" in said


def test_a_video_becomes_a_video_with_every_frame_listed(checkpoint, video, tmp_path):
    listed = entries_of(tmp_path / "out", "--checkpoint", checkpoint, "--max-frames", 3, video)
    assert [entry["frame"] for entry in listed] == [0, 1, 2]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "00000_clip.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    assert (capture.get(3), capture.get(4), capture.get(cv2.CAP_PROP_FPS)) == (96, 64, 10)
    blue, _, red = np.median(capture.read()[1], axis=(0, 1))
    assert blue > 150 > 50 > red


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_video_that_cannot_be_completed_leaves_no_file_and_the_old_one_stays(tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    script = f"""if True:
        import resource, signal
        import numpy as np
        from pathlib import Path
        from ssdnorm.cli.frames import Frame, new_video
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        with new_video(Path({str(target)!r}), Frame("x", noise)) as writer:
            for _ in range(100):
                writer.write(noise)
    """
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "out.mp4: the video could not be completed; is the disk full?" in ended.stderr
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("name", ["raw", "inside"])
def test_an_onnx_file_draws_the_same_as_its_checkpoint(checkpoint, exported, pictures, tmp_path, name):
    one = entries_of(tmp_path / "a", "--checkpoint", checkpoint, pictures)
    other = entries_of(tmp_path / "b", "--onnx", exported[name], pictures)
    assert [len(entry["detections"]) for entry in one] == [len(entry["detections"]) for entry in other]
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a["detections"], b["detections"], strict=True):
            assert x["class"] == y["class"]
            assert [*x["bbox"], x["score"]] == pytest.approx([*y["bbox"], y["score"]], abs=1e-3)


def test_a_damaged_picture_is_named_and_the_others_go_on(checkpoint, pictures, tmp_path, capsys):
    (pictures / "c.jpg").write_bytes(b"\xff\xd8 nothing")
    assert predict("--checkpoint", checkpoint, "--output", tmp_path / "out", str(pictures / "*.jpg")) == 0
    captured = capsys.readouterr()
    assert "c.jpg" in captured.err
    assert captured.out.startswith("1 images")
    (tmp_path / "out" / "detections.json").unlink()
    assert predict("--checkpoint", checkpoint, "--output", tmp_path / "out", pictures / "c.jpg") == 2
    assert "no picture could be read" in capsys.readouterr().err
    assert not (tmp_path / "out" / "detections.json").exists()


@pytest.fixture
def gradients(tmp_path):
    """Five pictures that a network tells apart, of three sizes."""
    folder = tmp_path / "gradients"
    folder.mkdir()
    for i in range(5):
        height, width = ((60, 90), (128, 64), (100, 100))[i % 3]
        ramp = np.linspace(40 * i, 255, width).astype(np.uint8)
        Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3))).save(folder / f"{i:02d}.png")
    return folder


def test_batches_give_the_pictures_in_order_and_the_numbers_of_one_at_a_time(gradients, tmp_path):
    path = tmp_path / "model.safetensors"
    model = ssd300_vgg16(3, width=0.05, dropout=0, seed=3)
    with torch.no_grad():
        for conv in model.head.logits.values():  # scores that saturate would tie
            conv.weight.mul_(0.05)
    save_checkpoint(path, model, class_names=["cat", "dog"], post_process={})
    words = ("--checkpoint", path, "--threshold", 0.2, gradients, "--batch-size")
    listed = [entries_of(tmp_path / str(size), *words, size) for size in (1, 4, 8)]
    assert len({tuple(found["score"] for found in entry["detections"][:3]) for entry in listed[0]}) > 2
    for entries in listed[1:]:
        assert [entry["picture"] for entry in entries] == [f"{i:05d}_{i:02d}.jpg" for i in range(5)]
        for one, other in zip(listed[0], entries, strict=True):
            for a, b in zip(one["detections"][:5], other["detections"][:5], strict=True):
                assert a["score"] == pytest.approx(b["score"], abs=1e-4)
    for i in range(5):
        one, other = (Image.open(tmp_path / n / f"{i:05d}_{i:02d}.jpg") for n in ("1", "4"))
        assert one.size == other.size


def test_auto_precision_is_honoured_and_refused_for_onnx(checkpoint, exported, pictures, tmp_path, monkeypatch, capsys):
    types = []
    forward = SSDFeatures.forward

    def watch(self, x):
        if not x.is_meta:  # while the model is built
            types.append(torch.is_autocast_enabled("cpu"))
        return forward(self, x)

    monkeypatch.setattr(SSDFeatures, "forward", watch)
    monkeypatch.setattr("ssdnorm.engine.precision.multiplication_seconds", lambda device, dtype: dtype.itemsize)
    words = ("--checkpoint", checkpoint, "--output", tmp_path / "out", pictures / "a.jpg")
    assert predict(*words, "--precision", "auto") == 0  # bfloat16 takes half as long here
    assert predict(*words) == 0
    assert types == [True, False]
    words = ("--onnx", exported["raw"], "--output", tmp_path / "out", pictures / "a.jpg")
    assert predict(*words, "--precision", "auto") == 2
    assert "--precision: an ONNX file has its own" in capsys.readouterr().err


def test_the_best_threshold_of_each_class_is_the_checkpoints_and_the_onnx_files(
    checkpoint, exported, pictures, tmp_path
):
    """Cat and dog score 0.48 each, between their two thresholds."""
    path = tmp_path / "model.safetensors"
    stored = read_checkpoint(checkpoint)
    bias = stored.state["head.logits.conv11_2.bias"]
    bias.copy_(torch.tensor([0.0, 2.4849, 2.4849]).repeat(len(bias) // 3))  # 12 to 1
    write_checkpoint(path, replace(stored, thresholds={"dog": 0.49, "cat": 0.47}))
    words = ["--detections", "--threshold", "best", "--output", str(tmp_path / "inside.onnx")]
    assert main(["export", "--checkpoint", str(path), *words]) == 0

    def classes(*source):
        (entry,) = entries_of(tmp_path / "out", *source, "--threshold", "best", pictures / "a.jpg")
        return {found["class"] for found in entry["detections"]}

    assert classes("--checkpoint", path) == classes("--onnx", tmp_path / "inside.onnx") == {"cat"}
    for threshold, found in ((0.66, {"cat"}), (0.68, set())):  # around the score of a cat there
        raw = onnx.load(exported["raw"])
        stored = {entry.key: entry.value for entry in raw.metadata_props}
        onnx.helper.set_model_props(raw, stored | {"thresholds": json.dumps({"dog": 0.5, "cat": threshold})})
        onnx.save(raw, tmp_path / "raw.onnx")
        assert classes("--onnx", tmp_path / "raw.onnx") == found
    inside = OnnxDetector(tmp_path / "inside.onnx")
    assert inside.thresholds == {"cat": 0.47, "dog": 0.49}
    (found,) = inside(torch.zeros(1, 3, 300, 300, dtype=torch.uint8), torch.tensor([[300, 300]]))
    assert set(found["labels"].tolist()) == {1}, "the thresholds are in the graph"


def test_label_files_are_what_the_readers_of_their_formats_read(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--checkpoint", checkpoint, "--labels", "coco,voc,yolo", pictures)
    listed = {Path(entry["file_name"]).name: entry for entry in entries_of(out, *words)}
    coco = CocoDataset(out / "coco.json", pictures)
    (out / "ImageSets" / "Main").mkdir(parents=True)
    shutil.copytree(pictures, out / "JPEGImages")
    (out / "ImageSets" / "Main" / "all.txt").write_text("a\nb\n")
    (out / "voc").rename(out / "Annotations")
    voc = VocDataset(str(out), "all", check_images=False)
    for i, name in enumerate(("a.jpg", "b.png")):
        entry = listed[name]
        boxes = [found["bbox"] for found in entry["detections"]]
        assert coco.image_name(i) == name
        rows = coco.ground_truth.image == i
        assert coco.ground_truth.boxes[rows].tolist() == pytest.approx(np.array(boxes), abs=1e-3)
        rows = voc.ground_truth.image == i
        assert voc.ground_truth.boxes[rows].tolist() == pytest.approx(np.array(boxes), abs=1.01)
        lines = (out / "yolo" / f"{name[0]}.txt").read_text().splitlines()
        for line, (x, y, w, h) in zip(lines, boxes, strict=True):
            label, *numbers = map(float, line.split())
            expected = [(x + w / 2) / entry["width"], (y + h / 2) / entry["height"]]
            assert [label, *numbers] == pytest.approx([0, *expected, w / entry["width"], h / entry["height"]], abs=1e-6)
    assert yaml.safe_load((out / "yolo" / "data.yaml").read_text()) == {"names": {0: "cat", 1: "dog"}}
    (pictures / "a.png").write_bytes((pictures / "b.png").read_bytes())
    assert predict("--output", out, *words) == 2
    assert "--labels: two pictures are called a; their label files would have one name" in capsys.readouterr().err


def test_sources_are_found_once_and_in_order(pictures, video, tmp_path):
    words = [str(pictures), str(pictures / "*.png"), str(video), "3"]
    assert find_sources(words) == [pictures / "a.jpg", pictures / "b.png", video, 3]


def test_mc_dropout_lists_how_far_the_passes_disagree(pictures, tmp_path):
    model = ssd300_vgg16(3, width=0.02, dropout=0.5)
    with torch.no_grad():
        for tap, conv in model.head.logits.items():  # conv4_3 comes before the dropout; the others must not saturate
            conv.weight.mul_(0.0 if tap == "conv4_3" else 0.05)
    path = tmp_path / "dropout.safetensors"
    save_checkpoint(path, model, class_names=["cat", "dog"], post_process={})
    words = ("--checkpoint", path, "--score-threshold", "0.05", pictures)
    listed = entries_of(tmp_path / "out", "--mc-dropout", 3, *words)
    spreads = [found["score_std"] for entry in listed for found in entry["detections"]]
    assert max(spreads) > 0
    plain = entries_of(tmp_path / "plain", *words)
    assert all("score_std" not in found for entry in plain for found in entry["detections"])


def test_the_network_is_compiled_for_the_batches_that_come(checkpoint, pictures, tmp_path, monkeypatch, capsys):
    compiled, no_camera = [], cv2.VideoCapture()
    monkeypatch.setattr("ssdnorm.cli.predictors.compile_for_inference", lambda model, x: compiled.append(len(x)))
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: no_camera)
    words = ("--checkpoint", checkpoint, "--output", tmp_path / "out", "--compile")
    assert predict(*words, pictures) == 0
    assert predict(*words, 0) == 2
    assert "camera 0: OpenCV cannot open it" in capsys.readouterr().err
    assert compiled == [8, 1]


@pytest.mark.slow
def test_the_compiled_network_finds_the_same(pictures, tmp_path):
    path = tmp_path / "model.safetensors"
    model = ssd300_vgg16(3, width=0.02, dropout=0)
    save_checkpoint(path, model, class_names=["cat", "dog"], post_process={})
    words = ("--checkpoint", path, "--score-threshold", "0.05", pictures)
    listed = [entries_of(tmp_path / "plain", *words), entries_of(tmp_path / "compiled", "--compile", *words)]
    found = [[f["score"] for entry in entries for f in entry["detections"]] for entries in listed]
    assert len(found[0]) > 20
    assert found[0][:20] == pytest.approx(found[1][:20], abs=1e-3)  # later a suppression may go the other way
