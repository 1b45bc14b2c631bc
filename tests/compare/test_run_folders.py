"""What runs start from: arms start alike, and the comparison of their starts says where they do not."""

import json

import pytest
import torch
import yaml

from ssdnorm.build import batch_norm_images, build_dataset, build_model, build_training
from ssdnorm.compare.plan import make_job, read_plan
from ssdnorm.compare.results import Run
from ssdnorm.compare.run_folders import compare_starts
from ssdnorm.config_file import merge_config

from .test_plan import CONTENT

ARMS = {
    "l2_norm": {},
    "none": {"norm.taps.conv4_3": "none"},
    "start_10": {"norm.taps.conv4_3": {"kind": "l2_norm", "scale": 10.0}},
    "batch_norm": {"norm.backbone": "batch_norm", "norm.extras": "batch_norm", "norm.taps.conv4_3": "none"},
    "group_norm": {"norm.backbone": {"kind": "group_norm", "groups": 1}},
    "no_dropout": {"model.dropout": 0.0},
}


@pytest.fixture
def plan(tmp_path):
    base = {
        **CONTENT["base"],
        "training": {"batch_size": 3, "max_steps": 9},
        "optimizer": {"lr": 0.004, "warmup_steps": 2},
    }
    content = {**CONTENT, "arms": ARMS, "learning_rates": {}, "base": base}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_plan(tmp_path / "c.yaml")


def test_common_weights_and_first_batches_of_all_arms_are_equal_bit_by_bit(plan):
    starts = {}
    for arm in plan.arms:
        config = make_job(arm, 5, 0.004).config
        train_set = build_dataset(config, "train")
        test_set = build_dataset(config, "test", class_names=train_set.class_names)
        model = build_model(config, 6)
        module = build_training(config, model, train_set=train_set, test_set=test_set)
        loader = iter(module.make_train_loader(rank=0, world_size=1, start_batch=0))
        starts[arm.name] = (dict(model.named_parameters()), [next(loader) for _ in range(4)])
    weights, batches = starts["l2_norm"]
    assert not torch.equal(batches[0].images, batches[1].images)
    for name, (other_weights, other_batches) in starts.items():
        common = set(weights) & set(other_weights)
        assert len(common) >= 70, name
        for key in common - {"features.tap_norms.conv4_3.weight"}:
            assert torch.equal(weights[key], other_weights[key]), (name, key)
        for ours, theirs in zip(batches, other_batches, strict=True):
            assert torch.equal(ours.images, theirs.images), name
            assert torch.equal(ours.boxes, theirs.boxes), name
            assert torch.equal(ours.indices, theirs.indices), name


def test_what_two_starts_share_is_told_by_name_with_the_first_seed_that_both_recorded(tmp_path):
    theirs = {"weights": {"conv": "1", "fc": "7", "scale": "2", "bias": "3"}, "batches": ["x", "y"]}
    theirs |= {"parameter_groups": [{"lr": 0.1}], "batch_norm_images": None}
    ours = {"weights": {"conv": "1", "fc": "7", "scale": "9", "norm": "4"}, "batches": ["x", "z"]}
    ours |= {"parameter_groups": [{"lr": 0.2}], "batch_norm_images": 8}
    runs = {arm: [Run(arm, seed, 0.1, f"{arm}{seed}", "finished") for seed in range(3)] for arm in ("ours", "theirs")}
    for folder, start in {"ours0": "never read", "ours2": ours, "theirs1": theirs, "theirs2": theirs}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "start.json").write_text(json.dumps(start))
    matched = compare_starts(runs["ours"], runs["theirs"], tmp_path)
    assert (matched.identical, matched.different, matched.added, matched.removed) == (2, ["scale"], ["norm"], ["bias"])
    assert (matched.same_batches, matched.parameter_groups, matched.batch_norm_images) == (False, [{"lr": 0.2}], 8)
    assert compare_starts(runs["theirs"], runs["theirs"], tmp_path).same_batches
    assert compare_starts(runs["ours"], runs["theirs"][:2], tmp_path) is None, "no seed that both recorded"


@pytest.mark.parametrize(
    ("norm", "images"), [("batch_norm", 3), ("sync_batch_norm", 6), ("frozen_batch_norm", None), ("none", None)]
)
def test_the_images_of_batch_norm_are_those_of_a_device_or_of_all(plan, norm, images):
    everything = {**plan.base.model_dump(), "runtime": {"devices": 2, "accelerator": "cpu"}}
    config = merge_config(("test", {**everything, "norm": {"backbone": norm}}))
    assert batch_norm_images(config, build_model(config, 6)) == images
