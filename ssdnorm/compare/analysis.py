"""From a plan and its run folders to the results of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ssdnorm.compare.conclusions import conclude, conclude_arm
from ssdnorm.compare.costs import costs_of, measure_latencies
from ssdnorm.compare.curves import mean_curve, read_diagnostics
from ssdnorm.compare.plan import Arm, Plan, make_job
from ssdnorm.compare.results import METRICS, ArmResult, Difference, Mean, Rate, Results, Run, Verdict
from ssdnorm.compare.run_folders import coco_result, read_run
from ssdnorm.compare.starts import compare_arms
from ssdnorm.compare.statistics import holm, mean_with_interval, paired_difference, pooled_std, verdict_of
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.metrics.bootstrap import METRICS as BOOTSTRAPPED
from ssdnorm.metrics.bootstrap import bootstrap_difference

Differences = dict[str, dict[str, Difference]]  # arm → metric → difference to the baseline


def analyse(plan: Plan, root: Path, test_set: DetectionDataset, *, num_resamples: int = 1000) -> Results:
    """Everything that the run folders of a comparison tell; any of them may be missing.

    Args:
        test_set: of the base config, on which the runs' detections were made.
        num_resamples: of the bootstrap over test images.
    """
    rates = {arm.name: read_rates(plan, arm, root) for arm in plan.arms}
    lrs = {name: choose_rate(tried) for name, tried in rates.items()}
    runs = [read_run(job, root, target_ap50=plan.target_ap50) for job in plan.jobs(lrs)]
    chosen = {arm.name: [run for run in runs if run.arm == arm.name and run.lr == lrs[arm.name]] for arm in plan.arms}
    differences = differences_to_baseline(plan, chosen, root, test_set, num_resamples)
    latencies = _latencies(chosen, root, test_set)
    arms = []
    for arm in plan.arms:
        mine, baseline = chosen[arm.name], chosen[plan.baseline]
        by_metric = differences.get(arm.name, {})
        verdict = _verdict(plan, arm, by_metric.get(plan.metric), (*mine, *baseline))
        num_classes = 1 + len(test_set.class_names)
        arms.append(
            ArmResult(
                name=arm.name,
                changes=arm.changes,
                lr=lrs[arm.name],
                rates=rates[arm.name],
                runs=[run for run in runs if run.arm == arm.name],
                metrics=_means(mine, "metrics"),
                per_class=_per_class(mine),
                population=_means(mine, "metrics_population"),
                differences=by_metric,
                verdict=verdict,
                sentence=conclude_arm(
                    arm.name, plan.baseline, plan.metric, verdict, by_metric.get(plan.metric), mine, baseline
                ),
                costs=costs_of(arm, mine, root, num_classes=num_classes, latency_ms=latencies.get(arm.name)),
                matched=compare_arms(mine, baseline, root),
                why=_first_and_last(mine, root),
            )
        )
    noise = pooled_std([arm.metrics[plan.metric].values for arm in arms if plan.metric in arm.metrics])
    return Results(
        title=plan.title,
        answer=conclude(arms, plan.baseline, plan.metric, len(plan.seeds), noise),
        metric=plan.metric,
        baseline=plan.baseline,
        seeds=list(plan.seeds),
        target_ap50=plan.target_ap50,
        seed_noise=noise,
        arms=arms,
        provenance=_provenance(plan, runs, test_set),
        config=plan.content,
    )


def read_rates(plan: Plan, arm: Arm, root: Path) -> list[Rate]:
    """Each learning rate of an arm with what the first seed's run reached on the validation images."""
    tried = []
    for lr in arm.lrs:
        run = read_run(make_job(arm, plan.seeds[0], lr), root, target_ap50=plan.target_ap50)
        tried.append(Rate(lr, run.result.get("metrics_validation", {}).get(plan.metric), run.status))
    return tried


def choose_rate(tried: Sequence[Rate]) -> float:
    """The declared rule: finished runs first, then the highest validation metric, then the smaller rate."""

    def merit(rate: Rate) -> tuple[bool, float, float]:
        return rate.status == "finished", -1.0 if rate.validation is None else rate.validation, -rate.lr

    return max(tried, key=merit).lr


def differences_to_baseline(
    plan: Plan, chosen: Mapping[str, Sequence[Run]], root: Path, test_set: DetectionDataset, num_resamples: int
) -> Differences:
    """Differences paired by seed, with intervals over test images and p-values corrected over the arms.

    Args:
        chosen: arm → its runs with the chosen learning rate.
    """
    differences: Differences = {arm.name: {} for arm in plan.arms if arm.name != plan.baseline}
    for name, by_metric in differences.items():
        for metric in METRICS:
            found = paired_difference(_by_seed(chosen[name], metric), _by_seed(chosen[plan.baseline], metric))
            if found is not None:
                by_metric[metric] = found
    _add_image_intervals(differences, plan.baseline, chosen, root, test_set, num_resamples)
    tested = [by_metric for by_metric in differences.values() if plan.metric in by_metric]
    tested = [by_metric for by_metric in tested if by_metric[plan.metric].p is not None]
    for by_metric, p in zip(tested, holm([by_metric[plan.metric].p or 0.0 for by_metric in tested]), strict=True):
        by_metric[plan.metric] = replace(by_metric[plan.metric], p_holm=p)
    return differences


