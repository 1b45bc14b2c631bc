"""Every subject runs with tiny sizes; what only a GPU measures is measured here on a CPU."""

import sys
from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest
import torch
from torch import nn

from benchmarks import l2_norm, loader, loss, post_process, predict, startup, training_step
from benchmarks.command import CPU_SUBJECTS, GPU_SUBJECTS, SUBJECTS
from benchmarks.goals import GOALS
from benchmarks.timing import Settings, compare, interleaved, ready
from benchmarks.training_step import Case
from ssdnorm.models.ssd import ssd300_vgg16

TINY = Settings(quick=True, bf16=True, workers=0)


class OnGpu(Settings):
    """Settings of a GPU's run whose tensors stay on the CPU."""

    on_gpu = True

    def synchronize(self) -> None:
        """Nothing to wait for."""


@pytest.fixture
def gpu(monkeypatch):
    """No CUDA is called: memory is said to be 0."""
    for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return OnGpu(quick=True, bf16=True, workers=0)


def test_every_subject_has_a_measure_function_and_every_goal_a_subject():
    assert set(SUBJECTS) == {key.split(".")[0] for key in GOALS} == set(CPU_SUBJECTS) | set(GPU_SUBJECTS)
    assert all(callable(import_module(f"benchmarks.{name}").measure) for name in SUBJECTS)


def test_a_training_step_is_measured_in_both_precisions_beside_torchvisions_around_the_same_layers():
    table = training_step.measure(TINY, cases=[Case(2, 0.02, "batch_norm", rounds=1)])
    names = ["torchvision, fp32", "ours, fp32", "torchvision, bf16", "ours, bf16"]
    assert [row["candidate"] for row in table.rows] == names
    assert not [row for row in table.rows if "failed" in row]
    row = table.rows[1]
    assert row["images_per_second"] == pytest.approx(2e3 / row["ms"])
    assert table.measured == {"training_step.fp32": None, "training_step.bf16": None}  # goals are at full width


def test_the_goals_of_a_training_step_are_read_from_full_width(gpu):
    row = {"width": "1", "ms": 1.0, "of_convolution": 0.5}
    rows = [
        {**row, "candidate": "ours, fp32", "batch": 64, "images_per_second": 100.0, "speedup": 1.0},
        {**row, "candidate": "ours, bf16", "batch": 64, "images_per_second": 900.0, "speedup": 3.0},
        {**row, "candidate": "ours, bf16", "batch": 128, "images_per_second": 990.0, "speedup": 4.0},
        {**row, "candidate": "ours, bf16", "batch": 64, "width": "0.5", "images_per_second": 2e3, "speedup": 9.0},
    ]
    on_gpu = training_step._measured(rows, gpu)
    assert list(on_gpu.values()) == [900.0, 3.0, 0.5]
    assert set(on_gpu) <= set(GOALS)
    assert training_step._measured(rows[:2], TINY) == {"training_step.fp32": 1.0, "training_step.bf16": 3.0}


def test_the_full_network_takes_62_75_gflop_per_image_forward():
    assert training_step.forward_flops(Case(1)) == pytest.approx(62.75e9, rel=1e-3)


def test_a_training_step_of_ours_lowers_the_loss_and_takes_uint8():
    step = training_step.our_step(ssd300_vgg16(21, width=0.02, dropout=0))
    images, boxes, labels = training_step.synthetic_images(2), *training_step.synthetic_targets(2, 21)
    call = step(images, boxes, labels)
    assert images.dtype == torch.uint8
    assert call().isfinite()


def test_a_gpus_measurements_run_with_tiny_sizes(gpu, monkeypatch):
    monkeypatch.setattr(training_step, "convolution_rate", lambda *_: 1e9)
    steps = training_step.measure(gpu, cases=[Case(1, 0.02, rounds=1, steps=2)])
    assert [row["peak_GB"] for row in steps.rows] == [0] * 4
    assert set(steps.measured) == {"training_step.gpu_rate", "training_step.gpu_speed", "training_step.gpu_share"}
    loading = loader.measure(gpu, case=Case(1, 0.02), num_photos=2, num_batches=1)
    alone, synthetic, real = (row["images_per_second"] for row in loading.rows)
    assert loading.measured["loader.share"] == pytest.approx(real / synthetic)
    assert alone > 0
    copies = l2_norm.measure(gpu, shape=(1, 8, 4, 4))
    assert "bfloat16" in copies.about
    assert copies.measured["l2_norm.gpu_copy"] == max(
        row["of_copy"] for row in copies.rows if row["candidate"] == "L2Norm"
    )


