"""This file is about assembling: a plan and its run folders in, the results of the comparison out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ssdnorm.compare.collect import coco_result, collect_run
from ssdnorm.compare.costs import costs_of, measure_latencies
from ssdnorm.compare.plan import Arm, Plan, make_job
from ssdnorm.compare.results import METRICS, ArmResult, Costs, Difference, Matched, Mean, Rate, Results, Run, Verdict
from ssdnorm.compare.run_logs import mean_curve, read_diagnostics
from ssdnorm.compare.statistics import holm, mean_with_interval, paired_difference, pooled_std, verdict_of
from ssdnorm.compare.words import answer_of, sentence_of
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.metrics.bootstrap import METRICS as BOOTSTRAPPED
from ssdnorm.metrics.bootstrap import bootstrap_difference

_RESAMPLES = 1000


def assemble(
    plan: Plan,
    root: Path,
    test_set: DetectionDataset,
    matched: Mapping[str, Matched],
    *,
    num_resamples: int = _RESAMPLES,
) -> Results:
    """Everything that a comparison's run folders say, whichever of them are there.

    Args:
        test_set: of the base config; what the runs' detections are of.
        matched: by arm, from ``compare_starts``; an arm may be missing.
        num_resamples: of the bootstrap over test images.
    """
    rates = {arm.name: rates_of(plan, arm, root) for arm in plan.arms}
    lrs = {name: choose_rate(tried) for name, tried in rates.items()}
    runs = [collect_run(job, root, target_ap50=plan.target_ap50) for job in plan.jobs(lrs)]
    chosen = {arm.name: [run for run in runs if run.arm == arm.name and run.lr == lrs[arm.name]] for arm in plan.arms}
    differences = differences_of(plan, chosen)
    _add_bootstrap(differences, plan, chosen, root, test_set, num_resamples)
    _add_holm(differences, plan.metric)
    latencies = _latencies(chosen, root, test_set)
    arms = []
    for arm in plan.arms:
        costs = costs_of(
            arm,
            chosen[arm.name],
            root,
            num_classes=1 + len(test_set.class_names),
            latency_ms=latencies.get(arm.name),
        )
        arms.append(
            _arm_result(
                plan,
                arm,
                [run for run in runs if run.arm == arm.name],
                chosen[arm.name],
                chosen[plan.baseline],
                rates[arm.name],
                differences.get(arm.name, {}),
                costs,
                matched.get(arm.name),
                _why(chosen[arm.name], root),
            )
        )
    noise = pooled_std([arm.metrics[plan.metric].values for arm in arms if plan.metric in arm.metrics])
    return Results(
        title=plan.title,
        answer=answer_of(arms, plan.baseline, plan.metric, len(plan.seeds), noise),
        metric=plan.metric,
        baseline=plan.baseline,
        seeds=list(plan.seeds),
        target_ap50=plan.target_ap50,
        seed_noise=noise,
        arms=arms,
        provenance=_provenance(plan, runs, test_set),
        config=plan.content,
    )


def chosen_rates(plan: Plan, root: Path) -> dict[str, float]:
    """Arm → learning rate, by the declared rule, from the first seed's runs."""
    return {arm.name: choose_rate(rates_of(plan, arm, root)) for arm in plan.arms}


def rates_of(plan: Plan, arm: Arm, root: Path) -> list[Rate]:
    """Each learning rate of an arm with what the first seed's run reached on the validation images."""
    tried = []
    for lr in arm.lrs:
        run = collect_run(make_job(arm, plan.seeds[0], lr), root, target_ap50=plan.target_ap50)
        tried.append(Rate(lr, run.result.get("metrics_validation", {}).get(plan.metric), run.status))
    return tried


def choose_rate(tried: Sequence[Rate]) -> float:
    """The declared rule: a run that finished, then the highest validation metric, then the smaller rate."""

    def merit(rate: Rate) -> tuple[bool, float, float]:
        return rate.status == "finished", -1.0 if rate.validation is None else rate.validation, -rate.lr

    return max(tried, key=merit).lr


def differences_of(plan: Plan, chosen: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Difference]]:
    """Arm → metric → difference to the baseline, paired by seed."""
    differences: dict[str, dict[str, Difference]] = {}
    for arm in plan.arms:
        if arm.name == plan.baseline:
            continue
        differences[arm.name] = {}
        for metric in METRICS:
            difference = paired_difference(_by_seed(chosen[arm.name], metric), _by_seed(chosen[plan.baseline], metric))
            if difference is not None:
                differences[arm.name][metric] = difference
    return differences


