"""A synthetic comparison: run folders with plausible files, and the results of their analysis."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ssdnorm.coco_format import coco_dict, detection_table, ground_truth_table
from ssdnorm.compare.analysis import analyse
from ssdnorm.compare.plan import Arm, Comparison, Job, Plan, make_job
from ssdnorm.compare.results import Results
from ssdnorm.config_file import merge_config
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.shapes import ShapesDataset
from ssdnorm.engine.evaluation import evaluate_tables
from ssdnorm.files import write_rows

TAPS = ("conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")
LAYERS = ("conv1_1", "conv4_3", "conv5_3", "fc6", "fc7", "conv8_2", "conv11_2")
ARMS = ("l2_norm", "none", "batch_norm")
SHARES = {"l2_norm": 0.5, "none": 0.5, "batch_norm": 0.95}  # of the objects that an arm finds
STEPS = 1000
DIFF = "+a <line>\n"
REASON = "loss is nan at step 340 <after a spike>"


def shapes(num_images: int = 30) -> ShapesDataset:
    return ShapesDataset(num_images, seed=7, image_size=(150, 200))


def make_plan(
    arms: Sequence[str] = ARMS,
    seeds: Sequence[int] = (0, 1, 2),
    rates: Sequence[float] = (0.001, 0.005),
    **keys: Any,
) -> Plan:
    """A plan whose first arm is the baseline; names are not checked, and all arms have the base's config."""
    data = {name: {"format": "shapes", "num_images": 9, "seed": seed} for seed, name in enumerate(("train", "test"))}
    base = merge_config(("test", {"data": data, "training": {"max_steps": STEPS, "batch_size": 8}}))
    changes = {arm: {} if arm == arms[0] else {"norm.backbone": {"kind": arm, "groups": 32}} for arm in arms}
    file = Comparison.model_construct(
        title="Does conv4_3 need its L2 norm?",
        baseline=arms[0],
        seeds=list(seeds),
        metric="AP",
        target_ap50=0.5,
        **keys,
    )
    content = {"title": file.title, "seeds": file.seeds, **keys, "arms": changes, "base": base.model_dump()}
    return Plan(file, base, tuple(Arm(arm, changes[arm], base, tuple(rates)) for arm in arms), content)


def make_runs(
    plan: Plan,
    root: Path,
    test_set: DetectionDataset,
    *,
    diverged: Sequence[tuple[str, int]],
    diagnostics: bool,
    rates: Sequence[float] = (),
) -> None:
    """Write the run folders that a comparison leaves, or those that try further rates."""
    truth = coco_dict(test_set.ground_truth)
    names = [arm.name for arm in plan.arms]
    jobs = plan.jobs(plan.given_rates, {arm.name: arm.lrs[-1] for arm in plan.arms})
    if rates:
        jobs = [make_job(arm, seed, lr) for arm in plan.arms for seed in plan.file.choosing_seeds for lr in rates]
    for job in jobs:
        place, best_lr = names.index(job.arm), plan.arms[0].lrs[-1]
        lost = (job.arm, job.seed) in diverged and job.lr == best_lr
        folder = root / job.folder
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"norm: {{backbone: {job.arm}}}  # <complete>\n", encoding="utf-8")
        start = {"weights": {"conv": "1", f"norm{place}": "2"}, "batches": ["x"], "batch_norm_images": None}
        start["parameter_groups"] = [{"group": "weights", "tensors": 35, "lr": job.lr, "weight_decay": 0.0005}]
        (folder / "start.json").write_text(json.dumps(start))
        _write_metrics(folder / "metrics.csv", job, lost=lost)
        if diagnostics:
            _write_diagnostics(folder / "diagnostics.csv", place, job.seed)
        if lost:
            (folder / "failure.json").write_text(json.dumps({"status": "diverged", "reason": REASON}))
        else:
            _write_result(folder, job, truth, place, chosen=job.lr == best_lr)


def analyse_made(plan: Plan, root: Path, test_set: DetectionDataset) -> Results:
    """The analysis without models: latencies and the state of the checkout are made up."""
    with (
        mock.patch("ssdnorm.compare.origin.git_commit", return_value="7aa8a70-dirty"),
        mock.patch("ssdnorm.compare.origin.git_diff", return_value=DIFF),
        mock.patch("ssdnorm.compare.analysis.measure_latencies", lambda paths, image, **_: dict.fromkeys(paths, 7.0)),
    ):
        return analyse(plan, root, {"test": test_set}, num_resamples=50)


