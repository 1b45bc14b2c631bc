"""This file is about collecting: run folders in, one record a run out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from ssdnorm.compare.grid import failure_reason, state_of
from ssdnorm.compare.plan import Job
from ssdnorm.compare.results import Run
from ssdnorm.engine.evaluation import EvaluationOptions, evaluate_arrays
from ssdnorm.metrics.arrays import GroundTruthArrays
from ssdnorm.metrics.coco import CocoResult
from ssdnorm.metrics.coco_files import load_detections_as_arrays


def collect_run(job: Job, root: Path, *, target_ap50: float) -> Run:
    """What lies in the folder of a run, whether it finished or not."""
    folder, status = root / job.folder, state_of(job, root)
    result: dict[str, Any] = {}
    reason = ""
    if status == "finished":
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    elif status != "missing":
        reason = failure_reason(job, root)
    return Run(
        arm=job.arm,
        seed=job.seed,
        lr=job.lr,
        folder=job.folder,
        status=status,
        reason=reason,
        result=result,
        seconds_to_target=_seconds_to(folder, target_ap50),
    )


def read_curve(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv``; none where it is missing."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def images_per_second(folder: Path) -> float | None:
    """Median over the readings of a run, without the first, which holds the start."""
    readings = sorted(float(row["images_per_second"]) for row in read_curve(folder)[1:] if row["images_per_second"])
    return readings[len(readings) // 2] if readings else None


def coco_result(run: Run, root: Path, truth: GroundTruthArrays) -> CocoResult:
    """COCO's metric of a finished run with the matches that the bootstrap stands on."""
    _, found = load_detections_as_arrays(root / run.folder / "detections.json", truth)
    result = evaluate_arrays(truth, found, EvaluationOptions(metrics=("coco",))).coco
    assert result is not None
    return result


def _seconds_to(folder: Path, target_ap50: float) -> float | None:
    for row in read_curve(folder):
        if row["AP50"] and float(row["AP50"]) >= target_ap50:
            return float(row["seconds"])
    return None
