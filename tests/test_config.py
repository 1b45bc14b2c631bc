"""The config: every file of configs/, every kind of mistake."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ssdnorm.build import build_model, check_model
from ssdnorm.config_file import config_from_mapping, config_to_mapping, config_to_yaml, differing_keys, read_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
CONFIGS = [path for path in CONFIGS if not path.stem.startswith("compare_")]  # see tests/compare/test_plan.py
SHAPES = {
    "train": {"format": "shapes", "num_images": 9, "seed": 1},
    "test": {"format": "shapes", "num_images": 4, "seed": 2},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"data": SHAPES}))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_complete_and_builds(path):
    config = read_config(path)
    check_model(config)
    with torch.device("meta"):
        assert build_model(replace(config, model=replace(config.model, weights=None)), 4).spec.num_boxes in (
            8732,
            24564,
        )
    written = yaml.safe_load(path.read_text())
    complete = config_to_mapping(config)
    missing = [key for key in differing_keys(written, complete) if not key.startswith("data.") or key == "data"]
    assert not missing, "keys that the file leaves out, or writes in another way"


@pytest.mark.parametrize("path", [p for p in CONFIGS if not p.stem.endswith("l2norm")], ids=lambda path: path.stem)
def test_siblings_differ_only_under_norm_or_in_the_dropout(path):
    base = next(
        (
            p
            for p in CONFIGS
            if p.stem.endswith("l2norm") and p.stem.removesuffix("l2norm") == path.stem[: len(p.stem) - 6]
        ),
        None,
    )
    if base is None:
        pytest.skip("has no siblings")
    keys = differing_keys(yaml.safe_load(base.read_text()), yaml.safe_load(path.read_text()))
    allowed = ("model.dropout",) if "dropout" in path.stem else ("norm.",)
    assert keys
    assert all(key.startswith(allowed) for key in keys), keys


def test_a_config_survives_being_written_and_read(file):
    config = read_config(file, ["--norm.extras", "{kind: group_norm, groups: 4}", "--optimizer.lr=3e-4"])
    again = config_from_mapping(yaml.safe_load(config_to_yaml(config)), where="again")
    assert again == config
    assert config.optimizer.lr == 3e-4
    assert config.norm.extras == {"kind": "group_norm", "groups": 4}


def test_numbers_in_yaml_may_be_written_with_an_exponent(file):
    file.write_text(yaml.safe_dump({"data": SHAPES}) + "optimizer: {lr: 1e-3}\n")
    assert read_config(file).optimizer.lr == 1e-3


def test_an_override_of_one_tap_keeps_the_others(file):
    config = read_config(file, ["--norm.taps.fc7", "batch_norm"])
    assert config.norm.taps == {"conv4_3": "l2_norm", "fc7": "batch_norm"}


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        (["--norm.taps", "{}"], "taps", {}),
        (["--norm.taps", "{fc7: l2_norm}"], "taps", {"fc7": "l2_norm"}),
        (["--norm", "{taps: {fc7: l2_norm}}"], "taps", {"fc7": "l2_norm"}),
        (["--norm.taps", "{}", "--norm.taps.fc7", "l2_norm"], "taps", {"fc7": "l2_norm"}),
        (["--norm.taps.fc7", "l2_norm", "--norm.taps", "{}"], "taps", {}),
        (["--norm.taps.fc7", "l2_norm", "--norm.taps.fc7", "none"], "taps", {"conv4_3": "l2_norm", "fc7": "none"}),
        (["--norm", "{backbone: batch_norm}"], "taps", {"conv4_3": "l2_norm"}),
        (["--norm", "{backbone: batch_norm}"], "backbone", "batch_norm"),
    ],
)
def test_a_map_of_taps_is_taken_whole_and_a_section_key_by_key(file, words, key, expected):
    assert getattr(read_config(file, words).norm, key) == expected


def test_a_map_of_dropouts_is_taken_whole_too(file):
    words = ["--model.dropout", "{fc6: .3}", "--model.dropout", "{fc7: .1}"]
    assert read_config(file, words).model.dropout == {"fc7": 0.1}
    assert read_config(file, [*words, "--model.dropout.fc6", "0.2"]).model.dropout == {"fc7": 0.1, "fc6": 0.2}


def test_a_norm_with_options_replaces_the_other_norms_options(file):
    file.write_text(yaml.safe_dump({"data": SHAPES, "norm": {"backbone": {"kind": "group_norm", "groups": 4}}}))
    config = read_config(file, ["--norm.backbone", "{kind: batch_norm, momentum: 0.01}"])
    assert config.norm.backbone == {"kind": "batch_norm", "momentum": 0.01}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--norm.bakbone", "none"], r"command line: norm.bakbone: unknown key.*Did you mean 'norm.backbone'\?"),
        (["--training.max_step", "3"], r"unknown key.*Did you mean 'training.max_steps'\?"),
        (["--training.max_steps", "many"], r"training.max_steps.*Expected a <class 'int'>. Got value: many"),
        (["--training.seed", "-1"], r"training\.seed: must lie in \[0, 2147483648\); got -1"),
        (["--training.seed", "2147483648"], r"training\.seed: must lie in"),
        (["--data.train.seed", "-3"], r"data\.train\.seed: must lie in"),
        (["--training.max_steps", "null"], r"training\.max_steps: a value is needed; got null"),
        (["--norm.taps", "null"], r"norm\.taps: a value is needed; got null"),
        (["--norm.taps", "{4: none}"], r"norm\.taps: a tap has a name, such as conv4_3; got 4"),
        (["--norm.backbone", "{a"], r"--norm\.backbone: not readable as YAML"),
        (["--optimizer.lr", ".inf"], r"optimizer\.lr: must be finite; got inf"),
        (["--optimizer.weight_decay", ".nan"], r"optimizer\.weight_decay: must be finite; got nan"),
        (["--model.dropout", "{fc6: .nan}"], r"model\.dropout\.fc6: must be finite"),
        (["--runtime.devices", "0"], r"runtime\.devices: must be 1 or more, or auto; got 0"),
        (["--training.precision", "fp8"], r"training.precision.*'bf16-mixed'"),
        (["--training.max_steps", "0"], r"training.max_steps: must be above 0; got 0"),
        (["--runtime.cache_images", "0"], r"runtime.cache_images: must be above 0; got 0"),
        (["--optimizer.momentum", "1"], r"optimizer.momentum: must lie in \[0, 1\); got 1"),
        (["--optimizer.lr_drops", "[50, 40]"], r"optimizer.lr_drops: must be rising steps"),
        (["--optimizer.lr_drops", "[50]", "--training.max_steps", "50"], r"reaches past training.max_steps 50"),
        (["--data.train.root", "x"], r"data.train.root: not a key of format shapes"),
        (["--data.test.format", "voc"], r"data.test.root: needed by format voc"),
        (["norm"], r"expected --key value; got 'norm'"),
        (["--norm.backbone"], r"--norm.backbone: a value is missing"),
        (["--model", "big"], r"model: expected keys and values; got 'big'"),
    ],
)
def test_a_mistake_is_refused_with_its_key(file, words, message):
    with pytest.raises(ValueError, match=message):
        read_config(file, words)


def test_a_missing_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such config file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("norm: {backbone: [")
    with pytest.raises(ValueError, match=r"broken.yaml: not readable as YAML"):
        read_config(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--norm.backbone", "batchnorm"],
            r"norm.backbone: unknown norm 'batchnorm'; choose one of: .*Did you mean 'batch_norm'\?",
        ),
        (["--norm.taps", "{conv4_4: l2_norm}"], r"norm.taps: unknown tap 'conv4_4'.*Did you mean 'conv4_3'\?"),
        (
            ["--norm.extras", "{kind: group_norm, group: 4}"],
            r"norm.extras: group_norm: unknown option 'group'.*Did you mean 'groups'\?",
        ),
        (["--norm.backbone", "{kind: group_norm, groups: 48}"], r"norm.backbone.*48"),
        (["--model.default_boxes", "ssd300"], r"model.default_boxes: unknown default boxes 'ssd300'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_before_any_data_is_read(file, words, message):
    with pytest.raises(ValueError, match=message):
        check_model(read_config(file, words))


@pytest.mark.parametrize(("words", "decay"), [([], 5e-4), (["--optimizer.weight_decay", "1e-4"], 1e-4)])
def test_caffes_preset_follows_a_weight_decay_of_the_command_line(file, words, decay):
    file.write_text(yaml.safe_dump({"data": SHAPES, "optimizer": {"preset": "caffe", "weight_decay": 5e-4}}))
    config = read_config(file, words)
    assert (config.optimizer.weight_decay, config.optimizer.norms.weight_decay) == (decay, decay)