def make_comparison(
    root: Path,
    *,
    diverged: Sequence[tuple[str, int]] = (),
    diagnostics: bool = False,
    test_set: DetectionDataset | None = None,
    **plan: Any,
) -> Results:
    """Results, and run folders below ``root``. Rates are tried with a seed of their own; the last one is chosen.

    Args:
        diverged: (arm, seed) of runs that ended early, at the chosen rate.
        plan: arguments of :func:`make_plan`.
    """
    made, images = make_plan(**plan), test_set or shapes()
    make_runs(made, root, images, diverged=diverged, diagnostics=diagnostics)
    return analyse_made(made, root, images)


def _write_result(folder: Path, job: Job, truth: Mapping[str, Any], place: int, *, chosen: bool) -> None:
    """Detections at random, the same for arms with the same share and seed, and their evaluation."""
    share = SHARES.get(job.arm, 0.6)
    rng = np.random.default_rng([job.seed, int(100 * share)])
    found = []
    for row in truth["annotations"]:
        if rng.random() < share:
            x, y, w, h = row["bbox"]
            box = [x + rng.normal(), y + rng.normal(), w, h]
            category = row["category_id"] if rng.random() < 0.95 else row["category_id"] % 5 + 1
            score = float(rng.random())
            found.append({"image_id": row["image_id"], "category_id": category, "bbox": box, "score": score})
    table = ground_truth_table(truth)
    result = evaluate_tables(table, detection_table(found, table))
    content = {
        "metrics": result.metrics,
        "metrics_validation": {name: value / (2 if chosen else 4) for name, value in result.metrics.items()},
        "per_class": result.per_class,
        "parameters": 1_703_456 + 512 * place,
        "peak_memory_mib": 2100 + job.seed,
        "commit": "7aa8a70",
        "versions": {"torch": "2.14.1" if job.seed else "2.14.0", "numpy": "2.4"},
        "device": "cpu",
        "threads": 1,
        "world_size": 1,
        "seconds": 1800.7,
    }
    if "batch_norm" in job.arm:
        content["metrics_population"] = {name: value + 0.01 for name, value in result.metrics.items()}
    (folder / "detections.json").write_text(json.dumps(found))
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "model.safetensors").touch()


def _write_metrics(path: Path, job: Job, *, lost: bool) -> None:
    """A falling loss, a median of 8 images per second without the first reading, evaluations every 200 steps."""
    rng, steps, top = np.random.default_rng(job.seed), 340 if lost else STEPS, SHARES.get(job.arm, 0.6) > 0.9
    rows: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        clock = {"step": step, "seconds": step / 100 + job.seed}
        loss = 2.2 + 7 * math.exp(-step / 170) + 0.16 * rng.normal() + math.exp(min(step, steps * lost) / 8 - 38)
        rows.append({**clock, "loss": f"{loss:.5g}", "images_per_second": 8 + (step - steps / 2 - 10) / 1e4})
        if step % 200 == 0:
            ap50 = min(step / 1000, 0.6 if top else 0.4)
            rows.append({**clock, "evaluated_on": "validation", "AP": ap50 / 2, "AP50": ap50})
    if not lost:
        rows.append({"step": steps, "seconds": 99, "evaluated_on": "test", "AP": 0.5, "AP50": 0.9})
    write_rows(path, ("step", "loss", "images_per_second", "seconds", "evaluated_on", "AP", "AP50"), rows)


def _write_diagnostics(path: Path, place: int, seed: int) -> None:
    rows: list[tuple[int, str, str, float]] = []
    for step in range(0, STEPS, 100):
        for t, tap in enumerate(TAPS):
            before = (10 + step + seed) / (1 + t)
            after = 20.0 if place == 0 and t == 0 else before
            rows += [(step, "length_before", tap, before), (step, "length_after", tap, after)]
            rows += [(step, "rms_before", tap, before / 12), (step, "rms_after", tap, after / 12)]
        if place == 0:
            scales = {"mean": 20 + step / 300, "std": step / 700, "min": 20 - step / 200, "max": 20 + step / 90}
            rows += [(step, f"scale_{name}", "conv4_3", value) for name, value in scales.items()]
        rows += [(step, "dead_channels", layer, 0.02 * i / (1 + place)) for i, layer in enumerate(LAYERS)]
        rows += [(step, "gradient_norm", block, 0.2 + b) for b, block in enumerate(("conv1", "fc6", "head"))]
    names = ("step", "statistic", "name", "value")
    write_rows(path, names, [dict(zip(names, row, strict=True)) for row in rows])
