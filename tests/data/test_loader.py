"""Loading in other processes: little shared memory, errors in one line, killed and silent workers."""

import gc
import os
import pickle
import signal
import time

import pytest
import torch

from ssdnorm.data import EvalTransform, ShapesDataset, TrainTransform, loader, make_eval_loader, make_train_loader
from ssdnorm.messages import lost_worker

from .small_sets import same_batches

SHAPES = ShapesDataset(6, seed=1)


class Damaged(ShapesDataset):
    """Shapes that are on a disk in bad condition."""

    def __init__(self, error):
        super().__init__(6, seed=1)
        self.error = error

    def image_path(self, index):
        return f"photos/{index + 1}.jpg"

    def open_image(self, index):
        if index == 4:
            raise self.error
        return super().open_image(index)


class Hanging(ShapesDataset):
    def open_image(self, index):
        time.sleep(30)


class Dying(ShapesDataset):
    def open_image(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def _stopped_workers(monkeypatch):
    """Stop workers that hang after a fifth of a second instead of five, and within the test that left them."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    yield
    gc.collect()  # loaders that tracebacks keep


@pytest.fixture
def no_shared_memory(monkeypatch):
    loader.lacks_shared_memory.cache_clear()
    yield lambda free: monkeypatch.setattr(loader.os, "statvfs", lambda _: os.statvfs_result([4096] * 2 + [free] * 8))
    loader.lacks_shared_memory.cache_clear()


@pytest.mark.parametrize(
    ("workers", "error", "message"),
    [
        (0, ValueError("photos/5.jpg: truncated"), None),
        (2, ValueError("photos/5.jpg: truncated"), "photos/5.jpg: truncated"),
        (
            2,
            FileNotFoundError(2, "No such file or directory", "photos/5.jpg"),
            "photos/5.jpg: No such file or directory",
        ),
        (2, ValueError("no room\nfor it"), "photos/5.jpg: no room for it"),
    ],
)
def test_an_image_that_cannot_be_loaded_is_told_in_one_line_by_its_file(workers, error, message):
    batches = make_eval_loader(Damaged(error), EvalTransform(8), batch_size=2, num_workers=workers)
    with pytest.raises((ValueError, OSError)) as raised:
        list(batches)
    assert raised.value is error if workers == 0 else str(raised.value) == message


def test_a_worker_that_is_killed_or_silent_ends_in_one_line(monkeypatch):
    with pytest.raises(RuntimeError) as killed:
        list(make_eval_loader(Dying(6, seed=1), EvalTransform(8), batch_size=2, num_workers=1))
    assert lost_worker(killed.value).startswith("loading: a process that loads images was killed or ended")
    monkeypatch.setattr("ssdnorm.data.batches.TIMEOUT_SECONDS", 1)
    with pytest.raises(RuntimeError) as silent:
        list(make_eval_loader(Hanging(6, seed=1), EvalTransform(8), batch_size=2, num_workers=1))
    assert lost_worker(silent.value).startswith("loading: no batch came for 1 seconds.")
    assert lost_worker(RuntimeError("another")) is None


def test_with_little_shared_memory_the_same_batches_go_through_pipes_and_one_line_says_so(no_shared_memory, caplog):
    options = {"batch_size": 4, "num_batches": 3, "seed": 7}
    expected = list(make_train_loader(SHAPES, TrainTransform(300), **options))
    no_shared_memory(300)
    for _ in range(2):
        batches = make_train_loader(SHAPES, TrainTransform(300), **options, num_workers=2)
        assert batches.collate_fn.through_pipes
    assert caplog.text.count("/dev/shm has 1 MiB free and should have 32; batches go through pipes") == 1
    through_pipes = list(batches)
    assert same_batches(through_pipes, expected)
    assert through_pipes[0].images.stride() == expected[0].images.stride()


def test_shared_memory_is_used_where_there_is_enough(no_shared_memory):
    no_shared_memory(1 << 20)
    batches = make_train_loader(SHAPES, TrainTransform(300), batch_size=4, num_batches=3, seed=7, num_workers=2)
    assert not batches.collate_fn.through_pipes
    assert pickle.loads(pickle.dumps(batches.collate_fn)) == batches.collate_fn, "workers may be spawned"
