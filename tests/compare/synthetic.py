"""A synthetic comparison: results and run folders with plausible numbers, for the report and the tables."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssdnorm.compare.results import METRICS, ArmResult, Costs, Difference, Matched, Mean, Rate, Results, Run
from ssdnorm.compare.statistics import mean_with_interval, paired_difference, verdict_of
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.shapes import ShapesDataset

TAPS = ("conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")
LAYERS = ("conv1_1", "conv4_3", "conv5_3", "fc6", "fc7", "conv8_2", "conv11_2")
BLOCKS = ("conv1", "conv5", "fc6", "conv8", "conv11", "head", "tap_norms")
ARMS = ("l2_norm", "none", "batch_norm")
STEPS = 1200


def shapes(num_images: int = 9) -> ShapesDataset:
    return ShapesDataset(num_images, seed=7, image_size=(150, 200))


def make_comparison(
    root: Path,
    *,
    arms: Sequence[str] = ARMS,
    seeds: Sequence[int] = (0, 1, 2),
    rates: Sequence[float] = (0.005,),
    diverged: Sequence[tuple[str, int]] = (),
    class_names: Sequence[str] | None = None,
    diagnostics: bool = True,
    test_set: DetectionDataset | None = None,
) -> Results:
    """Results with run folders below ``root``; the first arm is the baseline.

    Args:
        rates: tried with the first seed; the last one is chosen.
        diverged: (arm, seed) of runs that ended early, at the last of the rates.
        class_names: of ``per_class``; those of the test set by default.
    """
    test_set = test_set or shapes()
    names = list(class_names or test_set.class_names)
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for a, arm in enumerate(arms):
        for seed in seeds:
            for lr in rates if seed == seeds[0] else rates[-1:]:
                lost = (arm, seed) in diverged and lr == rates[-1]
                runs[arm].append(_make_run(root, a, arm, seed, lr, names, test_set, lost=lost, diagnostics=diagnostics))
    made = [_arm_result(arm, runs[arm], runs[arms[0]], arms[0], rates, names) for arm in arms]
    return Results(
        title="Does conv4_3 need its L2 norm? A comparison on drawn shapes",
        answer="There is no evidence that none differs from l2_norm. This rests on a few seeds per arm, whose "
        "standard deviation is 0.62 points of AP, paired by seed and on a bootstrap over the test images.",
        metric="AP",
        baseline=arms[0],
        seeds=list(seeds),
        target_ap50=0.5,
        seed_noise=0.0062 if len(seeds) > 1 else None,
        arms=made,
        provenance={
            "commits": ["7aa8a7021d76e0435f80dd1dc44c7c29f2b6763c"],
            "versions": {"ssdnorm": "0.1.0", "torch": "2.14.1"},
            "devices": ["cpu"],
            "seconds": 16210.4,
            "num_runs": sum(map(len, runs.values())),
            "steps": STEPS,
            "batch_size": 8,
            "test_images": len(test_set),
        },
        config={
            "title": "Does conv4_3 need its L2 norm?",
            "seeds": list(seeds),
            "arms": {arm: {"norm.taps.conv4_3": arm} for arm in arms},
            "base": {
                "data": {"train": {"format": "shapes", "num_images": 2000, "root": None}},
                "training": {"max_steps": STEPS, "batch_size": 8},
            },
        },
    )


def _make_run(
    root: Path, a: int, arm: str, seed: int, lr: float, names: Sequence[str], test_set: DetectionDataset, *,
    lost: bool, diagnostics: bool,
) -> Run:  # fmt: skip
    rng = np.random.default_rng([a, seed, round(1e6 * lr)])
    folder = f"runs/{a}/lr{lr:g}_seed{seed}"
    (root / folder).mkdir(parents=True)
    level = 0.39 + 0.012 * math.sin(2.1 * a) + 0.004 * (seed - 1) + 0.004 * rng.normal()
    level -= 0.03 * abs(math.log10(lr / 0.005))
    steps = 340 if lost else STEPS
    _write_metrics(root / folder / "metrics.csv", level, rng, steps, lost=lost)
    (root / folder / "config.yaml").write_text(f"norm: {{taps: {{conv4_3: {arm}}}}}  # <complete>\n", encoding="utf-8")
    if diagnostics:
        _write_diagnostics(root / folder / "diagnostics.csv", a, rng, steps)
    if lost:
        return Run(arm, seed, lr, folder, "diverged", f"loss is nan at step {steps} <after a spike>")
    (root / folder / "detections.json").write_text(json.dumps(_detections(test_set, rng)), encoding="utf-8")
    metrics = {"AP": level, "AP50": 2 * level, "AP75": 0.8 * level, "APs": -1.0, "APm": 0.9 * level, "APl": 1.1 * level}
    metrics |= {"AR100": 0.5, "VOC07": 1.95 * level, "VOC": 2.02 * level}
    result: dict[str, Any] = {
        "metrics": metrics,
        "metrics_validation": {name: 0.98 * value for name, value in metrics.items()},
        "per_class": {name: {"AP": max(level + 0.35 * math.sin(3 * i), 0.0)} for i, name in enumerate(names)},
        "seed": seed,
        "parameters": 1_703_456 + 512 * a,
        "peak_memory_mib": 2100 + 140 * a,
        "seconds": 1800.7,
        "device": "cpu",
        "commit": "7aa8a70",
    }  # fmt: skip
    if "batch_norm" in arm:
        result["metrics_population"] = {name: value + 0.006 + 0.002 * seed for name, value in metrics.items()}
    return Run(arm, seed, lr, folder, "finished", "", result, seconds_to_target=700.0 + 90 * a + 11 * seed)


def _write_metrics(path: Path, level: float, rng: np.random.Generator, steps: int, *, lost: bool) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", "epoch", "lr", "loss", "images_per_second", "seconds", "evaluated_on", "AP", "AP50"], restval="")  # fmt: skip # noqa: E501
        writer.writeheader()
        for step in range(10, steps + 1, 10):
            spike = math.exp((step - 300) / 8) if lost and step > 300 else 0.0
            loss = 2.2 + 7 * math.exp(-step / 170) + 0.16 * rng.normal() - level + spike
            writer.writerow({"step": step, "loss": f"{loss:.5g}", "seconds": 1.5 * step, "images_per_second": 6.9})
            if step % 200 == 0:
                ap = level * (1 - math.exp(-step / 260)) + 0.004 * rng.normal()
                writer.writerow(
                    {"step": step, "seconds": 1.5 * step, "evaluated_on": "validation", "AP": ap, "AP50": 2 * ap}
                )
        if not lost:
            writer.writerow(
                {"step": steps, "seconds": 1.5 * steps, "evaluated_on": "test", "AP": level, "AP50": 2 * level}
            )


def _write_diagnostics(path: Path, a: int, rng: np.random.Generator, steps: int) -> None:
    rows: list[tuple[int, str, str, float]] = []
    for step in range(0, steps, 100):
        grown = 1 + step / 900
        for t, tap in enumerate(TAPS):
            length = 60 * grown * math.exp(-0.7 * t) * (1 + 0.2 * a) * math.exp(0.05 * rng.normal())
            after = 20 + step / 200 if a == 0 and t == 0 else 0.6 * length if a == 2 else length
            width = 12 / (1 + t)
            rows += [(step, "length_before", tap, length), (step, "length_after", tap, after)]
            rows += [(step, "rms_before", tap, length / width), (step, "rms_after", tap, after / width)]
            rows += [(step, "zero_positions", tap, 0.0)]
        if a == 0:
            for name, value in {
                "mean": 20 + step / 300,
                "std": step / 700,
                "min": 20 - step / 200,
                "max": 20 + step / 90,
            }.items():
                rows.append((step, f"scale_{name}", "conv4_3", value))
        rows += [
            (step, "dead_channels", layer, 0.02 * i * (1 + step / STEPS) / (1 + a)) for i, layer in enumerate(LAYERS)
        ]
        for b, block in enumerate(BLOCKS if a == 0 else BLOCKS[:-1]):
            rows.append(
                (
                    step,
                    "gradient_norm",
                    block,
                    (0.2 + b) * math.exp(-step / 900) / (1 + a) * math.exp(0.2 * rng.normal()),
                )
            )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "statistic", "name", "value"])
        writer.writerows((step, statistic, name, f"{value:.6g}") for step, statistic, name, value in rows)


def _detections(test_set: DetectionDataset, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The true boxes, a little moved, with some missed and some of another class."""
    found = []
    for place in range(len(test_set)):
        target = test_set.target(place)
        for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            if rng.random() < 0.85:
                wrong = int(rng.integers(len(test_set.category_ids)))
                category = test_set.category_ids[label - 1 if rng.random() < 0.9 else wrong]
                x, y = x1 + 4 * rng.normal(), y1 + 4 * rng.normal()
                found.append({"image_id": test_set.image_id(place), "category_id": category, "bbox": [x, y, x2 - x1, y2 - y1], "score": float(rng.uniform(0.3, 1))})  # fmt: skip # noqa: E501
    return found


