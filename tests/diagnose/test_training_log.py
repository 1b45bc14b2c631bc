"""diagnostics.csv: its numbers against plain formulas on the training's own batches, and a training left as it was."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from ssdnorm.build import build_dataset, build_model, build_training, loop_settings
from ssdnorm.config_file import merge_config
from ssdnorm.diagnose.training_log import DiagnosticsFile
from ssdnorm.engine.run import make_trainer

TAPS = ["conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2", "conv11_2"]
VGG16 = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]
LAYERS = [*VGG16, "fc6", "fc7", *(f"conv{i}_{j}" for i in range(8, 12) for j in (1, 2))]
BLOCKS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "conv8", "conv9", "conv10", "conv11", "head"]


def config(**changes):
    rooms = {
        "norm": {"backbone": "none", "extras": "none", "taps": {"conv4_3": {"kind": "l2_norm", "scale": 7.0}}},
        "model": {"width": 0.02, "dropout": 0.5},
        "data": {
            "train": {"format": "shapes", "num_images": 10, "seed": 1},
            "test": {"format": "shapes", "num_images": 3, "seed": 2},
        },
        "optimizer": {"lr": 0.01, "warmup_steps": 2},
        "training": {"max_steps": 6, "batch_size": 2, "checkpoint_every": 4, "clip_grad_norm": 0.1},
        "runtime": {"log_every": 1, "accelerator": "cpu", "devices": 1},
    }
    return merge_config(("test", {name: {**keys, **changes.get(name, {})} for name, keys in rooms.items()}))


def fit(folder, c, *callbacks, resume=False):
    data = build_dataset(c, "train")
    model = build_model(c, 6)
    module = build_training(c, model, train_set=data, test_set=build_dataset(c, "test"))
    trainer = make_trainer(loop_settings(c, len(data)), folder)
    trainer.limit_val_batches = 0
    trainer.callbacks = [*callbacks, *trainer.callbacks]
    checkpoint = folder / "checkpoints" / "last.ckpt"
    trainer.fit(module, ckpt_path=str(checkpoint) if resume else None, weights_only=True)
    return module


def read(path):
    with path.open(newline="") as file:
        return [(int(r["step"]), r["statistic"], r["name"], float(r["value"])) for r in csv.DictReader(file)]


class Watch(pl.Callback):
    """Keep the images and weights of every batch, and the gradients of every step."""

    def __init__(self):
        self.images, self.weights, self.gradients = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.images.append(batch.images.clone())
        self.weights.append({k: v.clone() for k, v in pl_module.model.state_dict().items()})

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append({k: p.grad.clone() for k, p in pl_module.model.named_parameters()})


def numbers_of(x):
    """Every statistic of a layer's map, by NumPy in float64."""
    values = x.double().numpy()
    lengths = sorted(np.sqrt((values**2).sum(axis=1)).flatten().tolist())
    return {
        "mean": values.mean(),
        "std": values.std(),
        "rms": np.sqrt((values**2).mean()),
        "length_mean": np.mean(lengths),
        "length_p05": lengths[int(0.05 * (len(lengths) - 1))],
        "length_median": lengths[int(0.5 * (len(lengths) - 1))],
        "length_p95": lengths[int(0.95 * (len(lengths) - 1))],
        "zero_positions": lengths.count(0.0) / len(lengths),
        "dead_channels": (values == 0).all(axis=(0, 2, 3)).mean(),
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A watched run whose conv2_1 has two dead channels at least, measured at steps 0, 4 and 5; its rows by step."""

    class Kill(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            with torch.no_grad():
                pl_module.model.features.backbone.conv2_1.conv.bias[:2] = -1e6

    folder, watch = tmp_path_factory.mktemp("watched"), Watch()
    c = config(model={"width": 0.02, "dropout": 0.0})
    fit(folder, c, Kill(), watch, DiagnosticsFile(folder / "diagnostics.csv", every=4))
    rows = {}
    for step, statistic, name, value in read(folder / "diagnostics.csv"):
        rows.setdefault(step, {})[statistic, name] = value
    return c, folder, watch, rows


@pytest.mark.parametrize("step", [0, 4, 5])
def test_the_numbers_are_those_of_the_batch_and_weights_of_the_step(watched, step):
    c, _, watch, rows = watched
    assert list(rows) == [0, 4, 5]
    row = rows[step]
    model, maps = build_model(c, 6), {}
    model.load_state_dict(watch.weights[step])
    for room in (model.features.backbone, model.features.extras):
        for name, block in room.named_children():
            if hasattr(block, "relu"):
                block.relu.register_forward_hook(lambda _, args, y, name=name: maps.update({name: y.clone()}))
    with torch.no_grad():
        after = model.features(model.normalize(watch.images[step]))
    assert list(maps) == LAYERS
    assert list(after) == TAPS
    for name, x in maps.items():
        expected = numbers_of(x)
        assert {s: row[s, name] for s in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5), name
    for name, normed in after.items():
        for side, x in (("before", maps[name]), ("after", normed)):
            numbers = numbers_of(x)
            expected = pytest.approx([numbers["length_mean"], numbers["rms"]], rel=2e-4, abs=1e-7)
            assert [row[f"length_{side}", name], row[f"rms_{side}", name]] == expected, name
    scale = watch.weights[step]["features.tap_norms.conv4_3.weight"]
    expected = [float(v) for v in (scale.mean(), scale.std(correction=0), scale.min(), scale.max())]
    scales = [row[f"scale_{k}", "conv4_3"] for k in ("mean", "std", "min", "max")]
    assert scales == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert rows[0]["scale_mean", "conv4_3"] == 7.0
    assert row["dead_channels", "conv2_1"] >= 0.25
    assert row["dead_channels", "conv1_1"] == 0


def test_gradient_norms_are_those_before_clipping_and_their_squares_add_up(watched):
    _, _, watch, rows = watched
    for step, row in rows.items():
        norms = {name: value for (statistic, name), value in row.items() if statistic == "gradient_norm"}
        assert list(norms) == [*BLOCKS[:-1], "tap_norms", "head"]
        gradients = watch.gradients[step]
        whole = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        assert math.hypot(*norms.values()) == pytest.approx(whole, rel=1e-4)
        assert whole > 0.1  # clipping would have held it there
        head = [g.double().square().sum() for name, g in gradients.items() if name.startswith("head.")]
        assert norms["head"] == pytest.approx(float(sum(head)) ** 0.5, rel=1e-4)


def test_the_training_is_bit_for_bit_the_one_without(tmp_path):
    c = config(norm={"backbone": "batch_norm"}, training={"max_steps": 3, "batch_size": 2})
    plain = fit(tmp_path / "plain", c)
    measured = fit(tmp_path / "measured", c, DiagnosticsFile(tmp_path / "diagnostics.csv", every=2))
    for (name, a), b in zip(plain.state_dict().items(), measured.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_first_of_accumulated_batches_is_measured_in_train_mode_once_per_step(tmp_path):
    c, watch = (
        config(norm={"backbone": "batch_norm"}, training={"max_steps": 2, "batch_size": 2, "accumulate": 2}),
        Watch(),
    )
    fit(tmp_path, c, watch, DiagnosticsFile(tmp_path / "diagnostics.csv", every=1))
    rows = {(step, statistic, name): value for step, statistic, name, value in read(tmp_path / "diagnostics.csv")}
    assert len(rows) == len(read(tmp_path / "diagnostics.csv"))
    assert {step for step, *_ in rows} == {0, 1}
    assert len(watch.images) == 4
    model = build_model(c, 6).train()
    for step in (0, 1):
        model.load_state_dict(watch.weights[2 * step])
        with torch.no_grad():
            block = model.features.backbone.conv1_1(model.normalize(watch.images[2 * step]))
        expected = numbers_of(block)
        assert {s: rows[step, s, "conv1_1"] for s in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("content", ["stp,statistic,name,value\n1,rms,fc7,2\n", "step,statistic,value\n0,rms,2\n"])
def test_a_damaged_file_of_a_resumed_run_is_named(tmp_path, content):
    (tmp_path / "diagnostics.csv").write_text(content)
    callback = DiagnosticsFile(tmp_path / "diagnostics.csv", every=2)
    module = torch.nn.Module()
    module.tap_norms = torch.nn.ModuleDict()
    with pytest.raises(ValueError, match=r"diagnostics\.csv: damaged; delete it to go on without its rows: KeyError"):
        callback.on_train_start(SimpleNamespace(is_global_zero=True, global_step=2), module)


def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 5:
                raise KeyboardInterrupt

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(whole, config(), DiagnosticsFile(whole / "diagnostics.csv", every=2))
    with pytest.raises(SystemExit):
        fit(cut, config(), DiagnosticsFile(cut / "diagnostics.csv", every=2), Stop())
    assert max(step for step, *_ in read(cut / "diagnostics.csv")) == 4  # the checkpoint's own step: measured again
    fit(cut, config(), DiagnosticsFile(cut / "diagnostics.csv", every=2), resume=True)
    assert read(cut / "diagnostics.csv") == read(whole / "diagnostics.csv")


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_tensorboard_has_the_same_numbers_and_the_lengths_as_a_figure(watched):
    _, folder, _, rows = watched
    events = events_of(folder)
    for step, row in rows.items():
        for (statistic, name), value in row.items():
            found = {e.step: e.value for e in events.Scalars(f"diagnostics/{statistic}/{name}")}
            assert found[step] == pytest.approx(value, rel=1e-5, abs=1e-9)
    figures = events.Images("diagnostics/lengths")
    assert [figure.step for figure in figures] == [0, 4, 5]
    assert all(figure.width > 400 and len(figure.encoded_image_string) < 60_000 for figure in figures)


def test_lengths_that_are_no_numbers_are_written_and_stop_no_training(tmp_path):
    class Diverge(pl.Callback):  # as on a GPU, whose losses are read later
        def on_train_start(self, trainer, pl_module):
            pl_module._check_losses = pl_module._publish_readings = pl_module._check_weights = lambda: None
            with torch.no_grad():
                pl_module.model.features.tap_norms["conv4_3"].weight.fill_(math.nan)

    c = config(training={"max_steps": 2, "batch_size": 2, "checkpoint_every": 4})
    fit(tmp_path, c, Diverge(), DiagnosticsFile(tmp_path / "diagnostics.csv", every=1))
    rows = {(step, s, n): v for step, s, n, v in read(tmp_path / "diagnostics.csv")}
    events = events_of(tmp_path)
    assert math.isfinite(rows[0, "length_before", "conv4_3"])
    assert math.isnan(rows[0, "length_after", "conv4_3"])
    assert all(math.isnan(rows[1, "length_median", name]) for name in LAYERS)
    assert [event.step for event in events.Images("diagnostics/lengths")] == [0, 1]


def test_a_model_without_taps_is_refused(tmp_path):
    module = pl.LightningModule()
    module.layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"no taps found in LightningModule: it needs .* tap_norms"):
        DiagnosticsFile(tmp_path / "diagnostics.csv", every=1).on_train_start(pl.Trainer(logger=False), module)


def test_every_is_a_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match=r"every is 1 step or more; got 0"):
        DiagnosticsFile(tmp_path / "diagnostics.csv", every=0)
