"""The comparison's file: what it becomes, and every kind of mistake."""

import copy

import pytest
import yaml

from ssdnorm.compare.plan import extended, read_plan
from ssdnorm.config_file import SHIPPED, differing_keys, read_config

CONFIGS = sorted(SHIPPED.glob("compare_*.yaml"))
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


ALL_CHOICES = (
    "l2_norm none batch_norm_conv4_3 l2_norm_all_taps l2_norm_fixed_20 l2_norm_start_1 l2_norm_start_10 "
    "l2_norm_start_40 batch_norm_backbone batch_norm batch_norm_and_l2_norm group_norm frozen_batch_norm dropout_0 "
    "batch_norm_dropout_0"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_comparison_can_be_built_and_those_for_gpus_have_every_choice(path):
    plan = read_plan(path)
    arms = {arm.name: arm.config for arm in plan.arms}
    assert len(arms) >= 2
    assert len(plan.file.seeds) >= 2
    assert plan.base.norm.taps.keys() == {"conv4_3"}
    if plan.base.runtime.num_workers == 0:  # sized for two CPU cores
        return
    assert arms.keys() == set(ALL_CHOICES.split())
    taps = {key: config.norm.taps["conv4_3"] for key, config in arms.items()}
    assert [taps[f"l2_norm_start_{scale}"]["scale"] for scale in (1, 10, 40)] == [1.0, 10.0, 40.0]
    assert taps["l2_norm_fixed_20"]["learnable"] is False
    assert len(arms["l2_norm_all_taps"].norm.taps) == 6
    assert (arms["batch_norm_backbone"].norm.extras, arms["batch_norm"].norm.extras) == ("none", "batch_norm")
    without_dropout = {key for key, config in arms.items() if config.model.dropout == 0.0}
    assert without_dropout == {"dropout_0", "batch_norm_dropout_0"}


def test_a_base_is_a_recipes_name_a_file_or_a_complete_config(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(CONTENT["base"]))
    complete = plan_of(tmp_path, CONTENT)
    assert plan_of(tmp_path, {**CONTENT, "base": str(recipe)}).content == complete.content
    again = plan_of(tmp_path, complete.content)  # a comparison's own comparison.yaml
    assert again.content == complete.content
    assert again.first_jobs(again.given_rates) == complete.first_jobs(complete.given_rates)
    named = plan_of(tmp_path, {**CONTENT, "base": "quickstart", "learning_rates": {}})
    assert named.base == read_config("quickstart")


def test_a_comparison_read_again_gives_arms_of_other_lengths_their_own_shares_of_the_run(tmp_path):
    arms = {"l2_norm": {}, "long": {"training.batch_size": 2, "training.max_steps": 1200}}
    schedule = {"optimizer": {"warmup_steps": 0.05}, "training": {"max_steps": 300, "eval_every": 0.2}}
    content = changed(vary=["training.batch_size", "training.max_steps"], learning_rates={}, arms=arms)
    content["base"] |= {**schedule, "training": {**schedule["training"], "precision": "auto"}}
    plan = plan_of(tmp_path, content)
    assert [arm.config.optimizer.warmup_steps for arm in plan.arms] == [15, 60]
    again = plan_of(tmp_path, plan.content)
    assert [arm.config for arm in again.arms] == [arm.config for arm in plan.arms]
    assert again.content == plan.content
    assert plan.content["base"]["training"]["precision"] != "auto", "measured once, for all runs"


def test_changes_and_the_command_line_set_keys_of_the_base_for_all_arms(tmp_path):
    changes = {"norm": "batch_norm", "training": {"max_steps": 6}, "model.width": 0.03, "data.validation.seed": 9}
    words = ("--base.training.max_steps", "7", "--base.norm.extras", "{kind: group_norm, groups: 2}")
    plan = plan_of(tmp_path, {**CONTENT, "changes": changes}, *words)
    assert {(arm.config.training.max_steps, arm.config.model.width) for arm in plan.arms} == {(7, 0.03)}
    assert {arm.config.norm.extras["groups"] for arm in plan.arms} == {2}
    assert plan.base.norm.backbone == "batch_norm"
    assert (plan.base.data.validation.num_images, plan.base.data.validation.seed) == (3, 9)
    assert plan.content["base"]["training"]["max_steps"] == 7
    assert "changes" not in plan.content, "they are part of the base that is written"


def test_an_arm_may_name_a_norm_preset_which_is_written_out(tmp_path):
    plan = plan_of(tmp_path, changed(arms__x={"norm": "batch_norm", "model.dropout": 0.0}))
    norms = {"norm.backbone": "batch_norm", "norm.extras": "batch_norm", "norm.taps": {"conv4_3": "none"}}
    assert plan.arms[-1].changes == {**norms, "model.dropout": 0.0}
    assert plan.content["arms"]["x"] == plan.arms[-1].changes
    assert plan.arms[-1].config.norm.extras == "batch_norm"


def test_an_arm_is_the_base_with_its_keys_changed(tmp_path):
    plan = plan_of(tmp_path, CONTENT)
    arms = {arm.name: arm.config.model_dump() for arm in plan.arms}
    base = plan.base.model_dump()
    assert arms["l2_norm"] == base
    assert differing_keys(base, arms["batch_norm"]) == ["norm.backbone", "norm.taps.conv4_3"]
    assert arms["no_dropout"]["model"]["dropout"] == 0.0
    assert base["model"]["dropout"] == 0.5, "the base is not touched"


def test_rates_are_tried_with_seeds_of_their_own_and_the_chosen_one_serves_all_that_are_compared(tmp_path):
    plan = plan_of(tmp_path, changed(choosing_seeds=[8, 9]))
    rates, lrs = plan.given_rates, {"l2_norm": 0.004, "batch_norm": 0.002, "no_dropout": 0.004}
    first = [("batch_norm", seed, lr) for seed in (8, 9) for lr in (0.01, 0.002)]
    first += [(arm, seed, 0.004) for seed in (3, 5) for arm in ("l2_norm", "no_dropout")]
    assert [(j.arm, j.seed, j.lr) for j in plan.first_jobs(rates)] == first
    jobs = plan.jobs(rates, lrs)
    assert [(j.arm, j.seed, j.lr) for j in jobs] == [*first, ("batch_norm", 3, 0.002), ("batch_norm", 5, 0.002)]
    assert (jobs[-1].config.training.seed, jobs[-1].config.optimizer.lr) == (5, 0.002)
    assert jobs[-1].folder == "runs/batch_norm/lr0.002_seed5"
    plan = plan_of(tmp_path, changed(learning_rates={}))
    assert len(plan.first_jobs(plan.given_rates)) == 6, "without rates to choose, all seeds at once"
    assert plan.first_jobs(plan.given_rates) == plan.jobs(plan.given_rates, dict.fromkeys(lrs, 0.004))


def test_a_list_grows_beyond_its_edge_by_its_factor_and_not_for_ever():
    assert extended([0.01, 0.02], 0.01, 2) == [0.01, 0.02, 0.005]
    assert extended([0.3, 0.1], 0.3, 2) == [0.3, 0.1, 0.9]
    assert extended([0.1, 0.2, 0.4, 0.8, 1.6, 3.2], 3.2, 2) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert extended([0.01], 0.01, 1) == [0.01]


def test_seeds_come_from_the_command_line_too(tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, "looks": [2, 4]}))
    plan = read_plan(path, seeds="3,5,7-8")
    assert plan.file.seeds == plan.content["seeds"] == [3, 5, 7, 8]
    for seeds, message in (
        ("3-5", "3 seeds are not one of the declared looks: 2, 4"),
        ("3-", "expected seeds such as"),
        ("0-9999999999", "got '0-9999999999'; at most 10,000 seeds"),
        ("9" * 5000, "expected seeds such as"),
        ("3,2147483648", r"seeds\.1: must be less than 2147483648"),
    ):
        with pytest.raises(ValueError, match=message):
            read_plan(path, seeds=seeds)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(arms__x={"optimizer.lr": 0.1}), r"arms\.x: optimizer\.lr: arms may change norm, model\.dropout only"),
        (changed(arms__x={"norm.bakbone": "none"}), r"arms\.x: norm\.bakbone: unknown key.*mean 'norm\.backbone'"),
        (changed(arms__x={"norm.backbone": "batchnorm"}), r"arms\.x: .*unknown norm 'batchnorm'.*mean 'batch_norm'"),
        (changed(arms__x={"norm": "batchnorm"}), r"arms\.x: norm: batchnorm: .*Did you mean 'batch_norm'"),
        (changed(arms__x={"norm.taps.conv4": "l2_norm"}), r"arms\.x: .*unknown tap 'conv4'"),
        (changed(arms={"l2_norm": {}, "../x": {}}, learning_rates={}), r"arms\.\.\./x: a name has letters"),
        (changed(arms={"l2_norm": {}}, learning_rates={}), r"arms: must have at least 2 items"),
        (changed(arms__x=["norm"]), r"arms\.x: must be a mapping; got \['norm'\]"),
        (changed(arms__x={1: 2}), r"arms\.x\.1: must be a valid string; got 1"),
        (changed(baseline="l2norm"), r"baseline: unknown arm 'l2norm'.*Did you mean 'l2_norm'"),
        (changed(seeds=[1, 1]), r"seeds: must be different values; got \[1, 1\]"),
        (changed(seeds=[]), r"seeds: must have at least 1 item; got \[\]"),
        (changed(seeds=[True]), r"seeds\.0: must be a valid integer; got True"),
        (changed(metric="VOC07"), r"metric: must be 'AP', 'AP50' or 'AP75'; got 'VOC07'"),
        (changed(target_ap50=50), r"target_ap50: must be less than 1; got 50"),
        (changed(learning_rates__batch=[0.1]), r"learning_rates: unknown arm 'batch'.*Did you mean 'batch_norm'"),
        (changed(learning_rates__batch_norm=[0.1, -1]), r"learning_rates\.batch_norm\.1: must be greater than 0"),
        (changed(learning_rates__batch_norm=[0.1, 0.1]), r"learning_rates\.batch_norm: must be different values"),
        (changed(learning_rates__l2_norm=[0.1]), r"learning_rates: .* numbers of rates: batch_norm 2, l2_norm 1; give"),
        (changed(learning_rates={}, extend=True), r"extend: no arm has several learning_rates to choose from"),
        (changed(looks=[3, 2]), r"looks: must rise; got \[3, 2\]"),
        (changed(looks=[1, 2]), r"looks\.0: must be greater than or equal to 2"),
        (changed(rule="holm"), r"rule: must be 'guarded_t' or 'paired_t_holm'; got 'holm'"),
        (changed(margin=2), r"margin: must be less than 1; got 2"),
        (changed(contrasts={"x": [["l2_norm", "none"]]}), r"contrasts\.x: unknown arm 'none'; choose one of: l2_norm"),
        (changed(contrasts={"x": [["l2_norm"]]}), r"contrasts\.x\.0: must have at least 2 items"),
        (changed(base__data__validation=None), r"learning_rates: rates are chosen on validation images"),
        (changed(vary=["norm", "optimizer.lr"], arms__batch_norm={"optimizer.lr": 1.0}), r".*the arm has learning_"),
        (changed(vary=["norm", "training.seed"]), r"vary: training\.seed: arms share their seeds, data and runtime"),
        (changed(vary=["norms"]), r"vary: 'norms': unknown key.*Did you mean 'norm'"),
        (changed(arm={}), r"arm: unknown key.*Did you mean 'arms'"),
        (changed(base__modle={}), r"base: modle: unknown key.*Did you mean 'model'"),
        (changed(base="bcd"), r"base: bcd: no such config file or recipe.*Did you mean 'bccd'"),
        ({**CONTENT, "changes": {"model.widht": 1}}, r"changes: model\.widht: unknown key.*mean 'model\.width'"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=r"compare\.yaml: " + message):
        plan_of(tmp_path, content)


def test_a_split_to_validate_on_and_the_decay_of_norms_may_come_from_the_command_line(tmp_path):
    content = changed(base__data__validation=None, learning_rates={})
    shapes = "{format: shapes, num_images: 5, seed: 4}"
    plan = plan_of(tmp_path, content, "--base.data.validation", shapes, "--base.optimizer.norms.weight_decay", "0")
    assert plan.base.data.validation.num_images == 5
    assert plan.base.optimizer.norms.weight_decay == 0.0


def test_options_and_files_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--base.training.seed: change the seeds of the comparison's file"):
        plan_of(tmp_path, CONTENT, "--base.training.seed", "7")
    with pytest.raises(ValueError, match=r"--training\.max_steps: unknown option; .*--base\.key"):
        plan_of(tmp_path, CONTENT, "--training.max_steps", "3")
    with pytest.raises(FileNotFoundError, match="no such config file"):
        read_plan(tmp_path / "missing.yaml")
