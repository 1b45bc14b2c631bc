"""Evaluations measured beside each other agree on the numbers."""

import numpy as np
import pytest

from benchmarks.evaluation import difference, measure, measure_coco, run_forked, speedup
from benchmarks.made_up_set import made_up_data
from benchmarks.table import Settings
from benchmarks.voc_rivals import images_as_arrays, map_by_detections, map_by_images
from ssdnorm.metrics import evaluate_coco, evaluate_voc


def test_made_up_data_has_the_size_asked_for_and_depends_on_the_seed():
    truth, found = made_up_data(50, 20, 5, seed=1)
    assert (len(truth["images"]), len(found), len(truth["categories"])) == (50, 1000, 5)
    assert (truth, found) == made_up_data(50, 20, 5, seed=1)
    assert found != made_up_data(50, 20, 5, seed=2)[1]
    assert 0.1 < evaluate_coco(truth, found).metrics["AP"] < 0.6
    assert 0 < sum(row["difficult"] for row in truth["annotations"]) < 0.3 * len(truth["annotations"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rival", [map_by_detections, map_by_images])
def test_the_usual_loops_give_our_voc_map(rival, seed):
    truth, found = made_up_data(60, 30, 4, seed=seed)
    ours = evaluate_voc(truth, found).metrics["mAP"]
    assert 0.1 < ours < 0.9
    assert rival(images_as_arrays(truth, found)) == pytest.approx(ours, abs=1e-12)


@pytest.mark.parametrize("rival", [map_by_detections, map_by_images])
def test_the_usual_loops_tell_difficult_objects_from_others(rival):
    truth, found = made_up_data(60, 30, 4)
    plain = {**truth, "annotations": [{**row, "difficult": 0} for row in truth["annotations"]]}
    assert rival(images_as_arrays(truth, found)) != rival(images_as_arrays(plain, found))
    assert rival(images_as_arrays(plain, found)) == pytest.approx(evaluate_voc(plain, found).metrics["mAP"], abs=1e-12)


def test_a_measured_call_has_memory_of_its_own():
    run = run_forked(lambda: {"sum": float(np.ones(50_000_000).sum())})
    assert run.value == {"sum": 5e7}
    assert 100 < run.peak_mb < 600  # 400, less what the kernel has taken back meanwhile
    assert run.seconds > 0


def test_a_measured_process_that_dies_is_told():
    with pytest.raises(RuntimeError, match="died before it had a result"):
        run_forked(lambda: 1 / 0)


def test_the_table_has_every_backend_and_no_difference():
    table = measure(Settings(quick=True))
    assert [row["by"].split()[0] for row in table.rows] == [
        "ssdnorm",
        "pycocotools",
        "faster-coco-eval",
        "ssdnorm",
        "a",
        "a",
    ]
    assert [goal.goal for goal in table.goals] == [3, 0, 6, 0]
    assert all(row["difference"] < 1e-12 for row in table.rows)
    assert table.rows[0]["difference"] == 0  # ours to pycocotools
    assert table.goals[1].met
    assert "200 images with 50 detections each, 20 classes" in table.about


@pytest.mark.slow
def test_ours_is_three_times_as_fast_as_faster_coco_eval_on_val2017s_size():
    runs = measure_coco(*made_up_data(), rounds=1)
    assert speedup(runs, "faster-coco-eval") > 3
    assert difference(runs, "ssdnorm", "pycocotools") == 0
    assert difference(runs, "faster-coco-eval", "ssdnorm") < 1e-12
