"""The train command: what a run leaves, resuming, and one line per mistake."""

import json
import shutil
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
import torch
import yaml
from PIL import Image

from ssdnorm import load_detector
from ssdnorm.cli import main
from ssdnorm.engine.checkpoint_files import write_checkpoint_file
from ssdnorm.engine.module import TrainingModule
from ssdnorm.ownership import owned_folder
from tests.small_training import TINY, rows, script, tiny_config, train, train_words, weights


def record(run, name="result"):
    return json.loads((run / f"{name}.json").read_text())


def config_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of TINY; copy it before changing it."""
    output = tmp_path_factory.mktemp("finished") / "run"
    assert train(output) == 0
    return output


@pytest.fixture
def unfinished(finished, tmp_path):
    """A run that was stopped before its result was written."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


def test_a_run_leaves_its_config_numbers_pictures_and_weights(tmp_path, monkeypatch, capsys):
    output = tmp_path / "run"
    monkeypatch.setattr(  # in two steps nothing is hit, and no threshold found
        "ssdnorm.metrics.thresholds.thresholds_of", lambda points: dict.fromkeys(points["classes"], 0.25)
    )
    words = ["--optimizer.lr", "0.02", "--post_process.max_detections", "7"]
    assert train(output, *words, pictures=True) == 0
    printed = capsys.readouterr().out
    assert "AP50" in printed
    assert "sheet.png" in printed
    result = record(output)
    assert {"AP", "AP50", "VOC07"} <= set(result["metrics"])
    assert (result["seed"], result["steps"], result["world_size"]) == (0, 2, 1)
    assert [row["group"] for row in result["parameter_groups"]] == ["weights", "norms", "biases"]
    assert {"versions", "commit", "device", "seconds"} <= set(result)
    optimizer = {**TINY["optimizer"], "lr": 0.02}
    config = tiny_config(optimizer=optimizer, post_process={"max_detections": 7})
    assert config_of(output) == config.model_dump(), "complete"
    assert isinstance(record(output, "detections"), list)
    assert [row["step"] for row in rows(output) if row["loss"]] == ["1", "2"]
    assert [row["step"] for row in rows(output) if row["AP"]] == ["2"]
    assert list(output.glob("tensorboard/events*"))
    widths = {"sheet.png": 1800, "curves.png": 1000, "train_batches.jpg": 1200, "001_shapes_2_1.png": 600}
    for name, width in widths.items():
        assert Image.open(output / "pictures" / name).width > width, name
    detector = load_detector(output / "checkpoints" / "model.safetensors")
    assert detector.class_names == ("circle", "cross", "square", "star", "triangle")
    assert detector.model.arguments["width"] == 0.02
    assert detector.thresholds == dict.fromkeys(detector.class_names, 0.25)
    assert detector.post_process.max_detections == 7


def test_averaged_weights_are_saved_by_a_run_resumed_after_its_last_step(tmp_path, monkeypatch):
    words = ["--training.ema_decay", "0.8", "--training.max_steps", "4"]
    assert train(tmp_path / "whole", *words) == 0

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "evaluate_on", Mock(side_effect=KeyboardInterrupt))
        assert train(tmp_path / "cut", *words) == 130
    assert train(tmp_path / "cut", *words, "--resume") == 0
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_another_seed_gives_other_weights(finished, tmp_path):
    assert train(tmp_path / "other", "--training.seed", "4") == 0
    name = "head.locs.fc7.weight"
    assert not torch.equal(weights(finished)[name], weights(tmp_path / "other")[name])


def test_a_loss_that_is_not_finite_stops_with_step_parts_and_images(tmp_path, capsys):
    assert train(tmp_path / "run", "--optimizer.lr", "1e30", "--training.max_steps", "9") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the loss is not finite: bbox_regression" in line
    assert "step 1" in line or "step 2" in line
    assert "shapes_1_" in line
    assert not (tmp_path / "run" / "result.json").exists()
    assert record(tmp_path / "run", "failure")["status"] == "diverged"


