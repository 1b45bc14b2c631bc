"""From run folders to results and sentences, whatever is missing in the folders."""

import dataclasses
import json
from importlib.metadata import version

import numpy as np
import pytest
from scipy import stats

from ssdnorm.coco_format import load_detections
from ssdnorm.compare.analysis import choose_rate, choose_rates, read_rates
from ssdnorm.compare.differences import judge, outcomes
from ssdnorm.compare.formatting import duration
from ssdnorm.compare.origin import origin_of
from ssdnorm.compare.planning import Scatter, plan_markdown
from ssdnorm.compare.power import Outlook
from ssdnorm.compare.report import write_report
from ssdnorm.compare.results import METRICS, Difference, Rate
from ssdnorm.compare.statistics import failure_p, mean_with_interval
from ssdnorm.engine.evaluation import evaluate_tables
from ssdnorm.metrics.bootstrap import resample_coco

from .synthetic import REASON, analyse_made, make_plan, make_runs, shapes

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


def test_an_arm_that_finds_more_is_better_and_one_that_differs_by_name_alone_is_equivalent(root):
    results, arms = results_of(root)
    assert [arm.verdict for arm in results.arms] == ["baseline", "equivalent", "better"]
    ours, base = ([metric(root, arm, seed) for seed in range(3)] for arm in ("batch_norm", "l2_norm"))
    difference, finding = arms["batch_norm"].differences["AP"], arms["batch_norm"].finding
    assert difference.paired.mean == pytest.approx(np.mean(ours) - np.mean(base))
    assert (finding.low + finding.high) / 2 == pytest.approx(difference.paired.mean)
    assert finding.low < difference.low < difference.paired.mean < difference.high < finding.high
    for name in ("AP", "AP75"):
        low, high = arms["batch_norm"].differences[name].images
        assert low < arms["batch_norm"].differences[name].paired.mean < high
    voc = arms["batch_norm"].differences["VOC07"]
    assert (voc.images, voc.low) == (None, voc.paired.low), "there is no bootstrap of VOC's metric"
    twin = arms["none"]
    assert (twin.differences["AP"].paired.values, twin.differences["AP"].images) == ([0.0] * 3, (0.0, 0.0))
    assert (twin.finding.low, twin.finding.high, twin.finding.p, twin.finding.smallest_margin) == (0.0, 0.0, 1.0, 0.0)
    assert set(arms["l2_norm"].metrics) <= set(METRICS)
    points = f"{100 * difference.paired.mean:.1f} points of AP"
    assert results.answer.startswith(f"batch_norm is better than l2_norm by {points}; none is equivalent to l2_norm")
    assert arms["none"].sentence == "none is equivalent to l2_norm: the difference is exactly 0 with every seed."


def judged(*differences, **keys):
    """The rule on differences by seed, of arms a, b, …."""
    means = {"ab"[i]: Difference(mean_with_interval(values)) for i, values in enumerate(differences)}
    compared = {name: (difference, [(name, "base")]) for name, difference in means.items()}
    return judge(make_plan(**keys).file, compared, 30)


def test_where_all_arms_are_equal_no_power_is_claimed():
    found = judged([0.0, 0.0, 0.0])
    assert (found.findings["a"].verdict, found.detectable, found.by_seeds) == ("equivalent", None, [])


def test_the_error_over_test_images_is_that_of_the_bootstrapped_difference(root):
    results = results_of(root)[1]["batch_norm"].differences["AP"]
    truth = TEST_SET.ground_truth

    def resampled(arm, seed):
        found = load_detections(root / f"runs/{arm}/lr0.005_seed{seed}/detections.json", truth)
        return resample_coco(evaluate_tables(truth, found).coco, num_resamples=50)["AP"]

    gaps = [resampled("batch_norm", seed) - resampled("l2_norm", seed) for seed in range(3)]
    assert results.images_std == pytest.approx(np.mean(gaps, axis=0).std(ddof=1))


