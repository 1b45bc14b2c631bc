"""From run folders to results and sentences: made folders with known numbers, whatever is missing in them."""

import csv
import json

import numpy as np
import pytest
import yaml
from scipy import stats

from ssdnorm.build import build_dataset
from ssdnorm.coco_format import coco_dict, detection_table
from ssdnorm.compare import analysis
from ssdnorm.compare.analysis import analyse, choose_rate, read_rates
from ssdnorm.compare.plan import read_plan
from ssdnorm.compare.results import METRICS, Rate
from ssdnorm.engine.evaluation import evaluate_tables

from .test_plan import CONTENT

SHARE = {"l2_norm": 0.5, "batch_norm": 0.95, "no_dropout": 0.5}  # of the objects that an arm finds


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A comparison whose runs find objects at random, some arms more of them."""
    monkeypatch.setattr(analysis, "measure_latencies", lambda checkpoints, image: dict.fromkeys(checkpoints, 7.0))
    content = {**CONTENT, "seeds": [0, 1, 2], "metric": "AP", "learning_rates": {"batch_norm": [0.01, 0.004]}}
    data = {**CONTENT["base"]["data"], "test": {"format": "shapes", "num_images": 30, "seed": 2}}
    content["base"] = {**CONTENT["base"], "data": data}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    plan = read_plan(tmp_path / "compare.yaml")
    for job in plan.jobs({"l2_norm": 0.004, "batch_norm": 0.004, "no_dropout": 0.004}):
        _make_run(tmp_path / job.folder, job, share=0.7 if job.lr == 0.01 else SHARE[job.arm])
    return tmp_path


def _make_run(folder, job, *, share):
    test_set = build_dataset(job.config, "test")
    truth = test_set.ground_truth
    # no_dropout finds what l2_norm finds: two arms that differ in nothing but their names
    rng = np.random.default_rng([job.seed, int(100 * share)])
    found = [
        {**{key: row[key] for key in ("image_id", "category_id", "bbox")}, "score": float(rng.random())}
        for row in coco_dict(truth)["annotations"]
        if rng.random() < share
    ]
    result = evaluate_tables(truth, detection_table(found, truth))
    folder.mkdir(parents=True)
    (folder / "detections.json").write_text(json.dumps(found))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "model.safetensors").touch()
    content = {
        "metrics": result.metrics,
        "metrics_validation": {name: value / 2 for name, value in result.metrics.items()},
        "per_class": result.per_class,
        "parameters": 123,
        "peak_memory_mib": 100 + job.seed,
        "commit": "abc",
        "versions": {"torch": "2.14.1" if job.seed else "2.14.0", "numpy": "2.4"},
        "device": "cpu",
        "threads": 1,
        "world_size": 1,
        "seconds": 2.0,
    }
    (folder / "result.json").write_text(json.dumps(content))
    reached = 0.6 if job.arm == "batch_norm" else 0.4
    rows = [  # step, images_per_second, seconds, evaluated_on, AP50
        (1, 1.0, 1.0, "", ""),
        (2, 8.0, 2.0, "", ""),
        (2, "", 2.0, "validation", 0.3),
        (4, "", 4.0 + job.seed, "validation", reached),
        (4, "", 9.0, "test", 0.9),
    ]
    with (folder / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "images_per_second", "seconds", "evaluated_on", "AP50"), *rows])
    lengths = [(step, "length_before", "conv4_3", 10 * step + job.seed) for step in (0, 2, 4)]
    with (folder / "diagnostics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "statistic", "name", "value"), *lengths])


def results_of(root, **keys):
    plan = read_plan(root / "compare.yaml")
    return analyse(plan, root, build_dataset(plan.base, "test"), num_resamples=50, **keys)


def arms_of(results):
    return {arm.name: arm for arm in results.arms}


def metric(root, job_folder, name="AP"):
    return json.loads((root / job_folder / "result.json").read_text())["metrics"][name]


def test_an_arm_that_finds_more_is_better_and_one_that_differs_by_name_alone_is_not(root):
    results = results_of(root)
    arms = arms_of(results)
    assert arms["batch_norm"].verdict == "better"
    assert arms["no_dropout"].verdict == "no evidence of a difference"
    ours = [metric(root, f"runs/batch_norm/lr0.004_seed{seed}") for seed in range(3)]
    base = [metric(root, f"runs/l2_norm/lr0.004_seed{seed}") for seed in range(3)]
    difference = arms["batch_norm"].differences["AP"]
    assert difference.paired.mean == pytest.approx(np.mean(ours) - np.mean(base))
    assert difference.p == pytest.approx(stats.ttest_rel(ours, base).pvalue)
    assert difference.p_holm == pytest.approx(2 * difference.p), "two comparisons"
    low, high = difference.images
    assert low < difference.paired.mean < high
    low, high = arms["batch_norm"].differences["AP75"].images
    assert low < arms["batch_norm"].differences["AP75"].paired.mean < high
    assert arms["batch_norm"].differences["VOC07"].images is None, "there is no bootstrap of VOC's metric"
    twin = arms["no_dropout"].differences["AP"]
    assert (twin.paired.values, twin.images, twin.p_holm) == ([0.0] * 3, (0.0, 0.0), 1.0)
    assert set(arms["l2_norm"].metrics) <= set(METRICS)
    points = f"{100 * difference.paired.mean:+.1f} points of AP"
    assert results.answer.startswith(f"batch_norm ({points}) is better than l2_norm; ")
    assert "there is no evidence that no_dropout differs from l2_norm" in results.answer


def test_the_rate_is_chosen_on_the_validation_images_of_the_first_seed(root):
    plan = read_plan(root / "compare.yaml")
    arm = plan.arms[1]
    rates = read_rates(plan, arm, root)
    assert [rate.lr for rate in rates] == [0.01, 0.004]
    assert rates[1].validation == pytest.approx(metric(root, "runs/batch_norm/lr0.004_seed0") / 2)
    assert rates[1].validation > rates[0].validation
    assert arms_of(results_of(root))["batch_norm"].lr == 0.004
    assert choose_rate([Rate(0.01, 0.3, "finished"), Rate(0.02, 0.3, "finished")]) == 0.01
    assert choose_rate([Rate(0.01, None, "diverged"), Rate(0.02, 0.0, "finished")]) == 0.02
    assert choose_rate([Rate(0.01, None, "finished")]) == 0.01


def test_costs_diagnostics_scatter_and_versions_come_from_the_runs(root):
    results = results_of(root)
    arm = arms_of(results)["batch_norm"]
    costs = arm.costs
    assert (costs.parameters, costs.images_per_second, costs.peak_memory_mib, costs.latency_ms) == (123, 8.0, 102, 7.0)
    assert (costs.seconds_to_target, costs.num_reached) == (5.0, 3), "the mean of 4, 5 and 6 seconds to AP50 0.5"
    assert arms_of(results)["l2_norm"].costs.seconds_to_target is None
    assert arm.why == {"length_before": {"conv4_3": (1.0, 41.0)}}, "the mean of three seeds"
    assert results.provenance["versions"] == {"torch": "2.14.0, 2.14.1", "numpy": "2.4"}
    values = [arm.metrics["AP"].values for arm in results.arms]
    assert results.seed_noise == pytest.approx(np.sqrt(np.mean([np.var(v, ddof=1) for v in values])))


def test_an_arm_with_a_diverged_seed_is_incomplete_and_says_so(root):
    folder = root / "runs/no_dropout/lr0.004_seed1"
    (folder / "result.json").unlink()
    (folder / "failure.json").write_text('{"status": "diverged", "reason": "step 7: the loss is not finite"}')
    results = results_of(root)
    arm = arms_of(results)["no_dropout"]
    assert arm.verdict == "incomplete"
    assert "of 3 seeds 1 diverged" in arm.sentence
    assert [run.status for run in arm.runs] == ["finished", "diverged", "finished"]
    assert arm.runs[1].reason == "step 7: the loss is not finite"
    assert len(arm.metrics["AP"].values) == 2
    assert "no_dropout diverged with 1 of 3 seeds" in results.answer
    assert "8 of 9 runs" in results.answer


def test_without_a_seed_of_the_baseline_no_arm_is_judged(root):
    (root / "runs/l2_norm/lr0.004_seed1/result.json").unlink()
    results = results_of(root)
    assert {arm.verdict for arm in results.arms} == {"baseline", "incomplete"}
    assert "batch_norm and no_dropout were not compared: runs of l2_norm are missing" in results.answer


def test_a_missing_run_is_told_from_an_undefined_metric(root):
    (root / "runs/batch_norm/lr0.004_seed1/result.json").unlink()
    for path in root.glob("runs/no_dropout/*/result.json"):
        result = json.loads(path.read_text())
        result["metrics"]["AP"] = -1.0
        path.write_text(json.dumps(result))
    answer = results_of(root).answer
    assert "batch_norm was not compared: runs are missing" in answer
    assert "no_dropout was not compared: AP is undefined on the test images" in answer


def test_starts_are_compared_with_the_first_seed_that_both_arms_recorded(root):
    start = {"weights": {"a": "1", "b": "2"}, "batches": ["x"], "parameter_groups": [], "batch_norm_images": None}
    for seed in (1, 2):
        (root / f"runs/l2_norm/lr0.004_seed{seed}/start.json").write_text(json.dumps(start))
    (root / "runs/no_dropout/lr0.004_seed0/start.json").write_text("never read: the baseline has none")
    changed = {**start, "weights": {"a": "1", "b": "3"}}
    (root / "runs/no_dropout/lr0.004_seed2/start.json").write_text(json.dumps(changed))
    arms = arms_of(results_of(root))
    assert arms["no_dropout"].matched.different == ["b"]
    assert arms["l2_norm"].matched.identical == 2
    assert arms["batch_norm"].matched is None, "its runs did not record their start"


def test_detections_that_are_gone_are_named(root):
    (root / "runs/l2_norm/lr0.004_seed1/detections.json").unlink()
    with pytest.raises(ValueError, match=r"l2_norm/lr0\.004_seed1/detections\.json: missing"):
        results_of(root)


def test_without_any_run_there_are_no_numbers_but_a_report(root):
    for path in root.glob("runs/*/*/result.json"):
        path.unlink()
    results = results_of(root)
    assert {arm.verdict for arm in results.arms} == {"baseline", "incomplete"}
    assert results.seed_noise is None
    assert all(not arm.metrics and arm.costs.parameters is None for arm in results.arms)


def test_one_seed_is_never_ranked(root):
    content = yaml.safe_load((root / "compare.yaml").read_text())
    (root / "compare.yaml").write_text(yaml.safe_dump({**content, "seeds": [0]}, sort_keys=False))
    results = results_of(root)
    assert {arm.verdict for arm in results.arms} == {"baseline", "one seed"}
    assert "one seed allows no conclusion about batch_norm and no_dropout" in results.answer.lower()
    assert "better" not in results.answer
