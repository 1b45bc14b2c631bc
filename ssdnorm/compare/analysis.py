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
from ssdnorm.compare.curves import mean_diagnostics, read_diagnostics
from ssdnorm.compare.plan import Arm, Plan, make_job
from ssdnorm.compare.results import METRICS, ArmResult, Difference, Mean, Rate, Results, Run, Verdict
from ssdnorm.compare.run_folders import coco_result, compare_starts, read_run
from ssdnorm.compare.statistics import holm, mean_with_interval, paired_difference, pooled_std, verdict_of
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.metrics.bootstrap import METRICS as BOOTSTRAPPED
from ssdnorm.metrics.bootstrap import bootstrap_difference

Runs = Mapping[str, Sequence[Run]]  # arm → runs with its chosen learning rate
Differences = dict[str, dict[str, Difference]]  # arm → metric → difference to the baseline


def analyse(plan: Plan, root: Path, test_set: DetectionDataset, *, num_resamples: int = 1000) -> Results:
    """Everything that the run folders of a comparison tell; any of them may be missing.

    Args:
        test_set: of the base config, on which the runs' detections were made.
        num_resamples: of the bootstrap over test images.
    """
    file = plan.file
    rates = {arm.name: read_rates(plan, arm, root) for arm in plan.arms}
    lrs = {name: choose_rate(tried) for name, tried in rates.items()}
    runs = [read_run(job, root, file.target_ap50) for job in plan.jobs(lrs)]
    chosen = {name: [run for run in runs if run.arm == name and run.lr == lr] for name, lr in lrs.items()}
    finished = {name: [run for run in mine if run.status == "finished"] for name, mine in chosen.items()}
    differences = differences_to_baseline(file.baseline, file.metric, finished, root, test_set, num_resamples)
    latencies = _latencies(plan, finished, root, test_set)
    arms = []
    for arm in plan.arms:
        mine, by_metric = finished[arm.name], differences.get(arm.name, {})
        complete = all(finished[name] == chosen[name] for name in (arm.name, file.baseline))
        verdict: Verdict = "baseline" if arm.name == file.baseline else "incomplete"
        if complete and file.metric in by_metric:  # the baseline has no differences
            verdict = verdict_of(by_metric[file.metric])
        costs = costs_of(
            arm, chosen[arm.name], root, num_classes=1 + len(test_set.class_names), latency_ms=latencies.get(arm.name)
        )
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
                sentence="",
                costs=costs,
                matched=compare_starts(chosen[arm.name], chosen[file.baseline], root),
                why=_first_and_last(mine, root),
            )
        )
    baseline = next(arm for arm in arms if arm.name == file.baseline)
    arms = [replace(arm, sentence=conclude_arm(arm, baseline, file.metric)) for arm in arms]
    noise = pooled_std([arm.metrics[file.metric].values for arm in arms if file.metric in arm.metrics])
    return Results(
        title=file.title,
        answer=conclude(arms, file.baseline, file.metric, len(file.seeds), noise),
        metric=file.metric,
        baseline=file.baseline,
        seeds=file.seeds,
        target_ap50=file.target_ap50,
        seed_noise=noise,
        arms=arms,
        provenance=_provenance(plan, runs, test_set),
        config=plan.content,
    )


def read_rates(plan: Plan, arm: Arm, root: Path) -> list[Rate]:
    """Each learning rate of an arm with what the first seed's run reached on the validation images."""
    runs = [read_run(make_job(arm, plan.file.seeds[0], lr), root, plan.file.target_ap50) for lr in arm.lrs]
    return [Rate(r.lr, r.result.get("metrics_validation", {}).get(plan.file.metric), r.status) for r in runs]


def choose_rate(tried: Sequence[Rate]) -> float:
    """The declared rule: finished runs first, then the highest validation metric, then the smaller rate."""

    def merit(rate: Rate) -> tuple[bool, float, float]:
        return rate.status == "finished", -1.0 if rate.validation is None else rate.validation, -rate.lr

    return max(tried, key=merit).lr


