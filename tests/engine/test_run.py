"""What a run reports: evaluations, population statistics, averages, precision, the metrics file."""

import csv
import json

import pytest
import pytorch_lightning as pl
import torch

from ssdnorm.build import loop_settings
from ssdnorm.engine.callbacks import MetricsFile
from ssdnorm.engine.run import _warn_if_bf16_is_slow, make_trainer
from tests.small_training import result_of, rows, tiny_config, tiny_module, train, weights

BATCH_NORM = {"backbone": "batch_norm", "extras": "batch_norm"}


def test_a_run_reports_population_statistics_beside_the_running_ones(tmp_path):
    plain, population = tmp_path / "plain", tmp_path / "population"
    assert train(plain, norm=BATCH_NORM, training={"ema_decay": 0.9}) == 0
    assert train(population, norm=BATCH_NORM, training={"ema_decay": 0.9, "population_images": 5}) == 0
    before, result = result_of(plain), result_of(population)
    assert result["metrics"] == before["metrics"]
    assert set(result["metrics_population"]) == set(result["metrics"])
    assert result["population_images"] == 5
    expected, running, recomputed = weights(plain), weights(population), weights(population, "model_population")
    for name, tensor in running.items():
        assert torch.equal(tensor, expected[name]), name
        is_statistic = name.endswith(("running_mean", "running_var"))
        assert torch.equal(tensor, recomputed[name]) != is_statistic, name
    assert len(rows(population)) == len(rows(plain))


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_and_statistics_of_the_eager_one(tmp_path):
    changes = {"norm": BATCH_NORM, "optimizer": {"lr": 1e-6}, "training": {"population_images": 5}}
    eager, compiled = tmp_path / "eager", tmp_path / "compiled"
    assert train(eager, **changes) == 0
    assert train(compiled, model={"compile": True}, **changes) == 0
    losses = [[float(row["loss"]) for row in rows(run) if row["loss"]] for run in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    got = weights(compiled, "model_population")
    for key, tensor in weights(eager, "model_population").items():
        torch.testing.assert_close(got[key], tensor, rtol=5e-2, atol=5e-3, msg=lambda m, key=key: f"{key}: {m}")


def test_validation_images_serve_until_the_end_and_test_images_there_alone(tmp_path):
    data = {"validation": {"format": "shapes", "num_images": 4, "seed": 3}}
    changes = {"data": data, "training": {"max_steps": 4, "eval_every": 2}}
    run = tmp_path / "run"
    assert train(run, pictures=True, **changes) == 0
    evaluations = [(row["step"], row["evaluated_on"]) for row in rows(run) if row["AP"]]
    assert evaluations == [("2", "validation"), ("4", "validation"), ("4", "test")]
    seconds = [float(row["seconds"]) for row in rows(run)]
    assert seconds == sorted(seconds)
    assert seconds[1] < seconds[-1], "the clock continues after an evaluation"
    result = result_of(run)
    assert set(result["metrics_validation"]) == set(result["metrics"])
    image_ids = {row["image_id"] for row in json.loads((run / "detections.json").read_text())}
    assert image_ids == {1, 2, 3}, "detections of the three test images"

    (run / "result.json").unlink()  # as if killed during the last evaluation
    assert train(run, "--resume", **changes) == 0
    assert [float(row["seconds"]) for row in rows(run)] == seconds, "resumed to evaluate alone, it keeps its time"


@pytest.mark.parametrize(("clip", "has_units"), [(None, True), (5.0, False)])
def test_bf16_trains_with_and_without_clipping_and_warns_once_without_its_units(
    tmp_path, monkeypatch, caplog, clip, has_units
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_units}, raising=False)
    _warn_if_bf16_is_slow.cache_clear()
    training = {"precision": "bf16-mixed", "clip_grad_norm": clip, "ema_decay": 0.5}
    assert train(tmp_path / "run", training=training) == 0
    assert all(
        tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights(tmp_path / "run").values()
    )
    assert caplog.text.count("slower than 32-true on this CPU") == (not has_units)


def test_the_average_of_the_weights_is_the_exponential_one(tmp_path):
    c = tiny_config(training={"max_steps": 5, "ema_decay": 0.8, "checkpoint_every": 20}, norm=BATCH_NORM)
    module = tiny_module(c)
    trainer = make_trainer(loop_settings(c, 10), tmp_path)
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


def test_a_resumed_run_counts_the_time_of_the_first_part_and_not_that_between_them(tmp_path, monkeypatch):
    clock = iter([10.0, 110.0, 500.0, 507.0])
    monkeypatch.setattr("ssdnorm.engine.callbacks.time.perf_counter", lambda: next(clock))
    first = MetricsFile(tmp_path / "metrics.csv", epochs_per_step=0.2)
    state = first.state_dict()
    again = MetricsFile(tmp_path / "metrics.csv", epochs_per_step=0.2)
    again.load_state_dict(state)
    assert again.elapsed() == 107.0


def test_metrics_of_another_loss_get_columns_of_their_own(tmp_path):
    class Trainer:
        is_global_zero, global_step, world_size, device_changes = True, 3, 1, ()

    file = MetricsFile(tmp_path / "metrics.csv", epochs_per_step=0.5)
    file.on_train_start(Trainer, None)
    file._write(Trainer, Trainer, {"loss": 1.5})
    file._write(Trainer, Trainer, {"loss": 1.25, "centerness": 0.5})
    first, second = csv.DictReader((tmp_path / "metrics.csv").open())
    assert (first["step"], first["epoch"], first["loss"], first["centerness"]) == ("3", "1.5", "1.5", "")
    assert (second["loss"], second["centerness"]) == ("1.25", "0.5")