def test_under_the_rule_of_holm_p_is_that_of_paired_t_tests_where_images_are_unknown(root):
    results, arms = results_of(root, rule="paired_t_holm")
    ours, base = ([metric(root, arm, seed) for seed in range(3)] for arm in ("batch_norm", "l2_norm"))
    found = judged(arms["batch_norm"].differences["AP"].paired.values, rule=results.rule)
    assert found.findings["a"].p == pytest.approx(stats.ttest_rel(ours, base).pvalue)


def test_a_contrast_is_a_difference_of_differences_by_seed(root):
    pairs = [["batch_norm", "l2_norm"], ["none", "batch_norm"]]
    results = results_of(root, contrasts={"steps": pairs, "plain": [["batch_norm", "none"]]})[0]
    steps, plain = results.contrasts
    a, b, c = (np.array([metric(root, arm, seed) for seed in range(3)]) for arm in ("batch_norm", "l2_norm", "none"))
    assert steps.difference.paired.values == pytest.approx((a - b) - (c - a))
    assert steps.finding.verdict == "better"
    assert plain.difference == results.arms[2].differences["AP"], "l2_norm and none find the same"
    assert steps.sentence.startswith("steps: the step from l2_norm to batch_norm gains more than the step from batch_")
    assert "plain: batch_norm is better than none: +" in plain.sentence


def test_a_contrast_has_an_error_over_test_images_although_the_baseline_has_no_finished_run(tmp_path):
    diverged = [("l2_norm", seed) for seed in range(3)]
    make_runs(make_plan(), tmp_path, TEST_SET, diverged=diverged, diagnostics=False)
    (contrast,) = results_of(tmp_path, contrasts={"plain": [["batch_norm", "none"]]})[0].contrasts
    assert contrast.finding.verdict == "better"
    assert contrast.difference.images_std > 0


def test_a_margin_makes_a_small_difference_equivalent_and_the_answer_says_so(root):
    arm = results_of(root, margin=0.9)[1]["batch_norm"]
    assert arm.verdict == "better", "a difference that is there is not called none"
    noisy = [0.01, -0.01, 0.005], [0.1, -0.1, 0.05]
    assert judged(*noisy, margin=0.2).findings["a"].verdict == "undecided", "the guard takes the scatter of both arms"
    assert {each.verdict for each in judged(*noisy, margin=0.5).findings.values()} == {"equivalent"}


def test_undecided_arms_tell_the_seeds_that_would_decide():
    values = [0.01, 0.05, -0.01]
    found, outlook = judged(values), Outlook(np.std(values, ddof=1), 1)
    assert found.findings["a"].more_seeds == outlook.seeds_to_decide(np.mean(values)) - 3
    assert found.detectable == pytest.approx(outlook.detectable(3))
    assert {n: detectable for n, detectable, _ in found.by_seeds}[3] == found.detectable


def test_the_rate_is_chosen_on_the_validation_images_with_seeds_that_are_not_compared(root):
    plan = make_plan()
    rates = read_rates(plan, plan.arms[2], root)
    assert [rate.lr for rate in rates] == [0.001, 0.005]
    assert rates[1].validation == pytest.approx(metric(root, "batch_norm", 1000) / 2)
    assert rates[1].validation > rates[0].validation
    arm = results_of(root)[1]["batch_norm"]
    assert arm.lr == 0.005
    assert [run.seed for run in arm.runs if run.lr == 0.005] == [1000, 0, 1, 2]
    assert [run.seed for run in arm.chosen_runs] == [0, 1, 2]
    assert choose_rate([Rate(0.01, 0.3, "finished"), Rate(0.02, 0.3, "finished")]) == 0.01
    assert choose_rate([Rate(0.01, None, "diverged"), Rate(0.02, 0.0, "finished")]) == 0.02
    assert choose_rate([Rate(0.01, None, "finished")]) == 0.01


def test_a_list_of_rates_grows_where_the_best_is_at_its_edge_until_the_run_is_there(root):
    plan = make_plan(extend=True)
    rates, lrs = choose_rates(plan, root)
    assert rates["l2_norm"] == [0.001, 0.005, 0.025], "by the list's factor; its run is yet to be made"
    assert lrs["l2_norm"] == 0.005
    jobs = plan.choosing_jobs(rates)
    assert sum(job.lr == 0.025 for job in jobs) == 3
    make_runs(plan, root, TEST_SET, diverged=[], diagnostics=False, rates=[0.025])
    assert choose_rates(plan, root)[0]["l2_norm"] == [0.001, 0.005, 0.025], "the best is inside now"