def test_a_run_is_never_overwritten_nor_resumed_with_another_config(finished, tmp_path, capsys):
    before = (finished / "result.json").read_bytes()
    for words, message in (
        ([], "holds a run already"),
        (["--resume", "--optimizer.lr", "0.5", "--norm.extras", "none"], "these keys differ: optimizer.lr\n"),
        (["--resume", "--optimizer.lr", "1", "--norm.extras", "l2_norm"], "keys differ: norm.extras, optimizer.lr\n"),
    ):
        assert train(finished, *words) == 2
        assert message in capsys.readouterr().err
    assert (finished / "result.json").read_bytes() == before
    assert train(tmp_path / "new", "--resume") == 2
    assert "no such run folder" in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_finished_run_is_not_continued_by_any_of_its_processes(finished, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("ssdnorm.build.build_dataset", lambda *_, **__: pytest.fail("it continues"))
    assert train(finished, "--resume") == 0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("checkpoints/last.ckpt", b"PK half", "last.ckpt is damaged or has no checksum"),
        ("config.yaml", b"a: [", "config.yaml: not readable as YAML"),
        ("config.yaml", b"", "config.yaml: data: is missing"),
        ("metrics.csv", b"step,loss\nx,y\n", "metrics.csv: damaged; delete it to go on without its rows: invalid lit"),
        ("metrics.csv", b"step,loss\n1,y\n", "metrics.csv: damaged; delete it to go on without its rows: KeyError"),
    ],
)
def test_a_damaged_run_is_not_resumed(unfinished, capsys, file, content, message):
    (unfinished / file).write_bytes(content)
    assert train(unfinished, "--resume") == 2
    assert message in capsys.readouterr().err


def test_a_run_goes_on_with_another_number_of_devices_only_if_its_batch_may_change_and_records_it(unfinished, capsys):
    run, words = unfinished, ["--training.max_steps", 4, "--runtime.batch_may_change", "true"]
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["world_size"] == 1
    write_checkpoint_file({**checkpoint, "world_size": 2}, path)  # as if on two devices until step 2
    assert train(run, "--resume") == 2
    assert "the run was on 2 devices and is now on 1" in capsys.readouterr().err
    assert train_words("--resume", run, *words) == 0
    result = record(run)
    assert (result["world_size"], result["device_changes"]) == (1, [{"step": 2, "from": 2, "to": 1}])
    last = rows(run)[-1]
    assert (last["step"], float(last["epoch"])) == ("4", pytest.approx((2 * 2 * 3 + 2 * 3) / 10))  # of 10 images
    assert train_words("--resume", run, "--training.max_steps", 5) == 0
    assert record(run)["device_changes"] == result["device_changes"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device", "somewhere"), "somewhere: No space left on device"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory (Unable to allocate 9 GiB)"),
    ],
)
def test_a_failure_is_a_line_and_a_file_with_its_reason_until_the_run_is_resumed(
    tmp_path, monkeypatch, capsys, error, reason
):
    def fail(*_):
        raise error

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", fail)
        assert train(run) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {reason}"
    assert record(run, "failure") == {"status": "failed", "reason": reason}
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / ".last.01234567.part.ckpt").touch()  # of a process that was killed
    assert train(run, "--resume") == 0
    assert not (run / "failure.json").exists()
    assert not list(run.rglob(".*"))


def test_a_run_that_another_process_owns_is_left_alone(unfinished, capsys):
    before = sorted(unfinished.rglob("*"))
    with owned_folder(unfinished):
        assert train(unfinished, "--resume") == 2
    assert "run: in use by this very process" in capsys.readouterr().err
    assert sorted(unfinished.rglob("*")) == before