def test_batches_that_were_loaded_before_the_clock_starts_are_used_up_first(monkeypatch):
    taken = []

    def make_loader(*_, num_batches, num_workers, prefetch_factor, **__):
        batch = training_step.synthetic_images(1), *training_step.synthetic_targets(1, 21)
        Batch = type("Batch", (), dict(zip(("images", "boxes", "labels"), batch, strict=True)))
        return (taken.append(i) or Batch for i in range(num_batches))

    starts = []

    def seconds(call, settings, *, calls, warm_up=3):
        starts.append(len(taken))
        for _ in range(calls + warm_up):
            call()
        return 1.0

    monkeypatch.setattr(loader, "make_train_loader", make_loader)
    monkeypatch.setattr(loader, "seconds_per_call", seconds)
    monkeypatch.setattr(loader, "candidates", lambda *_: {"ours": lambda: lambda *batch: lambda: None})
    loader.measure(replace(TINY, workers=2), case=Case(1, steps=1), num_photos=1, num_batches=5)
    queue, counted = 2 * 4, 3 + 5
    assert starts == [queue, queue + counted, 2 * queue + counted]  # loading alone, synthetic, from files


def test_loss_post_processing_and_l2_norm_fill_their_goals():
    small_loss = loss.measure(TINY, cases=[(1, 5), (2, 4)])
    assert small_loss.measured["loss.speed"] == min(row["speedup"] for row in small_loss.rows)
    detections = post_process.measure(TINY, cases=[(5, 10), (5, None)])
    assert detections.measured["post_process.speed"] == min(row["speedup"] for row in detections.rows)
    norms = l2_norm.measure(TINY, shape=(1, 8, 4, 4))
    names = ["amdegroot", "F.normalize * w", "L2Norm", "copy"]
    assert [row["candidate"] for row in norms.rows] == names * 2
    assert norms.measured["l2_norm.speed"] > 0


def test_the_formulas_of_other_systems_are_ours_away_from_zero():
    x, weight = torch.randn(2, 4, 3, 3), torch.rand(4) + 1
    torch.testing.assert_close(l2_norm.amdegroot_formula(x, weight), l2_norm.normalize_formula(x, weight))


def test_predict_is_measured_with_the_peers_weights_on_the_same_folder(monkeypatch):
    commands = []

    class Peer(nn.Linear):
        def forward(self, images):
            return [{"boxes": torch.tensor([[1.0, 2.0, 30.0, 40.0]]), "scores": torch.tensor([0.9])} for _ in images]

    monkeypatch.setattr(predict, "torchvision_detector", lambda num_classes: Peer(1, 1))
    monkeypatch.setattr(predict, "main", lambda words: commands.append(words) or 0)
    table = predict.measure(TINY, num_photos=2)
    candidates = ["torchvision, one picture at a time", "ssdnorm predict, fp32", "ssdnorm predict, bf16"]
    assert [row["candidate"] for row in table.rows] == candidates
    assert [(words[0], words[-1]) for words in commands] == [
        *[("predict", "32-true")] * 2,
        *[("predict", "bf16-mixed")] * 2,
    ]
    assert set(table.measured) == {"predict.fp32", "predict.bf16"}
    table = predict.measure(replace(TINY, bf16=False), num_photos=2)
    assert [row["candidate"] for row in table.rows] == candidates[:2]
    assert table.measured["predict.bf16"] is None
    monkeypatch.setattr(predict, "main", lambda words: 2)
    with pytest.raises(RuntimeError, match="ssdnorm predict failed"):
        predict.measure(TINY, num_photos=2)


def test_a_command_that_fails_is_an_error_with_its_message():
    assert startup.processor_seconds([sys.executable, "-c", "sum(range(10**6))"]) > 0
    with pytest.raises(RuntimeError, match="no module"):
        startup.processor_seconds([sys.executable, "-c", "raise SystemExit('no module')"])


def test_candidates_take_turns_and_warm_up_does_not_count():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert [len(times.seconds[name]) for name in "ab"] == [3, 3]


def test_a_speedup_is_the_median_of_the_rounds_ratios():
    ticks = iter([0, 1, 1, 2, 2, 6, 6, 7, 7, 16, 16, 19])  # peer: 1, 4, 9; ours: 1, 1, 3
    times = interleaved({"peer": int, "ours": int}, rounds=3, warm_up=0, clock=lambda: next(ticks))
    assert times.ratio("peer", "ours") == 3.0  # of 1, 4, 3
    assert times.ms("peer") == 4000.0


def test_a_candidate_that_fails_leaves_the_others():
    def out_of_memory():
        raise RuntimeError("CUDA out of memory.\nTried to allocate …")

    makes = {"ours": out_of_memory, **ready({"peer": partial(sum, [1])})}
    rows = compare(makes, TINY, peer="peer", rounds=2, calls=3)
    assert rows["ours"] == {"failed": "RuntimeError: CUDA out of memory."}
    assert rows["peer"]["speedup"] == 1
