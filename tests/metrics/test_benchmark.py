import pytest

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.benchmark import made_up_data, measure_backends, measurement_table


def test_made_up_data_has_the_size_asked_for_and_depends_on_the_seed():
    truth, found = made_up_data(50, 20, 5, seed=1)
    assert (len(truth["images"]), len(found), len(truth["categories"])) == (50, 1000, 5)
    assert (truth, found) == made_up_data(50, 20, 5, seed=1)
    assert found != made_up_data(50, 20, 5, seed=2)[1]
    assert 0.1 < evaluate_coco(truth, found).metrics["AP"] < 0.6


def test_all_backends_are_measured_on_the_same_data_and_agree():
    results = measure_backends(*made_up_data(30, 20, 5))
    assert [r.backend for r in results] == ["ssdnorm", "pycocotools", "faster-coco-eval"]
    assert results[0].metrics == results[1].metrics
    assert all(r.seconds > 0 and r.version for r in results)
    assert "| ssdnorm |" in measurement_table(results)
    assert "| 0.0e+00 |" in measurement_table(results)


@pytest.mark.slow
def test_ours_is_three_times_as_fast_as_faster_coco_eval_on_val2017s_size():
    ours, other = measure_backends(*made_up_data(), backends=("ssdnorm", "faster-coco-eval"))
    assert other.seconds > 3 * ours.seconds
    assert other.metrics == pytest.approx(ours.metrics, abs=1e-12)