def test_a_run_that_another_process_ended_meanwhile_is_left_alone(tmp_path, monkeypatch, capsys):
    @contextmanager
    def wait_for_the_other(folder, **_):
        folder.mkdir()
        (folder / "config.yaml").write_text("another's\n")
        yield

    monkeypatch.setattr("ssdnorm.cli.train.owned_folder", wait_for_the_other)
    assert train(tmp_path / "run") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_a_finished_run_is_extended_from_its_folder_alone_and_its_record_says_so(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert train_words("--resume", run, "--training.max_steps", 4) == 0
    result = record(run)
    assert (result["steps"], [row["max_steps"] for row in result["extended"]]) == (4, [2])
    assert result["schedule"]["max_steps"] == 4
    assert record(run, "result_2")["steps"] == 2
    assert config_of(run)["training"]["max_steps"] == 4
    assert [row["step"] for row in rows(run) if row["loss"]] == ["1", "2", "3", "4"]
    whole = tmp_path / "whole"
    assert train(whole, "--training.max_steps", "4") == 0
    expected, extended = weights(whole), weights(run)
    assert all(torch.equal(expected[name], extended[name]) for name in expected)

    for words, message in (
        (["--training.max_steps", 3], f"training.max_steps: {run / 'config.yaml'} has 4; a run can be extended, not"),
        (["--training.epochs", 3], "these keys differ: training.max_steps, training.epochs"),
        (["--output", run], f"--output: --resume {run} names the run folder"),
    ):
        assert train_words("--resume", run, *words) == 2
        assert message in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    assert train_words("--resume", run, "--training.max_steps", 9) == 2
    assert "has no checkpoint to go on from; it cannot be extended" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": null}'])
def test_a_run_with_a_damaged_result_is_not_extended(finished, tmp_path, capsys, content):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text(content)
    assert train_words("--resume", tmp_path / "run", "--training.max_steps", 4) == 2
    assert f"{tmp_path / 'run' / 'result.json'} is damaged (" in capsys.readouterr().err
    assert (tmp_path / "run" / "result.json").read_text() == content


def test_a_run_without_a_checkpoint_says_that_it_begins_anew(unfinished, caplog):
    shutil.rmtree(unfinished / "checkpoints")
    assert train_words("--resume", unfinished) == 0
    assert f"{unfinished}: no checkpoint was written yet; the run begins anew" in caplog.text


def test_a_run_records_what_auto_and_epochs_came_to_and_a_resumed_one_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr("ssdnorm.settle.choose_precision", lambda accelerator: "bf16-mixed")
    monkeypatch.setattr("ssdnorm.settle.choose_batch_size", lambda *_, **__: 2)
    run = tmp_path / "run"
    words = ["--training.precision", "auto", "--training.batch_size", "auto", "--training.epochs", "0.6"]
    words += ["--optimizer.lr_drops", "[0.7]", "--optimizer.warmup_steps", "0.25"]
    assert train(run, *words) == 0  # 0.6 of 10 images, 2 per step
    lengths = {"max_steps": 3, "warmup_steps": 1, "lr_drops": [2]}
    chosen = {"precision": "bf16-mixed", "batch_size": 2, "schedule": lengths}
    for name in ("result", "start"):
        assert chosen.items() <= record(run, name).items()
    written = config_of(run)["training"]
    assert [written[key] for key in ("precision", "batch_size", "epochs", "max_steps")] == ["auto", "auto", 0.6, None]
    (run / "result.json").unlink()
    for name in ("precision", "batch_size"):
        monkeypatch.setattr(f"ssdnorm.settle.choose_{name}", lambda *_, **__: pytest.fail("it is chosen again"))
    assert train_words("--resume", run) == 0
    assert chosen.items() <= record(run).items()


def test_help_lists_every_key_of_the_config(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for line in (
        "--norm.backbone NormSpec (default none) after every convolution of the backbone",
        "--optimizer.biases.lr_factor NonNegativeFloat (default 2.0) on the learning rate",
        "--data.train.format ['voc'] | ['coco'] | ['yolo'] | ['shapes'] voc where it is left out",
        "--data.validation.num_images int (gt=0, le=10 ** 7) shapes: how many",
        "--training.ema_decay Fraction | None (default null)",
    ):
        assert line in text


def test_the_script_is_the_command(tmp_path):
    done = script(tmp_path / "run", "--norm.backbone", "batchnorm")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("Did you mean 'batch_norm'?")
    assert "Traceback" not in done.stderr
