"""From a plan and its run folders to the results of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ssdnorm.compare.conclusions import conclude, conclude_arm, conclude_contrast
from ssdnorm.compare.costs import costs_of, measure_latencies
from ssdnorm.compare.differences import Runs, by_seed, differences, judge, outcomes, resample_runs
from ssdnorm.compare.looks import level_of, second_look
from ssdnorm.compare.origin import origin_of
from ssdnorm.compare.plan import Arm, Plan, extended, make_job
from ssdnorm.compare.results import METRICS, ArmResult, Contrast, Mean, Rate, Results, Run, Status, Verdict
from ssdnorm.compare.run_folders import compare_starts, first_with, read_run
from ssdnorm.compare.statistics import mean_with_interval, pooled_std
from ssdnorm.data.dataset import DetectionDataset


def analyse(plan: Plan, root: Path, datasets: Mapping[str, DetectionDataset], *, num_resamples: int = 1000) -> Results:
    """Everything that the run folders of a comparison tell; any of them may be missing.

    Args:
        datasets: of the base config; on those of ``test`` the runs' detections were made, the others are recorded.
        num_resamples: of the bootstrap over test images.
    """
    file, test_set = plan.file, datasets["test"]
    seen_before = second_look(file, root)
    rates, lrs = choose_rates(plan, root)
    runs = [
        replace(read_run(job, root, file.target_ap50), compared=job.lr == lrs[job.arm] and job.seed in file.seeds)
        for job in plan.jobs(rates, lrs)
    ]
    chosen = {name: [run for run in runs if run.arm == name and run.compared] for name in lrs}
    finished = {name: [run for run in mine if run.status == "finished"] for name, mine in chosen.items()}
    lost = {name for name, mine in chosen.items() if any(run.status in ("failed", "missing") for run in mine)}
    has_pairs = finished[file.baseline] or file.contrasts
    draws = resample_runs(finished, root, test_set, num_resamples) if has_pairs else {}
    all_pairs = {name: [(name, file.baseline)] for name in lrs if name != file.baseline}
    all_pairs |= {f"contrast {name}": [(a, b) for a, b in pairs] for name, pairs in file.contrasts.items()}
    gaps = {name: differences(pairs, finished, draws, len(test_set)) for name, pairs in all_pairs.items()}
    compared = {
        name: (gaps[name][file.metric], pairs)
        for name, pairs in all_pairs.items()
        if file.metric in gaps[name] and lost.isdisjoint(chain(*pairs))
    }
    judged = judge(file, compared, len(test_set))
    learnt = outcomes(chosen, file.baseline, file.metric, file.learnt_ap50)
    latencies = _latencies(plan, finished, root, test_set)
    arms = []
    for arm in plan.arms:
        mine, finding = finished[arm.name], judged.findings.get(arm.name)
        verdict: Verdict = "baseline" if arm.name == file.baseline else "incomplete"
        if arm.name in compared:
            verdict = finding.verdict if finding else "one seed"
        arms.append(
            ArmResult(
                name=arm.name,
                changes=arm.changes,
                lr=lrs[arm.name],
                rates=read_rates(plan, arm, root),
                runs=[run for run in runs if run.arm == arm.name],
                metrics=_means(mine, "metrics"),
                per_class=_per_class(mine),
                population=_means(mine, "metrics_population"),
                differences=gaps.get(arm.name, {}),
                verdict=verdict,
                finding=finding,
                outcome=learnt[arm.name],
                sentence="",
                costs=costs_of(chosen[arm.name], root, latency_ms=latencies.get(arm.name)),
                matched=compare_starts(chosen[arm.name], chosen[file.baseline], root),
            )
        )
    results = Results(
        title=file.title,
        answer="",
        metric=file.metric,
        baseline=file.baseline,
        seeds=file.seeds,
        target_ap50=file.target_ap50,
        learnt_ap50=file.learnt_ap50,
        rule=file.rule,
        level=level_of(file),
        margin=file.margin,
        looks=file.looks,
        second_look=seen_before,
        seed_noise=pooled_std([arm.metrics[file.metric].values for arm in arms if file.metric in arm.metrics]),
        detectable=judged.detectable,
        detectable_by_seeds=judged.by_seeds,
        arms=arms,
        contrasts=[
            Contrast(key.removeprefix("contrast "), pairs, gaps[key].get(file.metric), judged.findings.get(key), "")
            for key, pairs in all_pairs.items()
            if key.startswith("contrast ")
        ],
        provenance=_provenance(plan, runs, test_set) | origin_of(datasets),
        config=plan.content,
    )
    return replace(
        results,
        answer=conclude(results),
        arms=[replace(arm, sentence=conclude_arm(arm, results)) for arm in arms],
        contrasts=[replace(each, sentence=conclude_contrast(each, results)) for each in results.contrasts],
    )


def choose_rates(plan: Plan, root: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Arm → learning rates to try so far, and arm → the best of them."""
    tried = {arm.name: read_rates(plan, arm, root) for arm in plan.arms}
    rates = {name: [rate.lr for rate in mine] for name, mine in tried.items()}
    return rates, {name: choose_rate(mine) for name, mine in tried.items()}


