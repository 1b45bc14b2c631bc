"""A training module: checks before the first step, losses read and logged, checkpoints refused."""

from types import SimpleNamespace

import pytest
import torch
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
from ssdnorm.engine.module import NonFiniteLossError, TrainingModule
from ssdnorm.engine.run import make_trainer
from tests.small_training import tiny_config as config
from tests.small_training import tiny_module

GROUPS = {"kind": "group_norm", "groups": 8}


def training(**changes):
    return tiny_module(config(**changes))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ({"extras": "batch_norm"}, r"norm\.extras at training\.batch_size 1: features\.extras\.conv11_2\.norm: "
         r"BatchNorm2d .* 1 value per channel \(batch 1, map 1×1\)\. Ways out: .*frozen_batch_norm"),
        ({"taps": {"conv11_2": "batch_norm"}}, r"norm\.taps at .*tap_norms\.conv11_2: BatchNorm2d .* 1 value"),
        ({"extras": GROUPS}, r"extras\.conv11_2\.norm: GroupNorm .* 1 value per group .*fewer groups"),
        ({"extras": "batch_norm", "taps": {"conv11_2": "batch_norm"}}, r"norm\.extras and norm\.taps at .*"),
    ],
)  # fmt: skip
def test_statistics_over_one_value_are_refused_before_data_is_read_and_before_training(norm, message):
    changes = {"norm": norm, "training": {"batch_size": 1, "accumulate": 8}}
    with pytest.raises(ValueError, match=message):
        check_model(config(**changes))
    with pytest.raises(ValueError, match=message):
        training(**changes)


@pytest.mark.parametrize(
    ("norm", "runtime"),
    [
        ({"backbone": "batch_norm"}, {}),  # its last map is 19×19
        ({"extras": "frozen_batch_norm"}, {}),
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


def test_the_canvas_of_a_zoomed_out_image_has_the_colour_that_the_network_subtracts():
    c = config()
    model = build_model(c, 6)
    model.image_mean.copy_(torch.tensor([0.1, 0.2, 0.4]))
    module = build_training(c, model, train_set=build_dataset(c, "train"), test_set=build_dataset(c, "test"))
    assert module.make_train_loader.args[1].fill == (26, 51, 102)


def test_population_statistics_of_a_model_without_batch_norm_are_left_out_and_said(caplog):
    with caplog.at_level("WARNING", logger="ssdnorm.build"):
        module = training(training={"population_images": 5})
    assert module.population is None
    assert "no batch norm with running statistics" in caplog.text


def test_readings_are_means_over_their_steps_logged_once_and_no_number_is_read_for_them(tmp_path, monkeypatch):
    reads, item = [], torch.Tensor.item
    losses, step = [], TrainingModule.training_step

    def recorded_step(*arguments):
        loss = step(*arguments)
        losses.append(loss.detach().clone())
        return loss

    monkeypatch.setattr(TrainingModule, "training_step", recorded_step)
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: reads.append(tensor) or item(tensor))
    slow = {"lr": 1e-4, "warmup_steps": 0}
    c = config(training={"max_steps": 9, "checkpoint_every": 20}, runtime={"log_every": 4}, optimizer=slow)
    module = tiny_module(c)
    trainer = make_trainer(loop_settings(c, 10), tmp_path)
    trainer.limit_val_batches = 0
    trainer.fit(module)
    assert trainer.global_step == 9
    assert module.model.features.backbone.fc6.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not [tensor for tensor in reads if tensor.is_floating_point()], "whole numbers are the loaders' seeds"
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 7]
    means = torch.stack(losses)[:8].unflatten(0, (2, 4)).mean(dim=1).tolist()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(means, rel=1e-5)
    assert module.readings["loss"] == pytest.approx(means[1], rel=1e-5)


def test_every_process_step_and_accumulated_batch_draws_its_own_random_numbers():
    module = training(training={"accumulate": 2})
    batch = next(iter(module.make_train_loader(rank=0, world_size=1, start_batch=0)))
    seeds = []
    for rank in (0, 1):
        for step in (0, 1):
            module._trainer = SimpleNamespace(global_rank=rank, global_step=step, world_size=2, loggers=[])
            for place in (0, 1):
                module.training_step(batch, place)
                seeds.append(torch.initial_seed())
    assert len(set(seeds)) == 8


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


def test_no_checkpoint_is_written_behind_a_loss_that_was_not_read():
    module = training(runtime={"log_every": 100})
    module._unread.append((5, {"classification": torch.tensor(float("nan"))}, torch.tensor([0])))
    with pytest.raises(
        NonFiniteLossError, match="step 5: the loss is not finite: classification nan; images: shapes_1_"
    ):
        module.on_save_checkpoint({})
