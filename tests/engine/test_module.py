"""A training: checks before the first step, logged losses, evaluation, averages, population statistics, resuming."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssdnorm.build import (
    build_dataset,
    build_model,
    build_optimizer,
    build_training,
    check_model,
    check_statistics,
    loop_settings,
)
from ssdnorm.cli import main
from ssdnorm.config_file import config_from_mapping
from ssdnorm.engine.callbacks import MetricsFile
from ssdnorm.engine.module import NonFiniteLossError
from ssdnorm.engine.run import make_trainer

ROOT = Path(__file__).parents[2]
TINY = {
    "norm": {"backbone": "none", "extras": "none", "taps": {"conv4_3": "l2_norm"}},
    "model": {"width": 0.02, "dropout": 0.0},
    "data": {
        "train": {"format": "shapes", "num_images": 10, "seed": 1},
        "test": {"format": "shapes", "num_images": 3, "seed": 2},
    },
    "optimizer": {"lr": 0.01, "warmup_steps": 2},
    "training": {"max_steps": 2, "batch_size": 3, "checkpoint_every": 2},
    "runtime": {"log_every": 1, "accelerator": "cpu", "devices": 1},
}
GROUPS = {"kind": "group_norm", "groups": 8}


def config(**changes):
    merged = {room: {**values, **changes.get(room, {})} for room, values in TINY.items()}
    return config_from_mapping(merged, where="test")


def training(**changes):
    c = config(**changes)
    return build_training(c, build_model(c, 6), train_set=build_dataset(c, "train"), test_set=build_dataset(c, "test"))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ({"extras": "batch_norm"}, r"norm\.extras at training\.batch_size 1: features\.extras\.conv11_2\.norm: "
         r"BatchNorm2d .* 1 value per channel \(batch 1, map 1×1\)\. Ways out: .*frozen_batch_norm"),
        ({"taps": {"conv11_2": "batch_norm"}}, r"norm\.taps at .*tap_norms\.conv11_2: BatchNorm2d .* 1 value"),
        ({"extras": "instance_norm"}, r"norm\.extras at .*conv11_2\.norm: InstanceNorm .* \(batch 1, map 1×1\)"),
        ({"extras": GROUPS}, r"extras\.conv11_2\.norm: GroupNorm .* 1 value per group .*fewer groups"),
        ({"extras": "batch_norm", "taps": {"conv11_2": "batch_norm"}}, r"norm\.extras and norm\.taps at .*"),
    ],
)  # fmt: skip
def test_statistics_over_one_value_are_refused_before_data_is_read_and_before_training(norm, message):
    changes = {"norm": norm, "training": {"batch_size": 1}}
    with pytest.raises(ValueError, match=message):
        check_model(config(**changes))
    with pytest.raises(ValueError, match=message):
        training(**changes)


@pytest.mark.parametrize(
    ("norm", "runtime"),
    [
        ({"backbone": "batch_norm"}, {}),  # its last map is 19×19
        ({"extras": "frozen_batch_norm"}, {}),
        ({"extras": "layer_norm"}, {}),
        ({"extras": "sync_batch_norm"}, {"devices": 2}),
        ({"extras": "sync_batch_norm"}, {"num_nodes": 2}),
    ],
)
def test_norms_with_more_than_one_value_pass_at_batch_size_1(norm, runtime):
    c = config(norm=norm, training={"batch_size": 1}, runtime=runtime)
    check_statistics(c, build_model(c, 6))


def test_a_last_population_batch_of_one_image_is_refused():
    changes = {"norm": {"extras": "batch_norm"}, "training": {"batch_size": 3, "population_images": 7}}
    with pytest.raises(
        ValueError, match=r"norm\.extras at training\.population_images 7, whose last batch is 1: .*conv11_2"
    ):
        check_model(config(**changes))
    check_model(config(**{**changes, "training": {"batch_size": 3, "population_images": 8}}))


@pytest.mark.parametrize(
    ("norm", "dropout", "pairs"),
    [
        ({"backbone": "batch_norm"}, 0.5, "backbone.fc6.dropout before backbone.fc7.norm"),
        ({"extras": "batch_norm"}, {"fc7": 0.5}, "backbone.fc7.dropout before extras.conv8_1.norm"),
        ({"taps": {"fc7": "batch_norm"}}, {"fc6": 0.5}, "backbone.fc6.dropout before tap_norms.fc7"),
    ],
)
def test_a_dropout_before_a_batch_norm_is_warned_of_with_its_place(norm, dropout, pairs):
    with pytest.warns(UserWarning, match=f"dropout before batch norm: .*{pairs}"):
        training(norm=norm, model={"dropout": dropout})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("norm", [{"taps": {"fc7": "batch_norm"}}, {"taps": {"conv4_3": "batch_norm"}}])
def test_a_tap_before_the_dropout_is_not_warned_of(norm):
    training(norm=norm, model={"dropout": {"fc7": 0.5}})


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    norm = {"backbone": "batch_norm", "extras": "batch_norm", "taps": {"conv4_3": "l2_norm"}}
    path.write_text(yaml.safe_dump({**TINY, "norm": norm}))
    return path


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_a_run_reports_population_statistics_beside_the_running_ones(config_file, tmp_path, ema):
    words = ["--config", str(config_file), "--training.ema_decay", ema]
    assert main(["train", *words, "--output", str(tmp_path / "plain")]) == 0
    population = [*words, "--training.population_images", "5", "--output", str(tmp_path / "population")]
    assert main(["train", *population]) == 0
    plain, result = (json.loads((tmp_path / run / "result.json").read_text()) for run in ("plain", "population"))
    assert result["metrics"] == plain["metrics"]
    assert set(result["metrics_population"]) == set(result["metrics"])
    assert len(result["population_statistics"]) == 23
    assert result["population_statistics"][-1]["count"] == 5  # conv11_2 has one value an image
    weights = tmp_path / "population" / "checkpoints"
    running, recomputed = (load_file(weights / f"{name}.safetensors") for name in ("model", "model_population"))
    expected = load_file(tmp_path / "plain" / "checkpoints" / "model.safetensors")
    for name, tensor in running.items():
        assert torch.equal(tensor, expected[name]), name
        is_statistic = name.endswith(("running_mean", "running_var"))
        assert torch.equal(tensor, recomputed[name]) != is_statistic, name
    steps = (tmp_path / "population" / "metrics.csv").read_text().splitlines()
    assert len(steps) == len((tmp_path / "plain" / "metrics.csv").read_text().splitlines())


def test_population_statistics_of_a_model_without_batch_norm_are_left_out_and_said(caplog):
    with caplog.at_level("WARNING", logger="ssdnorm.build"):
        module = training(training={"population_images": 5})
    assert module.population is None
    assert "no batch norm with running statistics" in caplog.text


@pytest.mark.slow
def test_population_statistics_pool_the_images_of_two_processes(config_file, tmp_path):
    words = [*("--config", str(config_file)), "--runtime.devices", "2", "--training.population_images", "6"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["world_size"] == 2
    assert result["population_statistics"][-1]["count"] == 6
    assert set(result["metrics_population"]) == set(result["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2_norm", "batch_norm"])
def test_a_compiled_run_has_the_losses_and_statistics_of_the_eager_one(config_file, tmp_path, norm):
    words = ["--config", str(config_file), "--norm.backbone", norm, "--norm.extras", norm, "--optimizer.lr", "1e-6"]
    if norm == "batch_norm":
        words += ["--training.population_images", "5"]
    losses, states = [], []
    for compiled in ("false", "true"):
        output = tmp_path / compiled
        assert main(["train", *words, "--model.compile", compiled, "--output", str(output)]) == 0
        rows = list(csv.DictReader((output / "metrics.csv").open()))
        losses.append([float(row["loss"]) for row in rows if row["loss"]])
        states += [load_file(path) for path in sorted((output / "checkpoints").glob("*.safetensors"))[-1:]]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=5e-2, atol=5e-3, msg=lambda m, key=key: f"{key}: {m}")


def test_the_validation_images_serve_until_the_end_and_the_test_images_there_alone(tmp_path):
    content = {
        **TINY,
        "data": {**TINY["data"], "validation": {"format": "shapes", "num_images": 4, "seed": 3}},
        "training": {**TINY["training"], "max_steps": 4, "eval_every": 2},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    run = tmp_path / "run"
    assert main(["train", "--config", str(tmp_path / "c.yaml"), "--output", str(run)]) == 0
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    evaluations = [(row["step"], row["evaluated_on"]) for row in rows if row["AP"]]
    assert evaluations == [("2", "validation"), ("4", "validation"), ("4", "test")]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[1] < seconds[-1], "the clock goes on after an evaluation"
    result = json.loads((run / "result.json").read_text())
    assert set(result["metrics_validation"]) == set(result["metrics"])
    image_ids = {row["image_id"] for row in json.loads((run / "detections.json").read_text())}
    assert image_ids <= {1, 2, 3}, "detections of the three test images"


def test_a_resumed_run_counts_the_time_of_the_first_part_too(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path, images_per_epoch=10, images_per_step=2)
    first._began -= 100.0
    again = MetricsFile(path, images_per_epoch=10, images_per_step=2)
    again.load_state_dict(first.state_dict())
    assert 100.0 <= again.elapsed() < 101.0


def test_a_run_that_is_resumed_for_its_evaluation_alone_keeps_its_time(tmp_path):
    content = {**TINY, "training": {**TINY["training"], "max_steps": 4}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    words = ["train", "--config", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "run")]
    assert main(words) == 0
    (tmp_path / "run" / "result.json").unlink()  # as if killed during the last evaluation
    assert main([*words, "--resume"]) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    trained = [float(row["seconds"]) for row in rows]
    assert trained == sorted(trained)
    assert trained[-1] > 0


def test_a_logged_loss_is_the_mean_over_the_steps_since_the_last(config_file, tmp_path):
    words = ["--config", str(config_file), "--training.max_steps", "6"]
    for name, every in (("each", "1"), ("third", "3")):
        assert main(["train", *words, "--runtime.log_every", every, "--output", str(tmp_path / name)]) == 0

    def losses(name):
        rows = csv.DictReader((tmp_path / name / "metrics.csv").open())
        return {int(row["step"]): float(row["loss"]) for row in rows if row["loss"]}

    each, third = losses("each"), losses("third")
    assert third.keys() == {3, 6}
    for step in third:
        assert third[step] == pytest.approx(sum(each[step - i] for i in range(3)) / 3, rel=1e-4)


def test_no_number_is_read_from_the_device_by_logging_and_each_reading_is_logged_once(tmp_path, monkeypatch):
    reads, item = [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: reads.append(tensor) or item(tensor))
    slow = {"lr": 1e-4, "warmup_steps": 0}
    c = config(training={"max_steps": 9, "checkpoint_every": 20}, runtime={"log_every": 4}, optimizer=slow)
    data = build_dataset(c, "train")
    module = build_training(c, build_model(c, 6), train_set=data, test_set=build_dataset(c, "test"))
    trainer = make_trainer(loop_settings(c, len(data)), tmp_path)
    trainer.limit_val_batches = 0
    trainer.fit(module)
    assert trainer.global_step == 9
    assert not [tensor for tensor in reads if tensor.is_floating_point()], "whole numbers are the loaders' seeds"
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 7]
    assert events.Scalars("train/loss")[1].value == pytest.approx(module.readings["loss"])


def test_clipping_in_mixed_precision_takes_the_optimizer_that_goes_over_all_tensors_at_once():
    model = build_model(config(), 6)
    clipped = config(training={"clip_grad_norm": 1.0, "precision": "bf16-mixed"})
    assert build_optimizer(config(), model).defaults["fused"] is True
    assert build_optimizer(clipped, model).defaults["fused"] is None, "False would mean tensor by tensor on a GPU"


def test_a_compiled_mean_over_all_steps_is_refused():
    norm = {"backbone": {"kind": "batch_norm", "momentum": None}}
    check_model(config(norm=norm))
    with pytest.raises(ValueError, match=r"conv1_1\.norm: momentum: null, a mean over all steps, cannot be compiled"):
        check_model(config(norm=norm, model={"compile": True}))


def test_the_average_of_the_weights_is_the_exponential_one(tmp_path):
    c = config(training={"max_steps": 5, "ema_decay": 0.8, "checkpoint_every": 20}, norm={"backbone": "batch_norm"})
    data = build_dataset(c, "train")
    module = build_training(c, build_model(c, 6), train_set=data, test_set=build_dataset(c, "test"))
    trainer = make_trainer(loop_settings(c, len(data)), tmp_path)
    trainer.limit_val_batches = 0
    history = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            history.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    trainer.callbacks.insert(0, Watch())
    trainer.fit(module)
    for name, value in module.model.state_dict().items():
        if value.is_floating_point():
            expected = history[0][name]
            for state in history[1:]:
                expected = 0.8 * expected + 0.2 * state[name]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_no_checkpoint_is_written_behind_a_loss_that_was_not_read():
    module = training(runtime={"log_every": 100})
    module._unread.append((5, {"classification": torch.tensor(float("nan"))}, torch.tensor([0])))
    with pytest.raises(
        NonFiniteLossError, match="step 5: the loss is not finite: classification nan; images: shapes_1_"
    ):
        module.on_save_checkpoint({})


def test_a_run_is_not_resumed_on_another_number_of_devices(config_file, tmp_path, capsys):
    words = ["train", "--config", str(config_file), "--output", str(tmp_path / "run")]
    assert main(words) == 0
    (tmp_path / "run" / "result.json").unlink()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["world_size"] == 1
    torch.save({**checkpoint, "world_size": 2}, path)
    assert main([*words, "--resume"]) == 2
    assert "the run was on 2 devices and is now on 1" in capsys.readouterr().err


def test_metrics_of_another_loss_get_columns_of_their_own(tmp_path):
    class Trainer:
        is_global_zero, global_step = True, 0

    file = MetricsFile(tmp_path / "metrics.csv", images_per_epoch=4, images_per_step=2)
    file.on_train_start(Trainer, None)
    file._write(Trainer, {"loss": 1.5})
    file._write(Trainer, {"loss": 1.25, "centerness": 0.5})
    first, second = csv.DictReader((tmp_path / "metrics.csv").open())
    assert (first["loss"], first["centerness"]) == ("1.5", "")
    assert (second["loss"], second["centerness"]) == ("1.25", "0.5")
