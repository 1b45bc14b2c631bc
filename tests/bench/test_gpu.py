"""The GPU's measurements on a CPU with tiny sizes: every part runs, a part that fails costs no other."""

import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead

from ssdnorm.bench.gpu import gpu_parts
from ssdnorm.bench.gpu_limits import limit, measure_limits
from ssdnorm.bench.gpu_training import Plan, count_on_device


def tiny_detector(num_classes):
    backbone = nn.Conv2d(3, 8, 3, stride=60)
    return SSD(backbone, DefaultBoxGenerator([[2]]), (300, 300), num_classes, head=SSDHead([8], [4], num_classes))


@pytest.fixture
def tiny_plan(monkeypatch):
    for module in ("gpu", "gpu_training"):
        monkeypatch.setattr(f"ssdnorm.bench.{module}.torchvision_detector", tiny_detector)
    return Plan(torch.device("cpu"), (2, 3), steps=1, width=0.02, workers=0, photos=2, compiled=False, matrix=64)


def test_every_part_is_measured(tiny_plan):
    tables = {table.name: table for table in (part() for part in gpu_parts(tiny_plan))}
    assert not [table.rows for table in tables.values() if table.failed]
    names = ("limits", "training", "real_batches", "inference", "kernels", "parts", "l2_norm")
    assert list(tables) == [f"gpu_{name}" for name in names]
    steps = tables["gpu_training"].rows
    assert {(row["candidate"], row["batch"]) for row in steps} == {
        (name, size) for name in ("torchvision, fp32", "torchvision, bf16 autocast", "ours, bf16") for size in (2, 3)
    }
    assert all(row["images_a_second"] > 0 for row in steps)
    ours = next(row["images_a_second"] for row in steps if row["candidate"] == "ours, bf16" and row["batch"] == 3)
    assert tables["gpu_training"].goals[0].measured == ours
    for table in tables.values():
        assert table.markdown()


def test_a_part_that_fails_says_how_and_leaves_the_others(tiny_plan, monkeypatch):
    monkeypatch.setattr("ssdnorm.bench.gpu.measure_steps", lambda *_: torch.ones(2) @ torch.ones(3))
    tables = {table.name: table for table in (part() for part in gpu_parts(tiny_plan))}
    assert tables["gpu_training"].failed
    assert "RuntimeError" in tables["gpu_training"].rows[0]["failed"]
    assert [name for name, table in tables.items() if table.failed] == ["gpu_training"]
    assert tables["gpu_real_batches"].goals[0].met is None  # there is nothing to compare with


def test_a_limit_is_a_rate_of_what_was_moved():
    table = measure_limits(torch.device("cpu"), size=64, calls=2)
    assert {row["limit"] for row in table.rows} == {"bf16 matrix product", "bf16 convolution 3 × 3", "copy"}
    assert limit(table, "copy") > 0


def test_without_a_gpu_nothing_is_counted_on_it():
    assert count_on_device(lambda: torch.ones(1).item(), torch.device("cpu")) == (0, 0)
