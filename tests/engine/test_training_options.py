"""Options of a training, end to end: accumulation, best weights and patience, frozen layers, other losses, auto."""

import pytest
import torch
import yaml

from ssdnorm import load_detector, ssd300_vgg16
from ssdnorm.build import build_dataset, build_loss, build_model, build_optimizer, check_model
from ssdnorm.compare.plan import read_plan
from ssdnorm.data import EvalTransform, make_eval_loader
from ssdnorm.engine.memory import choose_batch_size, saved_bytes
from ssdnorm.models.checkpoint import save_checkpoint
from ssdnorm.settle import settle
from tests.small_training import (
    SHAPES,
    result_of,
    rows,
    same_weights,
    stopped_at,
    tiny,
    tiny_config,
    tiny_module,
    train,
    weights,
)

WITH_VALIDATION = {**SHAPES, "validation": {"format": "shapes", "num_images": 4, "seed": 3}}
BATCH_NORM = {"backbone": "batch_norm", "taps": {}}


def test_an_accumulated_step_is_that_of_the_mean_gradient_of_its_batches(tmp_path):
    changes = {"training": {"max_steps": 1, "accumulate": 2}, "optimizer": {"warmup_steps": 0}}
    assert train(tmp_path / "run", **changes) == 0
    module = tiny_module(tiny_config(**changes))
    optimizer = module.make_optimizer(module.model)
    batches = list(module.make_train_loader(rank=0, world_size=1, start_batch=0))
    assert len(batches) == 2
    for batch in batches:
        parts = module.loss(module.model(batch.images), batch.boxes, batch.labels)
        (sum(parts.values()) / 2).backward()
    optimizer.step()
    found = weights(tmp_path / "run")
    for name, value in module.model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert [(row["step"], float(row["epoch"])) for row in rows(tmp_path / "run") if row["loss"]] == [("1", 0.6)]


def test_a_resumed_run_with_accumulated_batches_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    changes = {
        "training": {"max_steps": 4, "accumulate": 2, "eval_every": 2, "ema_decay": 0.9},
        "model": {"dropout": 0.5},
        "norm": BATCH_NORM,
        "optimizer": {"name": "adamw", "schedule": "cosine", "lr": 1e-3, "warmup_steps": 0},
    }
    assert train(tmp_path / "whole", **changes) == 0
    stopped_at(5, tmp_path / "halves", **changes)
    assert train(tmp_path / "halves", "--resume", **changes) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "halves")
    whole, halves = ([row for row in rows(tmp_path / name) if row["loss"]] for name in ("whole", "halves"))
    assert [(row["step"], row["loss"]) for row in whole] == [(row["step"], row["loss"]) for row in halves]
    assert [row["step"] for row in whole] == ["1", "2", "3", "4"]
    lrs = [float(row["lr"]) for row in halves]  # after the step, of the next one
    assert lrs == pytest.approx([1e-3 * (1 + 0.5**0.5) / 2, 5e-4, 1e-3 * (1 - 0.5**0.5) / 2, 0], abs=1e-9)


