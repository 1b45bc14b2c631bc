"""The train command: what a run leaves, resuming, and every mistake's one line."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ssdnorm import load_detector
from ssdnorm.cli import main
from ssdnorm.config_file import SHIPPED
from ssdnorm.engine.module import TrainingModule
from ssdnorm.engine.run import _warn_if_bf16_is_slow

ROOT = Path(__file__).parents[2]
TINY = {
    "norm": {"backbone": "none", "extras": "none", "taps": {"conv4_3": "l2_norm"}},
    "model": {"width": 0.02, "dropout": 0.5},
    "data": {
        "train": {"format": "shapes", "num_images": 10, "seed": 1},
        "test": {"format": "shapes", "num_images": 3, "seed": 2},
    },
    "optimizer": {"lr": 0.01, "warmup_steps": 2},
    "training": {"max_steps": 2, "batch_size": 3, "checkpoint_every": 2},
    "runtime": {"log_every": 1, "accelerator": "cpu", "devices": 1},
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def train(config: Path, output: Path, *words: str) -> int:
    return main(["train", "--config", str(config), "--output", str(output), *words])


def test_a_run_leaves_all_that_was_asked_of_it(config, tmp_path, capsys):
    output = tmp_path / "run"
    assert train(config, output, "--optimizer.lr", "0.02") == 0
    printed = capsys.readouterr().out
    assert "AP50" in printed
    assert "sheet.png" in printed
    result = json.loads((output / "result.json").read_text())
    assert {"AP", "AP50", "VOC07"} <= set(result["metrics"])
    assert result["seed"] == 0
    assert result["steps"] == 2
    assert [row["group"] for row in result["parameter_groups"]] == ["weights", "norms", "biases"]
    assert {"versions", "commit", "device", "seconds"} <= set(result)
    assert yaml.safe_load((output / "config.yaml").read_text())["optimizer"]["lr"] == 0.02
    assert isinstance(json.loads((output / "detections.json").read_text()), list)
    rows = list(csv.DictReader((output / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2"]
    assert [row["step"] for row in rows if row["AP"]] == ["2"]
    assert list(output.glob("tensorboard/events*"))
    assert (output / "pictures" / "sheet.png").stat().st_size > 1000
    detector = load_detector(output / "checkpoints" / "model.safetensors")
    assert detector.class_names == ("circle", "cross", "square", "star", "triangle")
    assert detector.model.arguments["width"] == 0.02


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(config, tmp_path, monkeypatch):
    words = ("--training.max_steps", "6", "--norm.backbone", "batch_norm", "--training.ema_decay", "0.9")
    assert train(config, tmp_path / "whole", *words) == 0

    step = TrainingModule.training_step

    def stop_at_step_5(self, batch, batch_idx):
        if self.global_step == 5:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", stop_at_step_5)
    assert train(config, tmp_path / "halves", *words) == 130
    assert not (tmp_path / "halves" / "result.json").exists()
    monkeypatch.setattr(TrainingModule, "training_step", step)
    assert train(config, tmp_path / "halves", *words, "--resume") == 0

    whole, halves = (load_file(tmp_path / name / "checkpoints" / "model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    steps = [row["step"] for row in csv.DictReader((tmp_path / "halves" / "metrics.csv").open()) if row["loss"]]
    assert steps == ["1", "2", "3", "4", "5", "6"]
    assert train(config, tmp_path / "halves", *words, "--resume") == 0  # finished: says so and ends


def test_the_same_seed_gives_the_same_weights_and_another_one_others(config, tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert train(config, tmp_path / name, "--training.seed", seed) == 0
    a, b, c = (load_file(tmp_path / name / "checkpoints" / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.locs.fc7.weight"], c["head.locs.fc7.weight"])


def test_a_recipe_is_found_by_name_and_the_run_writes_its_complete_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--norm", "l2_norm", "--model.width", "0.02", "--training.max_steps", "1", "--optimizer.lr_drops", "[]"]
    small = ["--data.test.num_images", "2", "--training.batch_size", "2", "--runtime.accelerator", "cpu"]
    assert main(["train", "--config", "quickstart", "--output", "run", *words, *small]) == 0
    written = yaml.safe_load(Path("run/config.yaml").read_text())
    assert written["norm"] == {
        "backbone": "none",
        "extras": "none",
        "taps": {"conv4_3": {"kind": "l2_norm", "scale": 20}},
    }
    assert written["optimizer"].keys() == yaml.safe_load((SHIPPED / "quickstart.yaml").read_text())[
        "optimizer"
    ].keys() | {"preset"}


@pytest.mark.parametrize("clip", ["null", "5.0"])
def test_mixed_precision_trains_with_and_without_clipping(config, tmp_path, clip):
    words = ["--training.precision", "bf16-mixed", "--training.clip_grad_norm", clip, "--training.ema_decay", "0.5"]
    assert train(config, tmp_path / "run", *words) == 0
    weights = load_file(tmp_path / "run" / "checkpoints" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize(("has_units", "warned"), [(True, False), (False, True)])
def test_bf16_is_warned_of_on_a_cpu_without_its_units(config, tmp_path, monkeypatch, caplog, has_units, warned):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_units}, raising=False)
    _warn_if_bf16_is_slow.cache_clear()
    assert train(config, tmp_path / "run", "--training.precision", "bf16-mixed") == 0
    assert caplog.text.count("slower than 32-true on this CPU") == warned, "checked twice, said once"


def test_a_loss_that_is_no_number_stops_with_step_parts_and_images(config, tmp_path, capsys):
    assert train(config, tmp_path / "run", "--optimizer.lr", "1e30", "--training.max_steps", "9") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the loss is not finite: bbox_regression" in line
    assert "step 1" in line or "step 2" in line
    assert "shapes_1_" in line
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--norm.backbone", "batchnorm"], "tiny.yaml: norm.backbone: unknown norm 'batchnorm'; choose one of: "),
        (["--training.batch_size", "0"], "command line: training.batch_size: must be greater than 0; got 0"),
        (["--data.train", "{format: voc, root: nowhere, split: train, num_images: null, seed: null}"], "nowhere"),
        (["--data.class_names", "[cat, dog]"], "data.class_names: shapes have the classes"),
        (["--training.precision", "16-mixed"], "16-mixed needs a GPU; on a CPU choose 32-true or bf16-mixed"),
        (["--runtime.accelerator", "cuda", "--runtime.devices", "9"], "runtime: accelerator 'cuda', devices 9: "),
        (["--runtime.accelerator", "abacus"], "runtime: accelerator 'abacus'"),
        (["--runtime.devices", "2", "--norm.taps", "{fc7: sync_batch_norm}"], "sync_batch_norm on several devices"),
        (
            ["--runtime.devices", "2", "--data.test.num_images", "1"],
            "2 devices are more than the 1 images of data.test",
        ),
        (["--model.weights", "none.npz"], "none.npz: no such weights file"),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2_and_leaves_nothing(config, tmp_path, capsys, words, message):
    assert train(config, tmp_path / "run", *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten_nor_resumed_with_another_config(config, tmp_path, capsys):
    output = tmp_path / "run"
    assert train(config, output) == 0
    before = (output / "result.json").read_bytes()
    assert train(config, output) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert train(config, output, "--resume", "--optimizer.lr", "0.5", "--norm.extras", "batch_norm") == 2
    assert "these keys differ: norm.extras, optimizer.lr" in capsys.readouterr().err
    assert train(config, tmp_path / "new", "--resume") == 2
    assert "no such run folder" in capsys.readouterr().err
    assert (output / "result.json").read_bytes() == before


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_finished_run_is_not_gone_on_with_by_any_of_its_processes(config, tmp_path, monkeypatch, rank):
    assert train(config, tmp_path / "run") == 0
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("ssdnorm.build.build_dataset", lambda *_, **__: pytest.fail("it goes on"))
    assert train(config, tmp_path / "run", "--resume") == 0


def test_averaged_weights_are_saved_by_a_run_that_is_resumed_after_its_last_step(config, tmp_path, monkeypatch):
    words = ["--training.ema_decay", "0.8", "--training.max_steps", "4"]
    assert train(config, tmp_path / "whole", *words) == 0

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "evaluate_on", interrupted)
        assert train(config, tmp_path / "cut", *words) == 130
    assert train(config, tmp_path / "cut", *words, "--resume") == 0
    whole, cut = (load_file(tmp_path / name / "checkpoints" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("checkpoints/last.ckpt", b"PK half", "last.ckpt is cut off or no checkpoint"),
        ("config.yaml", b"a: [", "config.yaml: not readable as YAML"),
        ("config.yaml", b"", "config.yaml: holds no config"),
    ],
)
def test_a_damaged_run_is_not_resumed(config, tmp_path, capsys, file, content, message):
    assert train(config, tmp_path / "run") == 0
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / file).write_bytes(content)
    assert train(config, tmp_path / "run", "--resume") == 2
    assert message in capsys.readouterr().err


def test_a_missing_config_and_a_missing_option_are_refused(tmp_path, capsys):
    assert train(tmp_path / "none.yaml", tmp_path / "run") == 2
    assert "no such config file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", "x.yaml"])
    assert stop.value.code == 2


def test_a_run_folder_of_an_older_version_is_finished_with_its_own_config(config, tmp_path, capsys):
    assert train(config, tmp_path / "run") == 0
    old = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for name in ("train", "test"):
        old["data"][name] |= dict.fromkeys(("root", "split", "annotations", "images", "only"))
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(old))
    (tmp_path / "run" / "result.json").unlink()
    assert train(tmp_path / "run" / "config.yaml", tmp_path / "run", "--resume") == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_help_lists_every_key_of_the_config(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for line in (
        "--norm.backbone NormSpec (default none) after every convolution of the backbone",
        "--optimizer.biases.lr_factor NonNegativeFloat (default 2.0) on the learning rate",
        "--data.train.format ['voc'] | ['coco'] | ['shapes'] voc where it is left out",
        "--data.validation.num_images PositiveInt",
        "--training.ema_decay Fraction | None (default null)",
    ):
        assert line in text


def test_the_script_is_the_command(config, tmp_path):
    words = ["--config", str(config), "--output", str(tmp_path / "run"), "--norm.backbone", "batchnorm"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("Did you mean 'batch_norm'?")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_run_and_evaluate_every_image_once(config, tmp_path):
    words = ["--config", str(config), "--output", str(tmp_path / "run"), "--runtime.devices", "2"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["world_size"] == 2
    assert {row["image_id"] for row in json.loads((tmp_path / "run" / "detections.json").read_text())} <= {1, 2, 3}
