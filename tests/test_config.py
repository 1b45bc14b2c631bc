"""The config: shipped files, files by path and name, overrides on top, every kind of mistake, the JSON schemas."""

import json
from pathlib import Path

import pytest
import yaml

from ssdnorm.build import build_model, build_optimizer, check_model
from ssdnorm.cli.schema import schemas
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
from ssdnorm.engine.optimizer import describe_groups
from ssdnorm.settle import in_steps
from ssdnorm.yaml_files import parse_yaml
from tests.small_training import SHAPES

FILES = sorted(SHIPPED.rglob("*.yaml"))
RECIPES = [path for path in FILES if path.parent == SHIPPED and not path.stem.startswith("compare_")]
PRESETS = [path for path in FILES if path.parent != SHIPPED]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"data": SHAPES}))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_complete_and_builds(path):
    config = read_config(path)
    check_model(config)
    written = yaml.safe_load(path.read_text())
    missing = differing_keys(written, config.model_dump())
    assert not missing, "keys that the file leaves out, or writes in another way"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_norm_preset_is_complete_and_builds(path):
    config = read_config("voc0712", ["--norm", path.stem])
    check_model(config)
    assert config.model_dump()["norm"] == yaml.safe_load(path.read_text())


def test_every_shipped_schema_is_the_models_own_and_every_config_names_it():
    for name, schema in schemas().items():
        assert json.loads((SHIPPED / name).read_text(encoding="utf-8")) == schema, (
            "run: ssdnorm schema --output configs"
        )
    for path in FILES:
        name = "compare_schema.json" if path.stem.startswith("compare_") else "schema.json"
        assert path.read_text().splitlines()[0] == f"# yaml-language-server: $schema={name}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norm.bakbone", "none"], r"command line: norm\.bakbone: unknown key; .*Did you mean 'norm\.backbone'\?"),
        (["--training.max_step", "3"], r"training\.max_step: unknown key.*Did you mean 'training\.max_steps'\?"),
        (["--training.max_steps", "many"], r"training\.max_steps: must be a valid integer; got 'many'"),
        (["--runtime.num_workers", "100000"], r"runtime\.num_workers: must be less than or equal to 1024; got 100000"),
        (["--runtime.devices", "999999999999"], r"runtime\.devices: must be less than or equal to 1024 or 'auto'"),
        (["--runtime.num_nodes", "999999999999"], r"runtime\.num_nodes: must be less than or equal to 10000"),
        (["--training.batch_size", "1000000"], r"training\.batch_size: must be less than or equal to 65536"),
        (["--training.seed", "-1"], r"training\.seed: must be greater than or equal to 0; got -1"),
        (["--norm.taps", "null"], r"norm\.taps: must be a mapping; got null"),
        (["--norm.taps", "{4: none}"], r"norm\.taps\.4: must be a valid string; got 4"),
        (["--norm.backbone", "4"], r"norm\.backbone: must be a valid string or a mapping; got 4"),
        (["--norm.backbone", "{kind: batch_norm, eps: .nan}"], r"norm\.backbone: eps: must be finite; got nan"),
        (["--norm.backbone", "{a"], r"command line: --norm\.backbone: not readable as YAML"),
        (["--norm", "batchnorm"], r"command line: norm: batchnorm: .*Did you mean 'batch_norm'\?"),
        (["--optimizer.lr", ".inf"], r"optimizer\.lr: must be a finite number; got inf"),
        (["--optimizer.lr", "0"], r"optimizer\.lr: must be greater than 0; got 0"),
        (["--loss.iou_threshold", "1.5"], r"loss\.iou_threshold: must be less than or equal to 1; got 1\.5"),
        (["--loss.negative_ratio", "-1"], r"loss\.negative_ratio: must be greater than or equal to 0; got -1"),
        (["--post_process.score_threshold", "1"], r"post_process\.score_threshold: must be less than 1; got 1"),
        (["--post_process.nms_threshold", "2"], r"post_process\.nms_threshold: must be less than or equal to 1"),
        (["--post_process.top_k", "0"], r"post_process\.top_k: must be greater than or equal to 1; got 0"),
        (["--post_process.max_detections", "-3"], r"post_process\.max_detections: must be greater than or equal to 1"),
        (["--model.dropout", "{fc6: .nan}"], r"model\.dropout\.fc6: must be a finite number; got nan"),
        (["--model.head", "fresh"], r"command line: model: head: fresh changes the head of a checkpoint"),
        (["--model.checkpoint", "a", "--model.weights", "b"], r"model: a checkpoint contains its backbone"),
        (["--runtime.devices", "0"], r"runtime\.devices: must be greater than 0 or 'auto'; got 0"),
        (["--training.precision", "bf16"], r"'16-mixed' or 'auto'; got 'bf16'.*mean 'bf16-mixed'\?"),
        (["--optimizer.lr_drops", "[50, 40]"], r"optimizer\.lr_drops: must be rising steps above 0, .*got \[50, 40\]"),
        (["--optimizer.lr_drops", "[0.5, 1.5]"], r"optimizer\.lr_drops: must be rising .* shares between 0 and 1; got"),
        (["--optimizer.lr_drops", "[0.5, 40]"], r"optimizer\.lr_drops: must be rising .* shares between 0 and 1; got"),
        (["--optimizer.warmup_steps", "1.5"], r"optimizer\.warmup_steps: must be .*less than 1; got 1\.5"),
        (["--training.eval_every", "1.0"], r"training\.eval_every: must be .*less than 1; got 1\.0"),
        (["--training.epochs", "0"], r"training\.epochs: must be greater than 0; got 0"),
        (["--training", "{epochs: 2, max_steps: 9}"], r"training: give one of max_steps and epochs, .*got max_steps 9"),
        (["--training.max_steps", "null"], r"training: give one of .*got max_steps None, epochs None"),
        (["--optimizer.lr_drops", "[50]", "--training.max_steps", "50"], r"reaches past training\.max_steps 50"),
        (["--data.train.root", "x"], r"data\.train\.root: unknown key of format shapes; choose one of: class_"),
        (["--data.validation", "{root: x}"], r"data\.validation\.split: is missing"),
        (["--data.train.format", "coc"], r"data\.train\.format: must be .*; got 'coc'\. Did you mean 'coco'\?"),
        (["--data.train.only", "[a, 1]", "--data.train.format", "voc"], r"data\.train\.num_images: unknown key of for"),
        (["--model.default_boxes.sizes", "[2e6]"], r"model\.default_boxes\.sizes\.0: must be less than or equal to 10"),
        (["--model.default_boxes.aspect_ratios", "[[2e6]]"], r"model\.default_boxes\.aspect_ratios\.0.*: must be less"),
        (["--model.default_boxes.steps", "[2e6]"], r"model\.default_boxes\.steps\.0.*: must be less than or"),
        (["--model.default_boxes", "{size: [1]}"], r"model\.default_boxes\.size: unknown key; .* mean '.*sizes'"),
        (["--model.default_boxes.sizes", "[-1]"], r"model\.default_boxes\.sizes.*: must be greater than 0; got -1"),
        (["--model.image_size", "160"], r"model: image_size: ssd300_vgg16 takes 300; got 160\. For other sizes set"),
        (["--model.name", "ssd_vgg16"], r"model: image_size: ssd_vgg16 takes any size; choose one"),
        (["--model.image_size", "[160, 96, 64]"], r"image_size: expected a side, or \[height, width\]; got"),
        (["--model.image_size", "31"], r"model\.image_size: must be greater than or equal to 32 or a valid list"),
        (["--model.image_size", "big"], r"model\.image_size: must be .*; got 'big'"),
        (["norm"], r"expected --key value; got 'norm'"),
        (["--norm.backbone"], r"--norm\.backbone: a value is missing"),
        (["--model", "big"], r"model: must be a mapping; got 'big'"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_key(file, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_config(file, arguments)
    assert "\n" not in str(caught.value)


def test_epochs_and_shares_become_steps_and_the_longer_run_needs_no_other_key(file):
    optimizer = {"lr_drops": [0.7, 0.9], "warmup_steps": 0.05}
    file.write_text(yaml.safe_dump({"data": SHAPES, "optimizer": optimizer, "training": {"epochs": 10.0}}))
    words = ["--training.eval_every", "0.25"]
    for changes, length in (([], 40), (["--training.epochs", "20"], 80), (["--training.max_steps", "200"], 200)):
        config = in_steps(read_config(file, [*words, *changes]), 8, 32)
        training, o = config.training, config.optimizer
        assert (training.max_steps, training.epochs, training.eval_every) == (length, None, length // 4)
        assert (o.warmup_steps, o.lr_drops) == (length // 20, [length * 7 // 10, length * 9 // 10])
    assert in_steps(read_config(file, ["--training.epochs", "0.1"]), 8, 32).training.max_steps == 1
    plain = read_config("bccd")
    assert in_steps(plain, 8, 32) == plain
    with pytest.raises(ValueError, match=r"optimizer\.lr_drops: \[20\] reaches past the 20 steps"):
        in_steps(read_config(file, ["--optimizer.lr_drops", "[20]", "--training.epochs", "5"]), 8, 32)


def test_a_mistake_in_a_file_is_told_with_the_file(file):
    file.write_text(yaml.safe_dump({"data": SHAPES, "training": {"seed": -1}}))
    with pytest.raises(ValueError, match=r"x\.yaml: training\.seed: must be"):
        read_config(file, ["--norm.backbone", "none"])
    file.write_text("norm: {}\n")
    with pytest.raises(ValueError, match=r"x\.yaml: data: is missing"):
        read_config(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norm.backbone", "batchnorm"], r"norm.backbone: unknown norm 'batchnorm'.*Did you mean 'batch_norm'\?"),
        (["--norm.taps", "{conv4_4: l2_norm}"], r"norm.taps: unknown tap 'conv4_4'.*Did you mean 'conv4_3'\?"),
        (["--norm.extras", "{kind: group_norm, group: 4}"], r"norm.extras: group_norm: unknown option 'group'"),
        (["--norm.backbone", "{kind: group_norm, groups: 48}"], r"norm.backbone.*48"),
        (["--model.default_boxes", "ssd300"], r"model.default_boxes: unknown default boxes 'ssd300'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_before_any_data_is_read(file, arguments, message):
    with pytest.raises(ValueError, match=message):
        check_model(read_config(file, arguments))


def test_a_source_may_hold_nulls_for_the_keys_of_other_formats_as_old_run_folders_do():
    nulls = dict.fromkeys(("root", "split", "annotations", "images", "only"))
    old = merge_config(("old", {"data": {name: {**nulls, **SHAPES[name]} for name in SHAPES}}))
    assert old == merge_config(("new", {"data": SHAPES}))
    voc = {"root": "a", "split": ["b"], "annotations": None, "num_images": None, "seed": None}
    assert merge_config(("old", {"data": {"train": voc, "test": voc}})).data.train.format == "voc"


def test_parameter_groups_have_the_rates_and_decays_of_the_config(file):
    optimizer = (
        "{lr: 0.1, momentum: 0.8, norms: {lr_factor: 3, weight_decay: 0.2}, biases: {lr_factor: 1, weight_decay: 0.0}}"
    )
    config = read_config(file, ["--optimizer", optimizer, "--model.width", "0.02"])
    built = build_optimizer(config, build_model(config, 3))
    assert built.defaults["momentum"] == 0.8
    rows = {row["group"]: row for row in describe_groups(built)}
    assert {name: (row["lr"], row["weight_decay"]) for name, row in rows.items()} == {
        "weights": (0.1, 5e-4), "norms": (pytest.approx(0.3), 0.2), "biases": (0.1, 0.0),
    }  # fmt: skip


def test_a_parameter_group_that_is_given_in_part_keeps_its_other_default():
    groups = {"norms": {"lr_factor": 2.0}, "biases": {"weight_decay": 0.1}}
    optimizer = merge_config(("mine", {"data": SHAPES, "optimizer": groups})).optimizer
    assert (optimizer.norms.weight_decay, optimizer.biases.lr_factor) == (5e-4, 2.0)


def test_a_preset_of_earlier_versions_is_an_unknown_key_unless_it_is_null_as_in_their_run_folders(file):
    assert read_config(file, ["--optimizer.preset", "null"]) == read_config(file)
    with pytest.raises(ValueError, match=r"command line: optimizer\.preset: unknown key; choose one of: biases, "):
        read_config(file, ["--optimizer.preset", "modern"])


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


def test_dropouts_and_a_norm_with_options_are_taken_whole_too(file):
    file.write_text(yaml.safe_dump({"data": SHAPES, "norm": {"backbone": {"kind": "group_norm", "groups": 4}}}))
    arguments = ["--norm.backbone", "{kind: batch_norm, momentum: 0.01}", "--model.dropout", "{fc6: .3}"]
    config = read_config(file, [*arguments, "--model.dropout", "{fc7: .1}"])
    assert (config.norm.backbone, config.model.dropout) == ({"kind": "batch_norm", "momentum": 0.01}, {"fc7": 0.1})
    config = read_config(file, [*arguments, "--model.dropout.fc7", "0.2"])
    assert config.model.dropout == {"fc6": 0.3, "fc7": 0.2}


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
        ("bcd", "recipe", r"bcd: no such config file or recipe; .*: bccd, bccd_small, .*\. Did you mean 'bccd'\?"),
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


def test_a_mapping_that_is_merged_keeps_its_keys_and_merges_that_multiply_are_refused():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}"
    assert parse_yaml(text, where="here")["b"] == {"x": 1, "y": 3}
    assert parse_yaml(text, where="here")["c"] == {"x": 1, "y": 2, "z": 4}
    levels = (f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 8)}]}}" for i in range(9))
    with pytest.raises(ValueError, match="here: merges more than 100,000 values"):
        parse_yaml("\n".join(["a0: &a0 {k: 1}", *levels]), where="here")
