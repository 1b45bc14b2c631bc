"""A network of any input size, from the config to its checkpoint and its exported file."""

import json

import pytest
from PIL import Image

from ssdnorm import load_detector
from ssdnorm.cli import main
from ssdnorm.config_file import merge_config
from ssdnorm.models.checkpoint import save_checkpoint
from ssdnorm.models.ssd import ssd_vgg16
from tests.small_training import tiny, train

BOXES = {"sizes": [8, 20, 40, 60, 90], "aspect_ratios": [[2], [2, 3], [1.5], [2]]}


def test_input_size_and_default_boxes_travel_from_the_config_to_the_checkpoint(tmp_path):
    network = {"name": "ssd_vgg16", "image_size": [64, 96], "default_boxes": BOXES}
    assert train(tmp_path / "run", model={"width": 0.02, "dropout": 0.0, **network}) == 0
    model = load_detector(tmp_path / "run" / "checkpoints" / "model.safetensors").model
    assert (model.image_size, model.spec.num_boxes) == ((64, 96), 560)
    spec = model.spec
    assert (spec.steps[:2], spec.min_sizes, spec.aspect_ratios[2]) == ((8, 16), (8, 20, 40, 60), (1.5,))


@pytest.mark.slow
def test_a_rectangular_network_and_its_exported_file_find_the_same(tmp_path):
    checkpoint, onnx = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    save_checkpoint(checkpoint, ssd_vgg16(3, (64, 96), width=0.02), class_names=["a", "b"], post_process={})
    assert main(["export", "--checkpoint", str(checkpoint), "--output", str(onnx)]) == 0
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "a.png")
    found = []
    for option, file in (("checkpoint", checkpoint), ("onnx", onnx)):
        out = tmp_path / option
        words = ["predict", f"--{option}", str(file), "--output", str(out), "--score-threshold", "0.1"]
        assert main([*words, str(tmp_path / "a.png")]) == 0
        (entry,) = json.loads((out / "detections.json").read_text())
        found.append([value for one in entry["detections"] for value in (one["score"], *one["bbox"])])
    assert found[0], "an untrained network finds something everywhere"
    assert found[1] == pytest.approx(found[0], abs=1e-2)


def test_the_papers_networks_may_say_their_size():
    assert merge_config(("test", tiny(model={"image_size": [300, 300]}))).model.input_size == [300, 300]
    assert merge_config(("test", tiny())).model.input_size == 300
