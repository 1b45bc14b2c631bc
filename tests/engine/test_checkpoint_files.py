"""The checkpoint that a run resumes from: whole, checked, the one before kept, and later than what belongs to it."""

import os
import random
import signal

import pytest
import torch

from ssdnorm.engine import checkpoint_files
from ssdnorm.engine.checkpoint_files import LastCheckpoint, find_checkpoint, write_checkpoint_file
from ssdnorm.engine.module import TrainingModule
from tests.small_training import rows, same_weights, stopped_at, train

CONTENT = {"state_dict": {"weight": torch.arange(1000.0)}, "global_step": 1}
SETTINGS = {"training": {"max_steps": 5, "checkpoint_every": 2, "eval_every": 2}, "runtime": {"log_every": 2}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of SETTINGS."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, **SETTINGS) == 0
    return folder


@pytest.fixture
def two(tmp_path):
    """A folder with two checkpoints."""
    for step in (1, 2):
        write_checkpoint_file({**CONTENT, "global_step": step}, tmp_path / "last.ckpt")
    return tmp_path


def step_in(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_the_newest_checkpoint_is_found_and_the_one_before_is_kept(two):
    assert find_checkpoint(two).name == "last.ckpt"
    assert [step_in(two / name) for name in ("previous.ckpt", "last.ckpt")] == [1, 2]
    assert find_checkpoint(two / "nowhere") is None


def flip_a_bit(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def zero_a_block(content, rng):
    start = rng.randrange(len(content) - 600)
    return content[:start] + bytes(512) + content[start + 512 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        zero_a_block,
        lambda content, rng: content[: rng.randrange(len(content))],
        lambda content, rng: content + b"\0",
        lambda content, rng: b"",
    ],
)
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_taken_with_a_line(two, damage, caplog):
    rng = random.Random(3)
    whole = (two / "last.ckpt").read_bytes()
    for _ in range(40):
        damaged = damage(whole, rng)
        if damaged == whole:
            continue
        (two / "last.ckpt").write_bytes(damaged)
        assert find_checkpoint(two).name == "previous.ckpt"
    assert "last.ckpt is damaged; going on from" in caplog.text
    (two / "previous.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged or has no checksum, .*; delete it"):
        find_checkpoint(two)


def test_a_checkpoint_without_a_checksum_is_refused(tmp_path):
    torch.save(CONTENT, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged or has no checksum, as in .*; delete it"):
        find_checkpoint(tmp_path)


def test_a_full_disk_leaves_both_checkpoints_as_they_were(two, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*last\.ckpt"):
            write_checkpoint_file({**CONTENT, "global_step": 3}, two / "last.ckpt")
    assert [step_in(two / name) for name in ("previous.ckpt", "last.ckpt")] == [1, 2]
    assert sorted(path.name for path in two.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_nothing_is_written_outside_the_folder(two, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    write_checkpoint_file({**CONTENT, "global_step": 3}, two / "last.ckpt")
    assert step_in(two / "last.ckpt") == 3


def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before_to_the_same_weights(whole, tmp_path, caplog):
    halves = tmp_path / "halves"
    stopped_at(4, halves, **SETTINGS)
    folder = halves / "checkpoints"
    content = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(content[:5000] + bytes(5000) + content[10000:])
    assert train(halves, "--resume", **SETTINGS) == 0
    assert "last.ckpt is damaged; going on from" in caplog.text
    for name in ("checkpoints/model.safetensors", "start.json"):
        assert (whole / name).read_bytes() == (halves / name).read_bytes(), name  # equal weights are equal files
    assert [[row["step"] for row in rows(run) if row["AP"]] for run in (whole, halves)] == [["2", "4", "5"]] * 2
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "model.safetensors"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch, capsys):
    step = TrainingModule.training_step

    def ruin_the_third(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if self.global_step == 2:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(TrainingModule, "training_step", ruin_the_third)
    words = ["--training.max_steps", "4", "--training.checkpoint_every", "1"]
    assert train(tmp_path / "run", *words) == 2
    assert "step 3:" in capsys.readouterr().err
    assert step_in(tmp_path / "run/checkpoints/last.ckpt") == 2
    assert checkpoint_files.find_checkpoint(tmp_path / "run/checkpoints").name == "last.ckpt"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGUSR2, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_run_that_is_told_to_stop_writes_a_checkpoint_and_goes_on_to_the_same_weights(
    whole, tmp_path, monkeypatch, number
):
    def tell(checkpoint, trainer, *more):
        if trainer.global_step == 3:
            os.kill(os.getpid(), number)
        original(checkpoint, trainer, *more)

    original = LastCheckpoint.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", tell)
        assert train(tmp_path / "run", **SETTINGS) == 130
    assert step_in(tmp_path / "run/checkpoints/last.ckpt") == 3
    assert not (tmp_path / "run/failure.json").exists()
    assert train(tmp_path / "run", "--resume", **SETTINGS) == 0
    assert same_weights(whole, tmp_path / "run")
    losses = [[(row["step"], row["loss"]) for row in rows(run) if row["loss"]] for run in (tmp_path / "run", whole)]
    assert losses[0] == losses[1], "a reading is the mean over its steps before and after the stop"
    assert [step for step, _ in losses[0]] == ["2", "4"]
