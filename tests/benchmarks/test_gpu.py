"""The GPU's measurements on a CPU with tiny sizes: every part runs, a part that fails costs no other."""

import dataclasses
import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead

from benchmarks import gpu, gpu_training
from benchmarks.command import GPU_TABLES
from benchmarks.gpu import gpu_parts, measure_inference, measure_l2_norm
from benchmarks.gpu_goals import GPU_GOALS, gpu_goal
from benchmarks.gpu_limits import limit, measure_limits
from benchmarks.gpu_training import OURS, PEER, Plan, count_on_device, measure_steps, num_launches
from benchmarks.gpu_turns import measure_in_turns
from benchmarks.table import Table

CPU = torch.device("cpu")
TINY = Plan(
    CPU, (2, 3), goal_batch=3, steps=1, rounds=1, loaded=2, width=0.02, workers=0, photos=2, compiled=False, matrix=64
)
LIMITS = Table("gpu_limits", "", [{"limit": "bf16 convolution 3 × 3", "rate": 0.5}])


def tiny_detector(num_classes):
    backbone = nn.Conv2d(3, 8, 3, stride=60)
    return SSD(backbone, DefaultBoxGenerator([[2]]), (300, 300), num_classes, head=SSDHead([8], [4], num_classes))


@pytest.fixture(autouse=True)
def _tiny_torchvision(monkeypatch):
    for module in (gpu, gpu_training):
        monkeypatch.setattr(module, "torchvision_detector", tiny_detector)
    monkeypatch.setattr(gpu, "_PART_CLASSES", 5)


def test_every_part_is_measured_and_every_goal_of_the_list_is_in_one_of_them():
    parts = gpu_parts(TINY)
    assert tuple(parts) == GPU_TABLES
    tables = {name: part() for name, part in parts.items()}
    assert not [table.rows for table in tables.values() if table.failed]
    assert not [row for table in tables.values() for row in table.rows if "failed" in row]
    goals = [goal.what for table in tables.values() for goal in table.goals]
    assert sorted(goals) == sorted(goal.what for goal in GPU_GOALS.values())
    for table in tables.values():
        assert table.markdown()

    steps = tables["gpu_training"].rows
    names = ("torchvision, fp32", PEER, OURS[0])
    assert [(row["candidate"], row["batch"]) for row in steps] == [(name, size) for size in (2, 3) for name in names]
    row = steps[-1]
    assert row["images_a_second"] == pytest.approx(3e3 / row["ms"])
    rate = limit(tables["gpu_limits"], "bf16 convolution 3 × 3")
    assert row["of_conv"] == pytest.approx(3 * 62.75e-3 * row["images_a_second"] / rate)
    measured = [goal.measured for goal in tables["gpu_training"].goals]
    assert measured == [row["images_a_second"], row["times_faster"], row["of_conv"]]

    real = tables["gpu_real_batches"]
    assert [row["candidate"] for row in real.rows] == ["loading alone", *names] * 2
    row = real.rows[-1]
    assert row["of_drawn"] == pytest.approx(row["real_images_a_second"] / row["drawn_images_a_second"])
    assert real.goals[0].measured == row["of_drawn"]

    inference = tables["gpu_inference"].rows
    assert {row["batch"] for row in inference} == {1, 2, 3}
    assert all(row["times_faster"] == 1 for row in inference if row["candidate"] == PEER)

    ours = [row["operations"] for row in tables["gpu_parts"].rows if row["candidate"] == "ours"]
    assert [goal.measured for goal in tables["gpu_parts"].goals] == [max(ours[::2]), None, max(ours[1::2]), None]


def test_a_part_that_fails_says_how_and_leaves_the_others(monkeypatch):
    monkeypatch.setattr(gpu, "measure_steps", lambda *_: torch.ones(2) @ torch.ones(3))
    parts = gpu_parts(TINY)
    table = parts["gpu_training"]()
    assert table.failed
    assert "RuntimeError" in table.rows[0]["failed"]
    assert not parts["gpu_limits"]().failed


def test_cudnn_chooses_by_measuring_while_a_part_runs_and_not_after(monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "measure_kernels", lambda plan: seen.append(torch.backends.cudnn.benchmark))
    gpu_parts(TINY)["gpu_kernels"]()
    assert seen == [True]
    assert torch.backends.cudnn.benchmark is False


def test_a_candidate_that_fails_leaves_the_others_and_their_goals(monkeypatch):
    def out_of_memory():
        raise RuntimeError("CUDA out of memory.\nTried to allocate …")

    whole = gpu_training.candidates
    monkeypatch.setattr(gpu_training, "candidates", lambda plan: {**whole(plan), PEER: out_of_memory})
    table = measure_steps(TINY, LIMITS)
    failed = [(row["candidate"], row["failed"]) for row in table.rows if "failed" in row]
    assert failed == [(PEER, "RuntimeError: CUDA out of memory.")] * 2
    assert [goal.measured is None for goal in table.goals] == [False, True, False]


