"""Arms start alike: every common weight and the first batches, bit by bit."""

from dataclasses import replace

import pytest
import torch
import yaml

from ssdnorm.build import batch_norm_images, build_dataset, build_model, build_training
from ssdnorm.compare.matched import compare_starts, match, start_of
from ssdnorm.compare.plan import make_job, read_plan
from ssdnorm.config_file import config_from_mapping, config_to_mapping

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


def test_the_record_says_what_was_the_same_and_what_was_not(plan):
    sets = build_dataset(plan.base, "train"), build_dataset(plan.base, "test")
    record = compare_starts(plan, {arm.name: 0.008 for arm in plan.arms}, *sets)
    scale = "features.tap_norms.conv4_3.weight"
    assert record["l2_norm"].identical == 71
    assert record["none"].removed == [scale]
    assert (record["none"].identical, record["none"].different, record["none"].added) == (70, [], [])
    assert (record["start_10"].identical, record["start_10"].different) == (70, [scale])
    assert "features.backbone.conv1_1.norm.weight" in record["batch_norm"].added
    everything = {**config_to_mapping(plan.base), "runtime": {"devices": 2, "accelerator": "cpu"}}
    for norm, images in {"batch_norm": 3, "sync_batch_norm": 6, "frozen_batch_norm": None}.items():
        config = config_from_mapping({**everything, "norm": {"backbone": norm}}, where="test")
        assert batch_norm_images(config, build_model(config, 6)) == images, norm
    assert {name: match.batch_norm_images for name, match in record.items() if match.batch_norm_images} == {
        "batch_norm": 3
    }
    assert all(match.same_batches for match in record.values())
    assert record["none"].parameter_groups[0]["lr"] == pytest.approx(0.008)
    groups = {row["group"]: row["parameters"] for row in record["group_norm"].parameter_groups}
    assert groups["norms"] > {r["group"]: r["parameters"] for r in record["l2_norm"].parameter_groups}["norms"]


def test_an_arm_that_cannot_be_built_is_left_out_and_named(plan, caplog):
    sets = build_dataset(plan.base, "train"), build_dataset(plan.base, "test")
    arms = [
        replace(arm, config=replace(arm.config, model=replace(arm.config.model, weights="/nowhere.npz")))
        if arm.name == "none"
        else arm
        for arm in plan.arms[:3]
    ]
    record = compare_starts(replace(plan, arms=arms), {arm.name: 0.008 for arm in arms}, *sets)
    assert list(record) == ["l2_norm", "start_10"]
    assert "none: not built again to see what it shares with l2_norm: /nowhere.npz" in caplog.text
    assert compare_starts(replace(plan, arms=arms, baseline="none"), {arm.name: 0.008 for arm in arms}, *sets) == {}


def test_other_seeds_and_other_augmentation_are_seen(plan):
    arm = plan.arms[0]
    sets = build_dataset(arm.config, "train"), build_dataset(arm.config, "test")
    start = start_of(arm, 3, 0.004, *sets)
    other_seed = match(start_of(arm, 5, 0.004, *sets), start)
    assert not other_seed.same_batches
    assert all(name.endswith("weight") for name in other_seed.different), "biases and norms are not drawn"
    assert len(other_seed.different) == 35
    flipped = replace(arm, config=replace(arm.config, augment=replace(arm.config.augment, flip=False, zoom_out=False)))
    assert not match(start_of(flipped, 3, 0.004, *sets), start).same_batches
