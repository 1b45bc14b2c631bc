"""From run folders to results and sentences, whatever is missing in the folders."""

import json

import numpy as np
import pytest
from scipy import stats

from ssdnorm.compare.analysis import choose_rate, read_rates
from ssdnorm.compare.results import METRICS, Rate

from .synthetic import analyse_made, make_plan, make_runs, shapes

TEST_SET = shapes()


@pytest.fixture
def root(tmp_path):
    """Finished runs of three arms; the first two find the same objects."""
    make_runs(make_plan(), tmp_path, TEST_SET, diverged=[], diagnostics=False)
    return tmp_path


def results_of(root, **keys):
    results = analyse_made(make_plan(**keys), root, TEST_SET)
    return results, {arm.name: arm for arm in results.arms}


def metric(root, arm, seed, name="AP", lr=0.005):
    return json.loads((root / f"runs/{arm}/lr{lr}_seed{seed}/result.json").read_text())["metrics"][name]


def test_an_arm_that_finds_more_is_better_and_one_that_differs_by_name_alone_is_not(root):
    results, arms = results_of(root)
    assert arms["batch_norm"].verdict == "better"
    assert arms["none"].verdict == "no evidence of a difference"
    ours, base = ([metric(root, arm, seed) for seed in range(3)] for arm in ("batch_norm", "l2_norm"))
    difference = arms["batch_norm"].differences["AP"]
    assert difference.paired.mean == pytest.approx(np.mean(ours) - np.mean(base))
    assert difference.p == pytest.approx(stats.ttest_rel(ours, base).pvalue)
    assert difference.p_holm == pytest.approx(2 * difference.p), "two comparisons"
    for name in ("AP", "AP75"):
        low, high = arms["batch_norm"].differences[name].images
        assert low < arms["batch_norm"].differences[name].paired.mean < high
    assert arms["batch_norm"].differences["VOC07"].images is None, "there is no bootstrap of VOC's metric"
    twin = arms["none"].differences["AP"]
    assert (twin.paired.values, twin.images, twin.p_holm) == ([0.0] * 3, (0.0, 0.0), 1.0)
    assert set(arms["l2_norm"].metrics) <= set(METRICS)
    points = f"{100 * difference.paired.mean:+.1f} points of AP"
    assert results.answer.startswith(f"batch_norm ({points}) is better than l2_norm; ")
    assert "there is no evidence that none differs from l2_norm" in results.answer


def test_the_rate_is_chosen_on_the_validation_images_of_the_first_seed(root):
    plan = make_plan()
    rates = read_rates(plan, plan.arms[2], root)
    assert [rate.lr for rate in rates] == [0.001, 0.005]
    assert rates[1].validation == pytest.approx(metric(root, "batch_norm", 0) / 2)
    assert rates[1].validation > rates[0].validation
    assert results_of(root)[1]["batch_norm"].lr == 0.005
    assert choose_rate([Rate(0.01, 0.3, "finished"), Rate(0.02, 0.3, "finished")]) == 0.01
    assert choose_rate([Rate(0.01, None, "diverged"), Rate(0.02, 0.0, "finished")]) == 0.02
    assert choose_rate([Rate(0.01, None, "finished")]) == 0.01


def test_costs_diagnostics_scatter_and_versions_come_from_the_runs(whole):
    results = whole[0]
    first, _, arm = results.arms
    costs = arm.costs
    assert (costs.parameters, costs.images_per_second, costs.peak_memory_mib) == (1_703_456 + 1024, 8.0, 2102)
    assert (costs.seconds_to_target, costs.num_reached) == (7.0, 3), "the mean of 6, 7 and 8 seconds to AP50 0.5"
    assert first.costs.seconds_to_target is None
    assert arm.why["length_before"]["conv4_3"] == (11.0, 911.0), "the mean of three seeds"
    assert results.provenance["versions"] == {"torch": "2.14.0, 2.14.1", "numpy": "2.4"}
    squares = [(value - arm.metrics["AP"].mean) ** 2 for arm in results.arms for value in arm.metrics["AP"].values]
    assert results.seed_noise == pytest.approx(np.sqrt(sum(squares) / (len(squares) - 3)))


def test_an_arm_with_a_diverged_seed_is_incomplete_and_says_so(whole):
    results = whole[0]
    arm = results.arms[1]
    assert arm.verdict == "incomplete"
    assert "of 3 seeds 1 diverged" in arm.sentence
    assert [run.status for run in arm.chosen_runs] == ["finished", "diverged", "finished"]
    assert arm.chosen_runs[1].reason == "loss is nan at step 340 <after a spike>"
    assert len(arm.metrics["AP"].values) == 2
    assert "none diverged with 1 of 3 seeds" in results.answer
    assert "8 of 9 runs" in results.answer


def test_without_a_seed_of_the_baseline_no_arm_is_judged(root):
    (root / "runs/l2_norm/lr0.005_seed1/result.json").unlink()
    results, arms = results_of(root)
    assert {arm.verdict for arm in arms.values()} == {"baseline", "incomplete"}
    assert "none and batch_norm were not compared: runs of l2_norm are missing" in results.answer


def test_a_missing_run_is_told_from_an_undefined_metric(root):
    (root / "runs/batch_norm/lr0.005_seed1/result.json").unlink()
    for path in root.glob("runs/none/*/result.json"):
        result = json.loads(path.read_text())
        result["metrics"]["AP"] = -1.0
        path.write_text(json.dumps(result))
    answer = results_of(root)[0].answer
    assert "batch_norm was not compared: runs are missing" in answer
    assert "none was not compared: AP is undefined on the test images" in answer


def test_detections_that_are_gone_are_named(root):
    (root / "runs/l2_norm/lr0.005_seed1/detections.json").unlink()
    with pytest.raises(ValueError, match=r"l2_norm/lr0\.005_seed1/detections\.json: missing"):
        results_of(root)


def test_without_any_run_there_are_no_numbers_but_a_report(tmp_path):
    results, arms = results_of(tmp_path)
    assert {arm.verdict for arm in arms.values()} == {"baseline", "incomplete"}
    assert results.seed_noise is None
    assert all(not arm.metrics and arm.costs.parameters is None for arm in arms.values())


def test_one_seed_is_never_ranked(root):
    results, arms = results_of(root, seeds=[0])
    assert {arm.verdict for arm in arms.values()} == {"baseline", "one seed"}
    assert "one seed allows no conclusion about none and batch_norm" in results.answer.lower()
    assert "better" not in results.answer
