"""This file is about collecting: run folders in, one record a run out."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from ssdnorm.coco_format import load_detections
from ssdnorm.compare.grid import failure_reason, read_result, state_of
from ssdnorm.compare.plan import Job
from ssdnorm.compare.results import Run
from ssdnorm.engine.evaluation import EvaluationOptions, evaluate_tables
from ssdnorm.files import whole_rows
from ssdnorm.metrics.coco import CocoResult
from ssdnorm.tables import GroundTruth


def collect_run(job: Job, root: Path, *, target_ap50: float) -> Run:
    """What lies in the folder of a run, whether it finished or not."""
    folder, status = root / job.folder, state_of(job, root)
    result: dict[str, Any] = {}
    reason = ""
    if status == "finished":
        result = read_result(folder)
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


def images_per_second(folder: Path) -> float | None:
    """Median over the readings of a run, without the first, which holds the start."""
    rows = whole_rows(folder / "metrics.csv")[1:]
    readings = [float(row["images_per_second"]) for row in rows if row["images_per_second"]]
    return median(readings) if readings else None


def coco_result(run: Run, root: Path, truth: GroundTruth) -> CocoResult:
    """COCO's metric of a finished run with the matches that the bootstrap stands on.

    Raises:
        ValueError: if the run's detections are gone.
    """
    path = root / run.folder / "detections.json"
    if not path.is_file():
        raise ValueError(f"{path}: is gone, and the interval over test images needs it; remove the run to make it anew")
    result = evaluate_tables(truth, load_detections(path, truth), EvaluationOptions(metrics=("coco",))).coco
    assert result is not None
    return result


def _seconds_to(folder: Path, target_ap50: float) -> float | None:
    """Time trained until an evaluation during training, on the images that serve for it, reached the target."""
    rows = [row for row in whole_rows(folder / "metrics.csv") if row["AP50"]]
    for row in rows:
        if row["evaluated_on"] == rows[0]["evaluated_on"] and float(row["AP50"]) >= target_ap50:
            return float(row["seconds"])
    return None