def test_seeds_that_fail_are_an_outcome(whole):
    results = whole[0]
    arms = {arm.name: arm.outcome for arm in results.arms}
    assert (arms["none"].num_learnt, arms["none"].num_diverged, arms["none"].num_runs) == (2, 1, 3)
    values = results.arms[1].metrics["AP"].values
    assert arms["none"].mean_learnt == pytest.approx(np.mean(values))
    assert arms["none"].mean_all == pytest.approx(sum(values) / 3)
    assert arms["none"].p == pytest.approx(min(1, 2 * failure_p(1, 3, 0, 3)))
    assert arms["l2_norm"].p is None
    runs = results.arms[1].chosen_runs
    lowest = min(run.result["metrics"]["AP50"] for run in runs if run.result)
    assert outcomes({"none": runs}, "none", "AP", lowest)["none"].num_learnt == 2, "at the threshold, too"


def test_costs_scatter_and_versions_come_from_the_runs(whole):
    results = whole[0]
    first, _, arm = results.arms
    costs = arm.costs
    assert (costs.parameters, costs.images_per_second, costs.peak_memory_mib) == (1_703_456 + 1024, 8.0, 2102)
    assert (costs.seconds_to_target, costs.num_reached) == (7.0, 3), "the mean of 6, 7 and 8 seconds to AP50 0.5"
    assert first.costs.seconds_to_target is None
    assert results.provenance["versions"] == {"torch": "2.14.0, 2.14.1", "numpy": "2.4"}
    squares = [(value - arm.metrics["AP"].mean) ** 2 for arm in results.arms for value in arm.metrics["AP"].values]
    assert results.provenance["data"]["test"]["images"] == 30
    assert results.provenance["installed"]["numpy"] == np.__version__
    assert results.seed_noise == pytest.approx(np.sqrt(sum(squares) / (len(squares) - 3)))


def test_an_arm_with_a_diverged_seed_is_compared_over_the_others_and_says_so(whole):
    results = whole[0]
    arm = results.arms[1]
    assert (arm.verdict, len(arm.metrics["AP"].values)) == ("equivalent", 2)
    assert [run.status for run in arm.chosen_runs] == ["finished", "diverged", "finished"]
    assert arm.chosen_runs[1].reason == REASON
    assert "of 3 seeds 1 diverged" in arm.sentence
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
    assert results.detectable is None


def test_a_package_without_metadata_is_left_out_of_the_origin(tmp_path, monkeypatch):
    (tmp_path / "leftover-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    installed = origin_of({"test": TEST_SET})["installed"]
    assert installed["torch"] == version("torch")
    assert None not in installed


def test_steps_and_images_are_those_of_the_arms_where_these_vary_them(tmp_path):
    plan = make_plan()
    training = plan.base.training.model_copy(update={"max_steps": 100, "batch_size": 2, "accumulate": 3})
    shorter = dataclasses.replace(plan.arms[2], config=plan.base.model_copy(update={"training": training}))
    plan = dataclasses.replace(plan, arms=(*plan.arms[:2], shorter))
    root, test_set = tmp_path / "old", shapes(6)
    make_runs(plan, root, test_set, diverged=(), diagnostics=False)
    results = analyse_made(plan, root, test_set)
    trained = 2 * (3 + 2) * 1000 * 8 + (3 + 2) * 100 * 2 * 3  # three seeds, and two rates tried with one
    assert results.provenance["training_images"] == trained
    write_report(results, root, test_set, root / "report.html")
    assert "100 to 1\u202f000 of 2 to 8 images" in (root / "report.html").read_text(encoding="utf-8")
    scatter = Scatter(0.01, 0.0, 1.0, "a test")
    needed = duration(2 * 3 * 1000 * 8 + 3 * 100 * 2 * 3 + 2 * (2 * 1000 * 8 + 100 * 2 * 3))
    assert f"| 15 | {needed} |" in plan_markdown(plan, scatter)