def test_the_best_weights_are_kept_and_training_stops_when_patience_ends(tmp_path):
    training = {"max_steps": 6, "eval_every": 1, "best": "loss", "patience": 2, "ema_decay": 0.5, "checkpoint_every": 1}
    changes = {"data": WITH_VALIDATION, "training": training}  # the loss rises from the first step on
    assert train(tmp_path / "run", **changes) == 0
    result = result_of(tmp_path / "run")
    evaluated = [row for row in rows(tmp_path / "run") if row["evaluated_on"] == "validation"]
    evaluations = [(int(row["step"]), float(row["eval_loss"])) for row in evaluated]
    best = min(evaluations, key=lambda row: row[1])
    assert (result["best"]["metric"], result["best"]["step"], result["best"]["value"]) == ("loss", *best)
    assert result["steps"] == best[0] + 2 == evaluations[-1][0] < 6
    assert result["stopped_early"] is True
    changes["training"] |= {"max_steps": best[0], "best": None, "patience": None}
    assert train(tmp_path / "short", **changes) == 0
    assert same_weights(tmp_path / "short", tmp_path / "run", other_name="best")
    assert result["best"]["metrics"] == result_of(tmp_path / "short")["metrics"]

    changes["training"] |= {"max_steps": 6, "best": "loss", "patience": 2}
    stopped_at(2, tmp_path / "halves", **changes)
    assert train(tmp_path / "halves", "--resume", **changes) == 0
    again = result_of(tmp_path / "halves")
    assert [again[name] for name in ("best", "steps")] == [result[name] for name in ("best", "steps")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": "AP"}, r"training: best: chooses among the evaluations during training; eval_every is null"),
        (
            {"best": "AP", "eval_every": 1},
            r"training\.best: is chosen on validation images, .*data\.validation is null",
        ),
        ({"patience": 3}, r"training: patience: waits for a better number, which best names; it is null"),
        ({"best": "F1", "eval_every": 1}, r"training\.best: must be 'AP', .*got 'F1'"),
        ({"accumulate": 0}, r"training\.accumulate: must be greater than 0; got 0"),
        ({"batch_size": "all"}, r"training\.batch_size: must be .*'auto'; got 'all'"),
    ],
)
def test_options_that_miss_what_they_stand_on_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(training=changes)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"best": "AP", "eval_every": 1}, r"training\.best: arms are compared after the same steps"),
        ({"batch_size": "auto"}, r"training\.batch_size: arms are compared at one batch size"),
    ],
)
def test_a_comparison_refuses_what_would_differ_between_its_arms(tmp_path, training, message):
    file = {
        "title": "x", "base": tiny(data=WITH_VALIDATION, training=training), "vary": ["norm"],
        "baseline": "a", "seeds": [0], "metric": "AP", "target_ap50": 0.5, "arms": {"a": {}, "b": {"norm": "none"}},
    }  # fmt: skip
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(file))
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path / "compare.yaml")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An SSD for the first two of the five classes of shapes."""
    path = tmp_path_factory.mktemp("options") / "model.safetensors"
    save_checkpoint(
        path, ssd300_vgg16(3, width=0.02, dropout=0, seed=9), class_names=["circle", "cross"], post_process={}
    )
    return path


def test_frozen_layers_keep_their_weights_and_an_extended_head_its_classes(checkpoint, tmp_path):
    model = {"checkpoint": str(checkpoint), "head": "extend", "freeze": ["conv1", "conv4_2", "conv8_1"]}
    assert train(tmp_path / "run", model=model, training={"max_steps": 1}, optimizer={"lr": 1e-4}) == 0
    detector = load_detector(tmp_path / "run" / "checkpoints" / "model.safetensors")
    assert detector.class_names == ("circle", "cross", "square", "star", "triangle")
    before, after = load_detector(checkpoint).model.state_dict(), weights(tmp_path / "run")
    for frozen in ("conv1_1", "conv1_2", "conv4_2", "conv8_1", "conv2_1", "conv4_3", "fc7"):
        (name,) = (name for name in before if name.endswith(f".{frozen}.conv.weight"))
        assert torch.equal(before[name], after[name]) == (frozen not in ("conv2_1", "conv4_3", "fc7")), name
    for tap in ("conv4_3", "fc7"):
        old, new = (s[f"head.logits.{tap}.weight"].unflatten(0, (-1, n)) for s, n in ((before, 3), (after, 6)))
        torch.testing.assert_close(old, new[:, :3], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"freeze": ["conv1"]}, r"freeze: layers without weights or a checkpoint would stay as they are drawn"),
        ({"head": "extend"}, r"head: extend changes the head of a checkpoint, which is null"),
    ],
)
def test_freezing_and_extending_need_something_to_start_from(model, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(model=model)


def test_layers_that_cannot_be_frozen_are_refused_before_any_data_is_read(checkpoint):
    model = {"checkpoint": str(checkpoint), "freeze": ["conv1", "conv9"]}
    with pytest.raises(
        ValueError, match=r"model\.freeze: conv1_1 has batch norm, whose statistics would go on changing"
    ):
        check_model(tiny_config(model=model, norm=BATCH_NORM))
    with pytest.raises(ValueError, match=r"model\.freeze: unknown layer 'conv45'; .*Did you mean 'conv"):
        check_model(tiny_config(model={**model, "freeze": ["conv45"]}))
    check_model(tiny_config(model=model, norm={"backbone": "frozen_batch_norm"}))


def test_adamw_comes_from_the_config_and_drops_beside_a_cosine_are_refused():
    config = tiny_config(optimizer={"name": "adamw", "schedule": "cosine"})
    assert isinstance(build_optimizer(config, build_model(config, 6)), torch.optim.AdamW)
    with pytest.raises(ValueError, match=r"optimizer: lr_drops: schedule cosine has none; set them to \[\]; got \[1\]"):
        tiny_config(optimizer={"schedule": "cosine", "lr_drops": [1]})


def test_focal_loss_and_class_weights_come_from_the_config():
    config = tiny_config(loss={"focal": {"gamma": 1.5}, "class_weights": {"cross": 3.0, "background": 0.5}})
    names = build_dataset(config, "train").class_names
    model = build_model(config, 6)
    loss = build_loss(config, model, names)
    assert loss.focal == (1.5, 0.25)
    assert loss.class_weights.tolist() == [0.5, 1.0, 3.0, 1.0, 1.0, 1.0]
    mined = build_loss(tiny_config(loss={"negative_ratio": 2.0, "iou_threshold": 0.6}), model, names)
    assert (mined.negative_ratio, mined.iou_threshold) == (2.0, 0.6)
    bias = model.head.logits["fc7"].bias.unflatten(0, (-1, 6))
    assert bias.softmax(1)[:, 0].tolist() == pytest.approx([0.99] * len(bias))
    with pytest.raises(ValueError, match=r"loss\.class_weights: unknown class 'cros'; .*Did you mean 'cross'\?"):
        build_loss(tiny_config(loss={"class_weights": {"cros": 2.0}}), model, names)
    with pytest.raises(ValueError, match=r"loss: negative_ratio: focal takes all boxes and mines none"):
        tiny_config(loss={"focal": {}, "negative_ratio": 2.0})


def test_the_loss_on_evaluated_images_is_the_mean_over_its_batches_in_evaluation_mode(tmp_path):
    changes = {"training": {"max_steps": 1, "batch_size": 2}, "model": {"dropout": 0.5}}
    assert train(tmp_path / "run", **changes) == 0
    detector = load_detector(tmp_path / "run" / "checkpoints" / "model.safetensors")
    test_set = build_dataset(tiny_config(**changes), "test")
    sums = {}
    for batch in make_eval_loader(test_set, EvalTransform(300), batch_size=2):
        with torch.no_grad():
            parts = detector.loss(detector.model(batch.images), batch.boxes, batch.labels)
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + part.item() * len(batch)
    (row,) = [row for row in rows(tmp_path / "run") if row["evaluated_on"]]
    for name, value in {**sums, "loss": sum(sums.values())}.items():
        assert float(row[f"eval_{name}"]) == pytest.approx(value / 3, rel=1e-4)
    assert result_of(tmp_path / "run")["losses"]["test"]["loss"] == pytest.approx(float(row["eval_loss"]), rel=1e-5)


def test_what_a_forward_pass_keeps_is_counted_without_computing_it():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1))
    image, relu = 3 * 6 * 6, 4 * 6 * 6  # a ReLU keeps its output, which is the input of the convolution after it
    assert saved_bytes(model, (2, 3, 6, 6)) == 2 * 4 * (image + relu)


def test_auto_takes_the_largest_batch_that_fits_and_refuses_what_cannot(caplog):
    model = ssd300_vgg16(3, width=0.02)
    shape = (3, 300, 300)
    assert choose_batch_size(model, shape, free_bytes=1 << 40) == 32
    image = 1.5 * saved_bytes(model, (2, *shape)) / 2
    parameters = 16 * sum(p.numel() for p in model.parameters())
    for number in (1, 8):
        assert choose_batch_size(model, shape, free_bytes=int((parameters + 1.9 * number * image) / 0.8)) == number
    with pytest.raises(ValueError, match="batch_size: auto: one image needs about"):
        choose_batch_size(model, shape, free_bytes=1 << 20)
    with pytest.raises(ValueError, match=r"training\.batch_size: auto is for one device; give a number for 2"):
        settle(tiny_config(training={"batch_size": "auto"}, runtime={"devices": 2}))