def differences_to_baseline(
    baseline: str, metric: str, finished: Runs, root: Path, test_set: DetectionDataset, num_resamples: int
) -> Differences:
    """Differences paired by seed, with intervals over test images.

    Args:
        metric: the one whose p-values are corrected over the arms.
    """
    differences: Differences = {}
    truth = test_set.ground_truth
    theirs = {run.seed: coco_result(run, root, truth) for run in finished[baseline]}
    for name in tqdm([name for name in finished if name != baseline], desc="bootstrap over test images", unit="arm"):
        by_metric = differences[name] = {
            each: found
            for each in METRICS
            if (found := paired_difference(_by_seed(finished[name], each), _by_seed(finished[baseline], each)))
        }
        pairs = [run for run in finished[name] if run.seed in theirs]
        bootstrapped = [each for each in BOOTSTRAPPED if each in by_metric]
        if pairs and bootstrapped:
            ours = [coco_result(run, root, truth) for run in pairs]
            others = [theirs[run.seed] for run in pairs]
            intervals = bootstrap_difference(ours, others, metrics=bootstrapped, num_resamples=num_resamples)
            for each, interval in intervals.items():
                by_metric[each] = replace(by_metric[each], images=(interval.low, interval.high))
    p_values = {name: found[metric].p for name, found in differences.items() if metric in found}
    tested = {name: p for name, p in p_values.items() if p is not None}
    for name, p_holm in zip(tested, holm(list(tested.values())), strict=True):
        differences[name][metric] = replace(differences[name][metric], p_holm=p_holm)
    return differences


def _by_seed(finished: Sequence[Run], metric: str, part: str = "metrics") -> dict[int, float]:
    """Seed → metric, without COCO's −1 for "no objects"."""
    return {run.seed: value for run in finished if (value := run.result.get(part, {}).get(metric, -1)) >= 0}


def _means(finished: Sequence[Run], part: str) -> dict[str, Mean]:
    by_metric = {metric: list(_by_seed(finished, metric, part).values()) for metric in METRICS}
    return {metric: mean_with_interval(values) for metric, values in by_metric.items() if values}


def _per_class(finished: Sequence[Run]) -> dict[str, float]:
    """Class → mean AP over the seeds, without classes that have no object."""
    tables = [run.result["per_class"] for run in finished]
    names = tables[0] if tables else {}
    return {name: sum(t[name]["AP"] for t in tables) / len(tables) for name in names if tables[0][name]["AP"] >= 0}


def _first_and_last(finished: Sequence[Run], root: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Statistic → place → first and last value of the runs' diagnostics, mean over the seeds."""
    means = mean_diagnostics([read_diagnostics(root / run.folder) for run in finished])
    return {
        statistic: {place: (float(c.values[0]), float(c.values[-1])) for place, c in curves.items() if len(c)}
        for statistic, curves in means.items()
    }


def _latencies(plan: Plan, finished: Runs, root: Path, test_set: DetectionDataset) -> dict[str, float]:
    checkpoints = {}
    for name, runs in finished.items():
        paths = [root / run.folder / "checkpoints" / "model.safetensors" for run in runs]
        if path := next((path for path in paths if path.is_file()), None):
            checkpoints[name] = path
    named = {norm for arm in plan.arms for norm in arm.config.norm.custom_norms}
    image = torch.from_numpy(test_set.load_image(0)).permute(2, 0, 1)
    return measure_latencies(checkpoints, image, custom_norms=named)


def _provenance(plan: Plan, runs: Sequence[Run], test_set: DetectionDataset) -> dict[str, object]:
    finished = [run.result for run in runs if run.status == "finished"]

    def used(key: str) -> list[Any]:
        return sorted({result[key] for result in finished}, key=str)

    packages = dict.fromkeys(name for result in finished for name in result["versions"])
    return {
        "commits": used("commit"),
        "versions": {  # all of them if the runs used several
            name: ", ".join(sorted({str(r["versions"].get(name, "none")) for r in finished})) for name in packages
        },
        "devices": used("device"),
        "threads": used("threads"),
        "world_sizes": used("world_size"),
        "seconds": round(sum(result["seconds"] for result in finished), 1),
        "num_runs": len(runs),
        "num_finished": len(finished),
        "steps": plan.base.training.max_steps,
        "batch_size": plan.base.training.batch_size,
        "test_images": len(test_set),
        "classes": list(test_set.class_names),
    }
