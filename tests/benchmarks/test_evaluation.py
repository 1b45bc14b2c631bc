"""Evaluators that are measured beside each other agree on the numbers."""

import json
import os
from functools import partial

import pytest

from benchmarks import evaluation, voc
from benchmarks.child import run_in_child
from benchmarks.synthetic_coco import synthetic_coco, write_outlined_coco
from benchmarks.timing import Settings
from ssdnorm.data import CocoDataset
from ssdnorm.metrics import evaluate_coco, evaluate_voc


def test_synthetic_data_has_the_size_asked_for_and_depends_on_the_seed():
    truth, found = synthetic_coco(50, 20, 5, seed=1)
    assert (len(truth["images"]), len(found), len(truth["categories"])) == (50, 1000, 5)
    assert (truth, found) == synthetic_coco(50, 20, 5, seed=1)
    assert found != synthetic_coco(50, 20, 5, seed=2)[1]
    assert 0.1 < evaluate_coco(truth, found).metrics["AP"] < 0.6
    assert 0 < sum(row["difficult"] for row in truth["annotations"]) < 0.3 * len(truth["annotations"])


def test_a_file_with_outlines_is_as_long_as_cocos_and_every_box_is_usable(tmp_path):
    file, images = write_outlined_coco(tmp_path, 300)
    rows = json.loads(file.read_bytes())["annotations"]
    assert {len(row["segmentation"][0]) for row in rows} == {52}
    assert 400 < file.stat().st_size / len(rows) < 650  # bytes per box; train2017 has 520
    assert len(CocoDataset(file, images)) == 300


def test_every_installed_evaluator_gives_cocos_numbers():
    table = evaluation.measure(Settings(quick=True), size=(40, 20, 5))
    names = [row["evaluator"].split()[0] for row in table.rows]
    assert names == list(evaluation.evaluators())
    assert names[:2] == ["ssdnorm", "pycocotools"]
    assert all(row["difference"] < 1e-12 for row in table.rows)
    assert {row["difference"] for row in table.rows if not row["evaluator"].startswith("faster")} == {0}
    assert table.measured["evaluation.difference"] == 0
    assert table.notes[0].startswith("Faster than ours: ")


@pytest.mark.parametrize("seed", range(3))
def test_the_loop_over_images_and_classes_gives_our_voc_map(seed):
    truth, found = synthetic_coco(60, 30, 4, seed=seed)
    ours = evaluate_voc(truth, found).metrics["mAP"]
    assert 0.1 < ours < 0.9
    assert voc.map_by_images(voc.images_as_arrays(truth, found)) == pytest.approx(ours, abs=1e-12)


def test_the_loop_tells_difficult_objects_from_others():
    truth, found = synthetic_coco(60, 30, 4)
    plain = {**truth, "annotations": [{**row, "difficult": 0} for row in truth["annotations"]]}
    easy, all_objects = (voc.map_by_images(voc.images_as_arrays(t, found)) for t in (truth, plain))
    assert easy != all_objects
    assert all_objects == pytest.approx(evaluate_voc(plain, found).metrics["mAP"], abs=1e-12)


def test_a_measured_call_runs_in_another_process_and_its_death_is_an_error():
    assert run_in_child(os.getpid).value != os.getpid()
    with pytest.raises(RuntimeError, match="died before it had a result"):
        run_in_child(partial(int, "no number"))