def _arm_result(
    arm: str, runs: list[Run], baseline_runs: list[Run], baseline: str, rates: Sequence[float], names: Sequence[str]
) -> ArmResult:
    lr = rates[-1]
    chosen = [run for run in runs if run.lr == lr and run.status == "finished"]
    others = [run for run in baseline_runs if run.lr == lr and run.status == "finished"]
    differences: dict[str, Difference] = {}
    for metric in METRICS if arm != baseline and chosen and others else ():
        ours = {run.seed: run.result["metrics"][metric] for run in chosen}
        theirs = {run.seed: run.result["metrics"][metric] for run in others}
        found = paired_difference(ours, theirs) if metric != "APs" else None
        if found is not None:
            mean, p_holm = found.paired.mean, found.p if metric == "AP" else None
            images = (mean - 0.009, mean + 0.008) if metric == "AP" else None
            differences[metric] = Difference(found.paired, found.p, p_holm, images)
    verdict = "baseline" if arm == baseline else verdict_of(differences["AP"]) if "AP" in differences else "incomplete"
    return ArmResult(
        name=arm,
        changes={} if arm == baseline else {"norm.taps.conv4_3": arm, "norm.backbone": {"kind": arm, "groups": 32}},
        lr=lr,
        rates=[_rate(runs, rate) for rate in rates],
        runs=runs,
        metrics=_means(chosen, "metrics"),
        per_class={name: _mean(run.result["per_class"][name]["AP"] for run in chosen) for name in names if chosen},
        population=_means(chosen, "metrics_population"),
        differences=differences,
        verdict=verdict,
        sentence=f"{arm} is the baseline." if arm == baseline else f"{arm}: {verdict}, in a sentence.",
        costs=Costs(
            parameters=chosen[0].result["parameters"] if chosen else None,
            gflops=4.31,
            images_per_second=6.93 - 0.4 * len(arm) / 10 if chosen else None,
            peak_memory_mib=chosen[0].result["peak_memory_mib"] if chosen else None,
            latency_ms=31.2 + 0.3 * len(arm) if chosen else None,
            seconds_to_target=_mean(run.seconds_to_target or 0.0 for run in chosen) if chosen else None,
            num_reached=len(chosen),
        ),
        matched=Matched(
            identical=70,
            different=[],
            added=[] if arm == baseline else ["features.backbone.conv1_1.norm.weight"],
            removed=[] if arm == baseline else ["features.tap_norms.conv4_3.weight"],
            same_batches=True,
            parameter_groups=[{"group": "weights", "tensors": 35, "lr": lr, "weight_decay": 0.0005}],
            batch_norm_images=8 if "batch_norm" in arm else None,
        ),
    )  # fmt: skip


def _means(runs: Sequence[Run], part: str) -> dict[str, Mean]:
    if not runs or part not in runs[0].result:
        return {}
    return {
        metric: mean_with_interval([run.result[part][metric] for run in runs]) for metric in METRICS if metric != "APs"
    }


def _rate(runs: Sequence[Run], lr: float) -> Rate:
    first = next(run for run in runs if run.lr == lr)
    finished = first.status == "finished"
    return Rate(lr, first.result["metrics_validation"]["AP"] if finished else None, first.status)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