def _add_image_intervals(
    differences: Differences,
    baseline: str,
    chosen: Mapping[str, Sequence[Run]],
    root: Path,
    test_set: DetectionDataset,
    num_resamples: int,
) -> None:
    """Add the bootstrap intervals over test images in place, for the metrics that have one."""
    truth = test_set.ground_truth
    results = {run.seed: coco_result(run, root, truth) for run in chosen[baseline] if run.status == "finished"}
    for name, by_metric in tqdm(differences.items(), desc="bootstrap over test images", unit="arm"):
        pairs = [run for run in chosen[name] if run.status == "finished" and run.seed in results]
        metrics = [metric for metric in BOOTSTRAPPED if metric in by_metric]
        if not metrics or not pairs:
            continue
        intervals = bootstrap_difference(
            [coco_result(run, root, truth) for run in pairs],
            [results[run.seed] for run in pairs],
            metrics=metrics,
            num_resamples=num_resamples,
        )
        for metric, interval in intervals.items():
            by_metric[metric] = replace(by_metric[metric], images=(interval.low, interval.high))


def _by_seed(runs: Sequence[Run], metric: str, part: str = "metrics") -> dict[int, float]:
    """Seed → metric of the finished runs, without COCO's −1 for "no objects"."""
    return {
        run.seed: run.result[part][metric]
        for run in runs
        if run.status == "finished" and part in run.result and run.result[part][metric] >= 0
    }


def _verdict(plan: Plan, arm: Arm, difference: Difference | None, runs: Sequence[Run]) -> Verdict:
    if arm.name == plan.baseline:
        return "baseline"
    if difference is None or any(run.status != "finished" for run in runs):
        return "incomplete"
    return verdict_of(difference)


def _means(runs: Sequence[Run], part: str) -> dict[str, Mean]:
    by_metric = {metric: list(_by_seed(runs, metric, part).values()) for metric in METRICS}
    return {metric: mean_with_interval(values) for metric, values in by_metric.items() if values}


def _per_class(runs: Sequence[Run]) -> dict[str, float]:
    """Class → mean AP over the seeds, without classes that have no object."""
    tables = [run.result["per_class"] for run in runs if run.status == "finished"]
    names = tables[0] if tables else {}
    return {name: sum(t[name]["AP"] for t in tables) / len(tables) for name in names if tables[0][name]["AP"] >= 0}


def _first_and_last(runs: Sequence[Run], root: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Statistic → place → first and last value of the runs' diagnostics, mean over the seeds."""
    logs = [read_diagnostics(root / run.folder) for run in runs if run.status == "finished"]
    names = {statistic: list(curves) for log in logs for statistic, curves in log.items()}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for statistic, places in names.items():
        measured = [log[statistic] for log in logs if statistic in log]
        curves = {place: mean_curve([one[place] for one in measured if place in one]) for place in places}
        found[statistic] = {
            place: (float(curve.values[0]), float(curve.values[-1])) for place, curve in curves.items() if len(curve)
        }
    return found


def _latencies(chosen: Mapping[str, Sequence[Run]], root: Path, test_set: DetectionDataset) -> dict[str, float]:
    checkpoints = {}
    for name, runs in chosen.items():
        finished = [run for run in runs if run.status == "finished"]
        paths = [root / run.folder / "checkpoints" / "model.safetensors" for run in finished]
        if path := next((path for path in paths if path.is_file()), None):
            checkpoints[name] = path
    return measure_latencies(checkpoints, torch.from_numpy(test_set.load_image(0)).permute(2, 0, 1))


def _provenance(plan: Plan, runs: Sequence[Run], test_set: DetectionDataset) -> dict[str, object]:
    finished = [run.result for run in runs if run.status == "finished"]
    training = plan.base.training
    return {
        "commits": sorted({str(result["commit"]) for result in finished}),
        "versions": _versions(finished),
        "devices": sorted({str(result["device"]) for result in finished}),
        "threads": sorted({result["threads"] for result in finished}),
        "world_sizes": sorted({result["world_size"] for result in finished}),
        "seconds": round(sum(result["seconds"] for result in finished), 1),
        "num_runs": len(runs),
        "num_finished": len(finished),
        "steps": training.max_steps,
        "batch_size": training.batch_size,
        "test_images": len(test_set),
        "classes": list(test_set.class_names),
    }


def _versions(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Package → version, or all versions if the runs used several."""
    names = dict.fromkeys(name for result in results for name in result["versions"])
    return {name: ", ".join(sorted({str(r["versions"].get(name, "none")) for r in results})) for name in names}