def _by_seed(runs: Sequence[Run], metric: str, part: str = "metrics") -> dict[int, float]:
    """Seed → number of the finished runs; −1 means that there is nothing of that size to find, so no number."""
    return {
        run.seed: run.result[part][metric]
        for run in runs
        if run.status == "finished" and part in run.result and run.result[part][metric] >= 0
    }


def _add_bootstrap(
    differences: dict[str, dict[str, Difference]],
    plan: Plan,
    chosen: Mapping[str, Sequence[Run]],
    root: Path,
    test_set: DetectionDataset,
    num_resamples: int,
) -> None:
    """Put the intervals over test images in, for the metrics that have one, in place."""
    truth = test_set.ground_truth
    baseline = {run.seed: run for run in chosen[plan.baseline] if run.status == "finished"}
    results = {seed: coco_result(run, root, truth) for seed, run in baseline.items()}
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


def _add_holm(differences: dict[str, dict[str, Difference]], metric: str) -> None:
    """Put the corrected p-values of the answer's metric in, in place."""
    p_values = {
        name: p
        for name, by_metric in differences.items()
        if metric in by_metric and (p := by_metric[metric].p) is not None
    }
    for name, p in zip(p_values, holm(list(p_values.values())), strict=True):
        differences[name][metric] = replace(differences[name][metric], p_holm=p)


def _latencies(chosen: Mapping[str, Sequence[Run]], root: Path, test_set: DetectionDataset) -> dict[str, float]:
    checkpoints = {}
    for name, runs in chosen.items():
        finished = [run for run in runs if run.status == "finished"]
        paths = [root / run.folder / "checkpoints" / "model.safetensors" for run in finished]
        if path := next((path for path in paths if path.is_file()), None):
            checkpoints[name] = path
    image = torch.from_numpy(test_set.load_image(0)).permute(2, 0, 1)
    return measure_latencies(checkpoints, image)


def _arm_result(
    plan: Plan,
    arm: Arm,
    runs: list[Run],
    chosen: Sequence[Run],
    baseline: Sequence[Run],
    rates: list[Rate],
    differences: dict[str, Difference],
    costs: Costs,
    matched: Matched | None,
    why: dict[str, dict[str, tuple[float, float]]],
) -> ArmResult:
    difference = differences.get(plan.metric)
    verdict: Verdict
    if arm.name == plan.baseline:
        verdict = "baseline"
    elif difference is None or any(run.status != "finished" for run in (*chosen, *baseline)):
        verdict = "incomplete"
    else:
        verdict = verdict_of(difference)
    return ArmResult(
        name=arm.name,
        changes=arm.changes,
        lr=chosen[0].lr,
        rates=rates,
        runs=runs,
        metrics=_means(chosen, "metrics"),
        per_class=_per_class(chosen),
        population=_means(chosen, "metrics_population"),
        differences=differences,
        verdict=verdict,
        sentence=sentence_of(arm.name, plan.baseline, plan.metric, verdict, difference, chosen, baseline),
        costs=costs,
        matched=matched,
        why=why,
    )


def _why(runs: Sequence[Run], root: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """What the runs' diagnostics began and ended with, mean over the seeds."""
    logs = [read_diagnostics(root / run.folder) for run in runs if run.status == "finished"]
    names = {statistic: list(curves) for log in logs for statistic, curves in log.items()}
    why: dict[str, dict[str, tuple[float, float]]] = {}
    for statistic, places in names.items():
        measured = [log[statistic] for log in logs if statistic in log]
        curves = {place: mean_curve([one[place] for one in measured if place in one]) for place in places}
        why[statistic] = {
            place: (float(curve.values[0]), float(curve.values[-1])) for place, curve in curves.items() if len(curve)
        }
    return why


def _means(runs: Sequence[Run], part: str) -> dict[str, Mean]:
    means = {}
    for metric in METRICS:
        values = _by_seed(runs, metric, part)
        if values:
            means[metric] = mean_with_interval(list(values.values()))
    return means


def _per_class(runs: Sequence[Run]) -> dict[str, float]:
    """Class → mean AP over the seeds; classes without an object are left out."""
    tables = [run.result["per_class"] for run in runs if run.status == "finished"]
    names = tables[0] if tables else {}
    return {name: sum(t[name]["AP"] for t in tables) / len(tables) for name in names if tables[0][name]["AP"] >= 0}


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
    """Package → version; all of them, where the runs had several."""
    names = dict.fromkeys(name for result in results for name in result["versions"])
    return {name: ", ".join(sorted({str(r["versions"].get(name, "none")) for r in results})) for name in names}
