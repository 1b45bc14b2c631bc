"""The comparison's file: what it becomes, and every kind of mistake."""

import copy
from pathlib import Path

import pytest
import yaml

from ssdnorm.compare.plan import read_plan
from ssdnorm.config_file import config_to_mapping, differing_keys

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("compare_*.yaml"))
SHAPES = {
    "train": {"format": "shapes", "num_images": 9, "seed": 1},
    "validation": {"format": "shapes", "num_images": 3, "seed": 3},
    "test": {"format": "shapes", "num_images": 4, "seed": 2},
}
CONTENT = {
    "title": "A test",
    "vary": ["norm", "model.dropout"],
    "baseline": "l2_norm",
    "seeds": [3, 5],
    "metric": "AP50",
    "target_ap50": 0.5,
    "learning_rates": {"batch_norm": [0.01, 0.002]},
    "arms": {
        "l2_norm": {},
        "batch_norm": {"norm.backbone": "batch_norm", "norm.taps.conv4_3": "none"},
        "no_dropout": {"model.dropout": 0.0},
    },
    "base": {"data": SHAPES, "model": {"width": 0.02}, "optimizer": {"lr": 0.004}},
}


def plan_of(tmp_path, content, *words):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return read_plan(path, words)


def changed(**keys):
    content = copy.deepcopy(CONTENT)
    for path, value in keys.items():
        *rooms, last = path.split("__")
        inner = content
        for room in rooms:
            inner = inner[room]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return content


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_comparison_of_configs_is_complete_and_can_be_built(path):
    plan = read_plan(path)
    written = yaml.safe_load(path.read_text())["base"]
    missing = [k for k in differing_keys(written, config_to_mapping(plan.base)) if not k.startswith("data.")]
    assert not missing, "keys that the file leaves out, or writes in another way"
    assert len(plan.arms) >= 3
    assert len(plan.seeds) >= 2


def test_an_arm_is_the_base_with_its_keys_changed(tmp_path):
    plan = plan_of(tmp_path, CONTENT)
    arms = {arm.name: config_to_mapping(arm.config) for arm in plan.arms}
    base = config_to_mapping(plan.base)
    assert arms["l2_norm"] == base
    assert differing_keys(base, arms["batch_norm"]) == ["norm.backbone", "norm.taps.conv4_3"]
    assert arms["no_dropout"]["model"]["dropout"] == 0.0
    assert base["model"]["dropout"] == 0.5, "the base is not touched"


def test_rates_are_tried_with_the_first_seed_and_the_chosen_one_serves_the_others(tmp_path):
    plan = plan_of(tmp_path, CONTENT)
    assert [(j.arm, j.seed, j.lr) for j in plan.first_jobs()] == [
        ("l2_norm", 3, 0.004), ("batch_norm", 3, 0.01), ("batch_norm", 3, 0.002), ("no_dropout", 3, 0.004),
    ]  # fmt: skip
    jobs = plan.jobs({"l2_norm": 0.004, "batch_norm": 0.002, "no_dropout": 0.004})
    assert jobs[:4] == plan.first_jobs()
    assert [(j.arm, j.seed, j.lr) for j in jobs[4:]] == [
        ("l2_norm", 5, 0.004), ("batch_norm", 5, 0.002), ("no_dropout", 5, 0.004),
    ]  # fmt: skip
    last = jobs[-1]
    assert (last.config.training.seed, last.config.optimizer.lr, last.folder) == (
        5, 0.004, "runs/no_dropout/lr0.004_seed5",
    )  # fmt: skip


def test_without_rates_to_choose_all_seeds_are_run_at_once(tmp_path):
    plan = plan_of(tmp_path, changed(learning_rates={}))
    assert len(plan.first_jobs()) == 6
    assert plan.first_jobs() == plan.jobs({arm.name: 0.004 for arm in plan.arms})