def read_rates(plan: Plan, arm: Arm, root: Path) -> list[Rate]:
    """Each learning rate of an arm with what its choosing runs reached on the validation images.

    With ``extend`` the list grows while its runs are complete and the best rate is at its edge; the rate added last may
    not have run yet.
    """
    rates = [_rate(plan, arm, lr, root) for lr in arm.lrs]
    while plan.file.extend and all(rate.status in ("finished", "diverged") for rate in rates):
        lrs = extended([rate.lr for rate in rates], choose_rate(rates), len(arm.lrs))
        if len(lrs) == len(rates):
            break
        rates.append(_rate(plan, arm, lrs[-1], root))
    return rates


def _rate(plan: Plan, arm: Arm, lr: float, root: Path) -> Rate:
    if len(arm.lrs) == 1:
        return Rate(lr, None, "finished")  # given, not chosen
    runs = [read_run(make_job(arm, seed, lr), root, plan.file.target_ap50) for seed in plan.file.choosing_seeds]
    found = [run.result.get("metrics_validation", {}).get(plan.file.metric) for run in runs]
    status: Status = next((run.status for run in runs if run.status != "finished"), "finished")
    return Rate(lr, sum(found) / len(found) if None not in found else None, status)


def choose_rate(tried: Sequence[Rate]) -> float:
    """The declared rule: finished runs first, then the highest validation metric, then the smaller rate."""

    def merit(rate: Rate) -> tuple[bool, float, float]:
        return rate.status == "finished", -1.0 if rate.validation is None else rate.validation, -rate.lr

    return max(tried, key=merit).lr


def _means(finished: Sequence[Run], part: str) -> dict[str, Mean]:
    by_metric = {metric: list(by_seed(finished, metric, part).values()) for metric in METRICS}
    return {metric: mean_with_interval(values) for metric, values in by_metric.items() if values}


def _per_class(finished: Sequence[Run]) -> dict[str, float]:
    """Class → mean AP over the seeds, without classes that have no object."""
    tables = [run.result["per_class"] for run in finished]
    names = tables[0] if tables else {}
    return {name: sum(t[name]["AP"] for t in tables) / len(tables) for name in names if tables[0][name]["AP"] >= 0}


def _latencies(plan: Plan, finished: Runs, root: Path, test_set: DetectionDataset) -> dict[str, float]:
    file = "checkpoints/model.safetensors"
    trained = {name: first_with(file, runs, root) for name, runs in finished.items()}
    checkpoints = {name: root / run.folder / file for name, run in trained.items() if run is not None}
    named = {norm for arm in plan.arms for norm in arm.config.norm.custom_norms}
    image = torch.from_numpy(test_set.load_image(0)).permute(2, 0, 1)
    return measure_latencies(checkpoints, image, custom_norms=named)


def _provenance(plan: Plan, runs: Sequence[Run], test_set: DetectionDataset) -> dict[str, object]:
    finished = [run.result for run in runs if run.status == "finished"]
    trainings = {arm.name: arm.config.training for arm in plan.arms}

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
        "steps": sorted({training.num_steps for training in trainings.values()}),
        "batch_size": sorted({training.batch_images for training in trainings.values()}),
        "training_images": sum(trainings[run.arm].num_images for run in runs if run.status == "finished"),
        "test_images": len(test_set),
        "classes": list(test_set.class_names),
    }