def test_candidates_take_turns_of_several_calls_after_two_that_do_not_count():
    called = []
    makes = {name: lambda name=name: lambda: called.append(name) for name in "ab"}
    rows = measure_in_turns(makes, CPU, calls=3, rounds=2, peer="a")
    assert "".join(called) == "aabb" + "aaabbb" * 3
    assert rows["a"]["times_faster"] == 1
    assert set(rows["b"]) == {"first_call_s", "ms", "times_faster"}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_loaded_before_the_clock_starts_is_used_up_first(workers, monkeypatch):
    """Each timed stretch of batches follows one as long as the queue, and the stream is at least five queues long."""
    taken, stretches = [], []

    def loader(*_, num_batches, num_workers, prefetch_factor, **__):
        assert num_batches >= 5 * num_workers * prefetch_factor
        batch = SimpleNamespace(images=torch.zeros(1), boxes=torch.zeros(1), labels=torch.zeros(1))
        return (taken.append(i) or batch for i in range(num_batches))

    def seconds(call, device, *, calls, warm_up=3):
        start = len(taken)
        call()
        if len(taken) > start:  # it loads
            stretches.append(start)
            for _ in range(calls + warm_up - 1):
                call()
        return 1.0

    monkeypatch.setattr(gpu_training, "make_train_loader", loader)
    monkeypatch.setattr(gpu_training, "seconds_a_call", seconds)
    one = {OURS[0]: lambda: lambda *batch: lambda: None}
    monkeypatch.setattr(gpu_training, "candidates", lambda plan: one)
    plan = dataclasses.replace(TINY, batch_sizes=(3,), workers=workers, loaded=Plan(CPU).loaded)
    gpu_training.measure_real_batches(plan)
    queue = 4 * workers
    assert stretches == [queue, 2 * queue + 103]  # loading alone, training
    assert len(taken) == 2 * (queue + 103)
    assert plan.loaded >= 100


@pytest.mark.slow
def test_compiled_networks_are_measured_too():
    plan = dataclasses.replace(TINY, batch_sizes=(2,), goal_batch=2, compiled=True)
    tables = [measure_steps(plan, LIMITS), measure_inference(plan), measure_l2_norm(plan)]
    for table in tables:
        assert not [row for row in table.rows if "failed" in row]
    assert [row["candidate"] for row in tables[0].rows][-1] == OURS[1]
    assert [row["candidate"] for row in tables[1].rows if "compiled" in row["candidate"]] == [
        "ours, bf16 autocast, compiled"
    ] * 2
    assert tables[2].goals[0].measured > 0


def test_a_limit_is_a_rate_of_what_was_moved():
    table = measure_limits(CPU, size=64, calls=2)
    assert {row["limit"] for row in table.rows} == {"bf16 matrix product", "bf16 convolution 3 × 3", "copy"}
    assert limit(table, "copy") > 0


def test_without_a_gpu_nothing_is_counted_on_it():
    assert count_on_device(lambda: torch.ones(1).item(), CPU) == {}


def test_launches_are_kernels_on_the_device_without_copies_and_named_ranges():
    events = [
        ("sm90_xmma_fprop", DeviceType.CUDA, False),
        ("void at::native::vectorized_elementwise_kernel", DeviceType.CUDA, False),
        ("Memcpy HtoD (Pinned -> Device)", DeviceType.CUDA, False),
        ("Memset (Device)", DeviceType.CUDA, False),
        ("Optimizer.step#SGD.step", DeviceType.CUDA, True),
        ("## Call CompiledFxGraph abc ##", DeviceType.CUDA, True),
        ("aten::conv2d", DeviceType.CPU, False),
        ("cudaLaunchKernel", DeviceType.CPU, False),
    ]
    keys = ("name", "device_type", "is_user_annotation")
    assert num_launches(SimpleNamespace(**dict(zip(keys, event, strict=True))) for event in events) == 2


def test_the_profiler_marks_named_ranges_as_such():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1).step()
    ranges = [event for event in profiler.events() if event.name.startswith("Optimizer.step")]
    assert [event.is_user_annotation for event in ranges] == [True]


def test_a_goal_without_a_number_says_why():
    assert {goal.verdict for goal in GPU_GOALS.values()} == {"not measured"}
    assert all("no GPU" in goal.note for goal in GPU_GOALS.values())
    assert gpu_goal("rate", None).note == "could not be measured"
    assert (gpu_goal("rate", 1500.0).verdict, gpu_goal("rate", 1500.0).note) == ("met", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="loading processes are forked here")
def test_loading_processes_feed_the_steps():
    plan = dataclasses.replace(TINY, batch_sizes=(2,), goal_batch=2, workers=2)
    rows = gpu_training.measure_real_batches(plan).rows
    assert [row.get("failed") for row in rows] == [None] * 4
