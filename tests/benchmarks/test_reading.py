"""Reading at COCO's size, on smaller files."""

import json
from pathlib import Path

import pytest

from benchmarks import reading
from benchmarks.coco_files import write_coco_files
from benchmarks.reading import lists_of_dicts, measure, worker_memory
from benchmarks.table import Settings
from ssdnorm.data import CocoDataset

ON_LINUX = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells private memory")


def test_the_file_has_the_size_asked_for_and_every_box_is_usable(tmp_path):
    file, images = write_coco_files(tmp_path, 30, 40_001)
    content = json.loads(file.read_bytes())
    assert (len(content["images"]), len(content["annotations"]), len(content["categories"])) == (30, 40_001, 80)
    assert {len(row["segmentation"][0]) for row in content["annotations"]} == {52}
    assert 400 < file.stat().st_size / 40_001 < 600  # bytes a box; train2017 has 520
    data = CocoDataset(file, images)
    assert data.ground_truth.num_objects == 40_001
    assert data.summary == "" or "clipped" in data.summary


@ON_LINUX
def test_a_forked_worker_copies_lists_of_dicts_but_not_our_arrays(tmp_path):
    data = CocoDataset(*write_coco_files(tmp_path, 3_000, 60_000))
    before, after = worker_memory(data, "fork")
    assert after - before < 3
    before, after = worker_memory(lists_of_dicts(data), "fork")
    assert after - before > 15


@ON_LINUX
@pytest.mark.slow
def test_a_spawned_worker_does_not_copy_our_arrays(tmp_path):
    data = CocoDataset(*write_coco_files(tmp_path, 20_000, 400_000))
    arrays = sum(getattr(value, "nbytes", 0) for value in vars(data.ground_truth).values()) / 1e6
    before, after = worker_memory(data, "spawn")
    assert arrays > 20
    assert after - before < 5


def test_the_table_says_where_memory_cannot_be_told(monkeypatch):
    monkeypatch.setattr(reading, "_NEEDS_LINUX", "only Linux tells the private memory of a process")
    table = measure(Settings(quick=True))
    assert len(table.rows) == 1
    assert 0 < table.rows[0]["seconds"] < 20
    assert [goal.verdict for goal in table.goals] == ["met", "not measured", "not measured"]
    assert "8,600 boxes of 1,180 images" in table.goals[0].what