def test_the_command_line_changes_the_base_of_all_arms(tmp_path):
    plan = plan_of(
        tmp_path, CONTENT, "--base.training.max_steps", "7", "--base.norm.extras", "{kind: group_norm, groups: 2}"
    )
    assert {arm.config.training.max_steps for arm in plan.arms} == {7}
    assert {arm.config.norm.extras["groups"] for arm in plan.arms} == {2}
    assert plan.content["base"]["training"]["max_steps"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(arms__x={"optimizer.lr": 0.1}), r"arms\.x: optimizer\.lr: arms may change norm, model\.dropout alone"),
        (changed(arms__x={"norm.bakbone": "none"}), r"arms\.x: norm\.bakbone: unknown key.*mean 'norm\.backbone'"),
        (changed(arms__x={"norm.backbone": "batchnorm"}), r"arms\.x: .*unknown norm 'batchnorm'.*mean 'batch_norm'"),
        (changed(arms__x={"norm.taps.conv4": "l2_norm"}), r"arms\.x: .*unknown tap 'conv4'"),
        (changed(arms__x={"norm": {"taps": {}, "bakbone": "none"}}), r"arms\.x: norm\.bakbone: unknown key"),
        (changed(arms={"l2_norm": {}, "../x": {}}, learning_rates={}), r"arms\.\.\./x: a name has letters"),
        (changed(arms={"l2_norm": {}}, learning_rates={}), r"arms: a comparison needs two"),
        (changed(arms__x=["norm"]), r"arms\.x: expected dotted keys"),
        (changed(baseline="l2norm"), r"baseline: unknown name 'l2norm'.*Did you mean 'l2_norm'"),
        (changed(seeds=[1, 1]), r"seeds: expected different whole numbers"),
        (changed(seeds=[]), r"seeds: expected a list, not empty"),
        (changed(seeds=[True]), r"seeds: expected different whole numbers"),
        (changed(metric="map"), r"metric: unknown name 'map'; choose one of: AP, AP50, AP75"),
        (changed(metric="VOC07"), r"metric: unknown name 'VOC07'"),
        (changed(arms__x=False), r"arms\.x: expected dotted keys"),
        (changed(arms__x={1: 2}), r"arms\.x: expected dotted keys"),
        (changed(vary=[None]), r"vary: expected names; got None"),
        (changed(arms={"l2_norm": {}, False: {}}, learning_rates={}), r"arms: expected names; got False"),
        (changed(learning_rates__batch_norm="12"), r"learning_rates\.batch_norm: expected different rates"),
        (changed(target_ap50=50), r"target_ap50: must lie between 0 and 1; got 50"),
        (changed(learning_rates__batch=[0.1]), r"learning_rates: unknown name 'batch'"),
        (changed(learning_rates__batch_norm=[0.1, -1]), r"learning_rates\.batch_norm: expected different rates"),
        (changed(learning_rates__batch_norm=[True, 0.1]), r"learning_rates\.batch_norm: expected different rates"),
        (changed(learning_rates__batch_norm=0.1), r"learning_rates\.batch_norm: expected different rates"),
        (changed(base__data__validation=None), r"learning_rates: rates are chosen on validation images"),
        (changed(vary=["norm", "training.seed"]), r"vary: training\.seed: arms share their seeds, data and runtime"),
        (changed(vary=["norm", "training"]), r"vary: training: arms share their seeds"),
        (changed(vary=["norms"]), r"vary: norms: unknown key.*Did you mean 'norm'"),
        (changed(arm={}), r"unknown key 'arm'.*Did you mean 'arms'"),
        (changed(title=None), r"title: is missing"),
        (changed(base__modle={}), r"base: modle: unknown key.*Did you mean 'model'"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=r"compare\.yaml: " + message):
        plan_of(tmp_path, content)


def test_a_split_to_validate_on_and_a_preset_may_come_from_the_command_line(tmp_path):
    content = changed(base__data__validation=None, learning_rates={})
    shapes = "{format: shapes, num_images: 5, seed: 4}"
    plan = plan_of(tmp_path, content, "--base.data.validation", shapes, "--base.optimizer.preset", "modern")
    assert plan.base.data.validation.num_images == 5
    assert plan.base.optimizer.norms.weight_decay == 0.0


def test_a_seed_on_the_command_line_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--base.training.seed: the comparison's seeds take its place"):
        plan_of(tmp_path, CONTENT, "--base.training.seed", "7")


def test_an_option_that_is_no_key_of_the_base_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--training\.max_steps: unknown option; .*--base\.key"):
        plan_of(tmp_path, CONTENT, "--training.max_steps", "3")
    with pytest.raises(FileNotFoundError, match="no such config file"):
        read_plan(tmp_path / "missing.yaml")


def test_a_name_that_stands_there_twice_is_refused(tmp_path):
    text = yaml.safe_dump(CONTENT, sort_keys=False)
    (tmp_path / "c.yaml").write_text(text.replace("  batch_norm:\n    norm", "  l2_norm:\n    norm"))
    with pytest.raises(ValueError, match=r"c\.yaml: not readable as YAML: the key 'l2_norm' stands there twice.*line"):
        read_plan(tmp_path / "c.yaml")


CHOICES = {
    "l2_norm", "none", "batch_norm_conv4_3", "l2_norm_all_taps", "l2_norm_fixed_20",
    "l2_norm_start_1", "l2_norm_start_10", "l2_norm_start_40",
    "batch_norm_backbone", "batch_norm", "batch_norm_and_l2_norm", "group_norm", "frozen_batch_norm",
    "dropout_0", "batch_norm_dropout_0",
}  # fmt: skip


@pytest.mark.parametrize("name", ["bccd_gpu", "playing_cards", "voc0712", "coco2017"])
def test_the_configs_for_gpus_have_every_choice(name):
    arms = {arm.name: arm.config for arm in read_plan(f"configs/compare_{name}.yaml").arms}
    assert arms.keys() == CHOICES
    scales = {key: arms[key].norm.taps["conv4_3"] for key in CHOICES if key.startswith("l2_norm_start")}
    assert {key: spec["scale"] for key, spec in scales.items()} == {
        "l2_norm_start_1": 1.0, "l2_norm_start_10": 10.0, "l2_norm_start_40": 40.0,
    }  # fmt: skip
    assert arms["l2_norm_fixed_20"].norm.taps["conv4_3"]["learnable"] is False
    assert len(arms["l2_norm_all_taps"].norm.taps) == 6
    assert (arms["batch_norm_backbone"].norm.extras, arms["batch_norm"].norm.extras) == ("none", "batch_norm")
    dropouts = {key: config.model.dropout for key, config in arms.items()}
    assert {key for key, p in dropouts.items() if p == 0.0} == {"dropout_0", "batch_norm_dropout_0"}
    assert set(dropouts.values()) == {0.0, 0.5}
