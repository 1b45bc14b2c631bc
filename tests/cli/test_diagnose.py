"""The diagnose command: what it writes, what it compares, what it refuses."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from ssdnorm import ssd300_vgg16
from ssdnorm.cli import diagnose_sources, main
from ssdnorm.models.checkpoint import save_checkpoint

from .small_evaluations import SHAPES, TINY

CONFIG = TINY | {
    "norm": {"backbone": "none", "extras": "none", "taps": {"conv4_3": {"kind": "l2_norm", "scale": 20.0}}}
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    (folder / "photos").mkdir()
    for i in range(5):
        Image.effect_noise((80, 60), 90).convert("RGB").save(folder / "photos" / f"{i}.png")
    (folder / "photos" / "damaged.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    norms = {**CONFIG, "norm": {"backbone": "batch_norm", "extras": "none", "taps": {"conv4_3": "none"}}}
    (folder / "batch_norm.yaml").write_text(yaml.safe_dump(norms))
    model = ssd300_vgg16(6, width=0.02, tap_norms={"conv4_3": {"kind": "l2_norm", "scale": 10.0}}, seed=3)
    model.features.tap_norms["conv4_3"].weight.data[0] = 4.0
    save_checkpoint(folder / "model.safetensors", model, class_names=SHAPES, post_process={})
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def read(output):
    return json.loads((output / "diagnostics.json").read_text())


def test_an_npz_is_a_backbone_only_if_its_tensors_are_no_ssds(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnose_sources, "load_detector", lambda path, **_: "an SSD")
    monkeypatch.setattr(diagnose_sources, "_new_detector", lambda config, path, **_: "a backbone")
    for name, expected in (("extractor/norm4/scale", "an SSD"), ("conv1_1.weight", "a backbone")):
        np.savez(tmp_path / "x.npz", **{name: np.ones(3, np.float32)})
        assert diagnose_sources._load_arm(tmp_path / "x.npz", (), class_names=None) == ("x", expected)


def test_a_checkpoint_is_measured_on_pictures_and_unreadable_ones_are_named(tmp_path, capsys):
    words = ["--checkpoint", "model.safetensors", "--images", "photos", "--batch-size", "2", "--output", str(tmp_path)]
    assert main(["diagnose", *words]) == 0
    out, err = capsys.readouterr()
    record = read(tmp_path)
    assert len(record["images"]) == 5
    assert "not read: photos/damaged.jpg: not an image that can be read" in err
    arm = record["arms"]["model"]
    assert arm["num_images"] == 5
    assert arm["activations"]["conv4_3"]["channels"] == 8
    assert arm["gradients"] == {}
    assert arm["scales"]["conv4_3"] == [4.0, *[10.0] * 7]
    histogram = arm["activations"]["conv11_2"]["histogram"]
    assert sum(histogram["counts"]) + histogram["zeros"] == 5
    assert "conv4_3              10    9.250" in out
    assert {p.name for p in tmp_path.glob("*.png")} == {"lengths.png", "depth.png", "scales.png"}


def test_a_fresh_model_is_measured_on_its_data_with_gradients_beside_a_checkpoint(tmp_path, capsys):
    words = ["--config", "tiny.yaml", "--against", "model.safetensors", "--num-images", "3"]
    assert main(["diagnose", *words, "--model.dropout", "0", "--output", str(tmp_path)]) == 0
    arms = read(tmp_path)["arms"]
    assert list(arms) == ["tiny (drawn)", "model"]
    for arm in arms.values():
        assert arm["num_images"] == 3
        assert set(arm["gradients"]) == set(arm["activations"])
        assert arm["gradients"]["conv4_3"]["length_mean"] > 0
    quantiles = arms["tiny (drawn)"]["activations"]["tap conv4_3"]["length_quantiles"]
    assert quantiles["0.95"] == pytest.approx(20, rel=1e-5)
    assert "tap norm        initial" in capsys.readouterr().out


def test_batch_norm_is_reported_with_ap_under_each_statistics_and_advice_and_an_arm_without_it_named(tmp_path, capsys):
    words = ["--config", "batch_norm.yaml", "--against", "model.safetensors", "--batch-norm", "--batch-size", "2"]
    assert (
        main(["diagnose", *words, "--data.test.num_images", "4", "--layers", "conv1_1", "--output", str(tmp_path)]) == 0
    )
    out = capsys.readouterr().out
    arms = read(tmp_path)["arms"]
    report = arms["batch_norm (drawn)"]["batch_norm"]
    assert set(report["metrics"]) == {"batch", "running", "population"}
    assert len(report["layers"]) == 15
    assert "advice: the running statistics of features.backbone.conv1_1.norm" in out
    assert (tmp_path / "batch_norm.png").exists()
    assert list(arms["batch_norm (drawn)"]["activations"]) == ["conv1_1"]
    assert "model: no batch norm with running statistics" in out
    assert "batch_norm" not in arms["model"]


def test_vgg16s_weights_make_conv4_3_long(real_data, tmp_path):
    words = ["--weights", str(real_data("vgg16_conv_fp16.npz")), "--images", "photos", "--num-images", "1"]
    assert main(["diagnose", *words, "--layers", "conv4_3", "tap conv4_3", "conv5_3", "--output", str(tmp_path)]) == 0
    rows = read(tmp_path)["arms"]["vgg16_conv_fp16"]["activations"]
    assert rows["conv4_3"]["length_mean"] > 5 * rows["conv5_3"]["length_mean"]
    assert rows["tap conv4_3"]["length_mean"] == pytest.approx(20, rel=1e-3)
