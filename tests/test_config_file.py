"""Reading configs: by path and by name, overrides on top, and back to YAML."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from ssdnorm.config_file import (
    SHIPPED,
    config_to_yaml,
    differing_keys,
    find_config,
    merge_config,
    parse_overrides,
    put,
    read_config,
)
from ssdnorm.yaml_files import parse_yaml
from tests.small_training import ROOT, SHAPES


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"data": SHAPES}))
    return path


def test_a_config_survives_being_written_and_read(file):
    file.write_text(yaml.safe_dump({"data": SHAPES}) + "loss: {negative_ratio: 1e1}\n")  # a string by YAML 1.1
    config = read_config(file, ["--norm.extras", "{kind: group_norm, groups: 4}", "--optimizer.lr=3e-4"])
    assert merge_config(("again", yaml.safe_load(config_to_yaml(config)))) == config
    assert (config.optimizer.lr, config.loss.negative_ratio) == (3e-4, 10.0)
    assert config.norm.extras == {"kind": "group_norm", "groups": 4}


@pytest.mark.parametrize(
    ("arguments", "taps"),
    [
        (["--norm.taps.fc7", "batch_norm"], {"conv4_3": "l2_norm", "fc7": "batch_norm"}),
        (["--norm.taps", "{}"], {}),
        (["--norm.taps", "{fc7: l2_norm}"], {"fc7": "l2_norm"}),
        (["--norm", "{taps: {fc7: l2_norm}}"], {"fc7": "l2_norm"}),
        (["--norm.taps", "{}", "--norm.taps.fc7", "l2_norm"], {"fc7": "l2_norm"}),
        (["--norm.taps.fc7", "l2_norm", "--norm.taps", "{}"], {}),
        (["--norm", "batch_norm"], {"conv4_3": "none"}),
        (["--norm", "batch_norm", "--norm.taps.fc7", "l2_norm"], {"conv4_3": "none", "fc7": "l2_norm"}),
        (["--norm.taps.fc7", "l2_norm", "--norm", "none"], {"conv4_3": "none"}),
    ],
)
def test_a_map_of_taps_is_taken_whole_and_a_section_key_by_key(file, arguments, taps):
    norm = read_config(file, arguments).norm
    assert norm.taps == taps
    assert norm.backbone == ("batch_norm" if "batch_norm" in arguments[1] and arguments[0] == "--norm" else "none")


def test_a_map_of_dropouts_is_taken_whole_too(file):
    arguments = ["--model.dropout", "{fc6: .3}", "--model.dropout", "{fc7: .1}"]
    assert read_config(file, arguments).model.dropout == {"fc7": 0.1}
    assert read_config(file, [*arguments, "--model.dropout.fc6", "0.2"]).model.dropout == {"fc7": 0.1, "fc6": 0.2}


def test_a_norm_with_options_replaces_the_other_norms_options(file):
    file.write_text(yaml.safe_dump({"data": SHAPES, "norm": {"backbone": {"kind": "group_norm", "groups": 4}}}))
    config = read_config(file, ["--norm.backbone", "{kind: batch_norm, momentum: 0.01}"])
    assert config.norm.backbone == {"kind": "batch_norm", "momentum": 0.01}


def test_a_recipe_may_name_a_norm_preset_or_its_file(file, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("{backbone: l2_norm, extras: none, taps: {}}")
    for norm, backbone in (("batch_norm", "batch_norm"), (str(mine), "l2_norm")):
        file.write_text(yaml.safe_dump({"data": SHAPES, "norm": norm}))
        assert read_config(file).norm.backbone == backbone
        assert read_config(file, ["--norm.backbone", "none"]).norm.backbone == "none"


def test_overrides_leave_the_mappings_that_they_came_from_alone():
    changes = parse_overrides(["--norm.taps", "{fc7: none}"])
    put({}, changes)["norm"]["taps"]["conv4_3"] = "none"
    assert changes == {"norm.taps": {"fc7": "none"}}


def test_differing_keys_are_found_at_any_depth_and_a_null_is_a_missing_key():
    a = {"x": {"y": 1, "z": None}, "only_a": 2}
    assert differing_keys(a, {"x": {"y": 3}, "only_b": 0}) == ["x.y", "only_a", "only_b"]


def test_a_config_is_found_by_path_and_by_name(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("x.yaml") == Path("x.yaml")
    assert find_config("bccd") == SHIPPED / "bccd.yaml"
    assert find_config("compare_bccd", "comparison") == SHIPPED / "compare_bccd.yaml"
    assert find_config("group_norm", "norm preset") == SHIPPED / "norms" / "group_norm.yaml"


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        (
            "bcd",
            "recipe",
            r"bcd: no such config file or recipe; .*: bccd, bccd_small, coco2017, .*\. Did you mean 'bccd'\?",
        ),
        ("compare_bccd", "recipe", r"no such config file or recipe"),
        ("bccd", "comparison", r"the shipped ones are: compare_batch_size, compare_bccd, "),
        ("bccd.yaml", "recipe", r"bccd\.yaml: no such config file$"),
        ("x" * 5000, "recipe", r"^x{500}: no such config file or recipe"),
        ("there/bccd", "recipe", r"there/bccd: no such config file$"),
    ],
)
def test_a_missing_config_is_refused_with_the_names_that_there_are(tmp_path, monkeypatch, path, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        find_config(path, kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("norm: {backbone: [", r"x\.yaml: not readable as YAML"),
        ("norm: {}\nnorm: {}", r"x\.yaml: not readable as YAML: the key 'norm' is given twice.*line"),
        ("norm: " + "[" * 5000, r"x\.yaml: not readable as YAML: nested too deeply"),
        ("data: &a [*a]", r"x\.yaml: stands for more than 100,000 values, its aliases written out"),
        ("data: 2001-99-99", r"x\.yaml: month must be in 1\.\.12"),
        ("\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
                   + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]),
         r"x\.yaml: stands for more than 100,000 values, its aliases written out"),
        ("[norm]", r"x\.yaml: expected keys and values; got \['norm'\]"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused(file, text, message):
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(file)


@pytest.mark.slow
def test_a_wheel_holds_every_config(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ssdnorm/configs/")}
    files = {path.relative_to(ROOT).as_posix() for path in SHIPPED.rglob("*") if path.suffix in (".yaml", ".json")}
    assert names == {f"ssdnorm/{name}" for name in files}


def test_a_mapping_that_is_merged_keeps_its_keys_and_merges_that_multiply_are_refused():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}"
    assert parse_yaml(text, where="here")["b"] == {"x": 1, "y": 3}
    assert parse_yaml(text, where="here")["c"] == {"x": 1, "y": 2, "z": 4}
    levels = (f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 8)}]}}" for i in range(9))
    with pytest.raises(ValueError, match="here: merges more than 100,000 values"):
        parse_yaml("\n".join(["a0: &a0 {k: 1}", *levels]), where="here")
