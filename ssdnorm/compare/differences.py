"""Differences of arms to the baseline and contrasts, judged by the comparison's rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from ssdnorm.compare.looks import level_of, spent_alpha
from ssdnorm.compare.plan import Comparison
from ssdnorm.compare.power import Outlook
from ssdnorm.compare.results import METRICS, Difference, Finding, Outcome, Run
from ssdnorm.compare.rules import RULES, Estimate, holm, pointwise_interval, pooled_variance
from ssdnorm.compare.run_folders import coco_result
from ssdnorm.compare.statistics import ROUNDING, failure_p, mean_with_interval
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.metrics.bootstrap import METRICS as BOOTSTRAPPED
from ssdnorm.metrics.bootstrap import interval_around, resample_coco, resampled_gap

Runs = Mapping[str, Sequence[Run]]  # arm → runs with its chosen learning rate
Pairs = Sequence[tuple[str, str]]  # (a, b) for a − b, (a, b), (c, d) for (a − b) − (c − d)
Draws = Mapping[tuple[str, int], Mapping[str, np.ndarray]]  # arm, seed → metric → values on resampled test images

_PLANNED = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20)  # numbers of seeds whose power is drawn


def resample_runs(finished: Runs, root: Path, test_set: DetectionDataset, num_resamples: int) -> Draws:
    """Every finished run's metrics on the same resampled test images, from its detections."""
    runs = [run for mine in finished.values() for run in mine]
    truth = test_set.ground_truth
    return {
        (run.arm, run.seed): resample_coco(coco_result(run, root, truth), num_resamples=num_resamples)
        for run in tqdm(runs, desc="bootstrap over test images", unit="run")
    }


def by_seed(finished: Sequence[Run], metric: str, part: str = "metrics") -> dict[int, float]:
    """Seed → metric, without COCO's −1 for "no objects"."""
    return {run.seed: value for run in finished if (value := run.result.get(part, {}).get(metric, -1)) >= 0}


def differences(pairs: Pairs, finished: Runs, draws: Draws, num_images: int) -> dict[str, Difference]:
    """Metric → difference over the seeds that all arms have; ``draws`` may be empty, the error is then over seeds."""
    found = {}
    for metric in METRICS:
        values = {arm: by_seed(finished[arm], metric) for pair in pairs for arm in pair}
        signed = [(a, b) if i == 0 else (b, a) for i, (a, b) in enumerate(pairs)]
        seeds = [seed for seed in values[pairs[0][1]] if all(seed in known for known in values.values())]
        if not seeds:
            continue
        paired = mean_with_interval([sum(values[a][seed] - values[b][seed] for a, b in signed) for seed in seeds])
        images = images_std = None
        if draws and metric in BOOTSTRAPPED:
            gaps = [resampled_gap(draws[a, seed][metric], draws[b, seed][metric]) for a, b in signed for seed in seeds]
            gap = np.sum(gaps, axis=0) / len(seeds)
            images, images_std = interval_around(paired.mean, gap), float(gap.std(ddof=1))
        difference = Difference(paired, images, images_std)
        if paired.std is not None:
            low, high = pointwise_interval(_estimate(difference, pairs, num_images))
            difference = replace(difference, low=low, high=high)
        found[metric] = difference
    return found


@dataclass(frozen=True)
class Judgement:
    """Findings by name, and what the seeds and images could have shown; see ``Results``."""

    findings: dict[str, Finding]
    detectable: float | None
    by_seeds: list[tuple[int, float, float]]


def judge(file: Comparison, compared: Mapping[str, tuple[Difference, Pairs]], num_images: int) -> Judgement:
    """Apply the comparison's rule to all differences together; those from one seed get no finding.

    Args:
        compared: name → difference in the comparison's metric, and the arms that it takes.
    """
    level, rule = level_of(file), RULES[file.rule]
    last = spent_alpha(file.looks)[-1] if file.looks else level
    estimates = {
        name: _estimate(difference, pairs, num_images)
        for name, (difference, pairs) in compared.items()
        if difference.paired.std is not None
    }
    if not estimates:
        return Judgement({}, None, [])
    pooled, num, findings = pooled_variance(list(estimates.values())), len(estimates), {}
    decisions = rule(list(estimates.values()), alpha=level, margin=file.margin)
    for (name, estimate), decision in zip(estimates.items(), decisions, strict=True):
        more: int | None = 0
        if decision.verdict == "undecided":
            std = max(estimate.std, (pooled * estimate.scale) ** 0.5 if file.rule == "guarded_t" else 0.0)
            outlook = Outlook(std, num, estimate.images_std, last, file.rule)
            needed = outlook.seeds_to_decide(estimate.value, file.margin)
            more = None if needed is None else max(1, needed - estimate.num_seeds)
        findings[name] = Finding(**asdict(decision), more_seeds=more)
    if all(estimate.is_constant for estimate in estimates.values()):  # nothing scatters: no power to speak of
        return Judgement(findings, None, [])
    images_std = median(e.images_std / e.scale**0.5 for e in estimates.values())
    outlook = Outlook(pooled**0.5, num, images_std, level, file.rule)
    num_seeds = round(median(e.num_seeds for e in estimates.values()))
    planned = sorted({*_PLANNED, num_seeds})
    curve = [(n, outlook.detectable(n), outlook.equivalence_margin(n)) for n in planned]
    return Judgement(findings, outlook.detectable(num_seeds), curve)


def outcomes(runs: Runs, baseline: str, metric: str, learnt_ap50: float) -> dict[str, Outcome]:
    """Arm → how many of its seeds learnt, beside the baseline's."""
    found: dict[str, Outcome] = {}
    for arm, mine in runs.items():
        ended = [run for run in mine if run.status in ("finished", "diverged")]
        learnt = [run for run in ended if run.result.get("metrics", {}).get("AP50", -1) >= learnt_ap50]
        alone = list(by_seed(learnt, metric).values())
        whole = [0.0 if run.status == "diverged" else run.result["metrics"].get(metric, -1.0) for run in ended]
        found[arm] = Outcome(
            num_learnt=len(learnt),
            num_diverged=sum(run.status == "diverged" for run in ended),
            num_runs=len(ended),
            p=None,
            mean_learnt=float(np.mean(alone)) if alone else None,
            mean_all=float(np.mean(whole)) if whole and min(whole) >= 0 else None,
        )
    theirs = found[baseline]
    tested = [arm for arm, each in found.items() if arm != baseline and each.num_runs and theirs.num_runs]
    failed = theirs.num_runs - theirs.num_learnt, theirs.num_runs
    raw = [failure_p(found[arm].num_runs - found[arm].num_learnt, found[arm].num_runs, *failed) for arm in tested]
    return found | {arm: replace(found[arm], p=p) for arm, p in zip(tested, holm(raw), strict=True)}


def _estimate(difference: Difference, pairs: Pairs, num_images: int) -> Estimate:
    paired = difference.paired
    weights: Counter[str] = Counter()
    for i, (plus, minus) in enumerate(pairs):
        sign = 1 if i == 0 else -1
        weights[plus] += sign
        weights[minus] -= sign
    scale = sum(weight**2 for weight in weights.values()) / 2
    std = 0.0 if paired.std is None or paired.std < ROUNDING else paired.std
    value = 0.0 if abs(paired.mean) < ROUNDING else paired.mean
    return Estimate(value, len(paired.values), std, difference.images_std or 0.0, max(2, num_images), scale or 1.0)
