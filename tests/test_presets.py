"""The optimizer's presets: what they stand for, that they are written out, and what contradicts them."""

import pytest
import yaml

from ssdnorm.build import build_model, build_optimizer
from ssdnorm.config import GroupConfig
from ssdnorm.config_file import config_to_mapping, read_config
from ssdnorm.engine.optimizer import describe_groups

SHAPES = {side: {"format": "shapes", "num_images": 2, "seed": 0} for side in ("train", "test")}
CAFFE = (GroupConfig(1.0, 5e-4), GroupConfig(2.0, 0.0))
MODERN = (GroupConfig(1.0, 0.0), GroupConfig(1.0, 0.0))


def read(tmp_path, optimizer, *words):
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump({"data": SHAPES, "optimizer": optimizer, "model": {"width": 0.02}}))
    return read_config(path, words)


@pytest.mark.parametrize(("preset", "groups"), [("caffe", CAFFE), ("modern", MODERN)])
def test_a_preset_is_written_out_from_the_file_and_from_the_command_line(tmp_path, preset, groups):
    full = {"norms": {"lr_factor": 3.0, "weight_decay": 3.0}, "biases": {"lr_factor": 3.0, "weight_decay": 3.0}}
    for config in (read(tmp_path, {"preset": preset}), read(tmp_path, full, "--optimizer.preset", preset)):
        assert (config.optimizer.norms, config.optimizer.biases) == groups
        assert config_to_mapping(config)["optimizer"]["preset"] is None


def test_caffes_preset_decays_norms_like_the_weights(tmp_path):
    assert read(tmp_path, {"preset": "caffe", "weight_decay": 0.03}).optimizer.norms.weight_decay == 0.03
    words = ("--optimizer.preset", "caffe")
    assert read(tmp_path, {"weight_decay": 0.04}, *words).optimizer.norms.weight_decay == 0.04


def test_the_default_is_caffes_choice(tmp_path):
    assert read(tmp_path, {}).optimizer == read(tmp_path, {"preset": "caffe"}).optimizer


def test_groups_have_the_presets_rates_and_decays(tmp_path):
    config = read(tmp_path, {"preset": "modern", "lr": 0.1})
    rows = {row["group"]: row for row in describe_groups(build_optimizer(config, build_model(config, 3)))}
    assert {name: (row["lr"], row["weight_decay"]) for name, row in rows.items()} == {
        "weights": (0.1, 5e-4),
        "norms": (0.1, 0.0),
        "biases": (0.1, 0.0),
    }


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"preset": "cafe"}, r"optimizer\.preset: unknown preset 'cafe'; choose one of: caffe, modern, null"),
        ({"preset": "modern", "norms": {"lr_factor": 1.0, "weight_decay": 0.1}},
         r"optimizer\.norms: .*0\.1.* contradicts optimizer\.preset modern, which stands for .*; leave one of the two"),
    ],
)  # fmt: skip
def test_an_unknown_preset_and_a_contradiction_are_refused(tmp_path, optimizer, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, optimizer)
