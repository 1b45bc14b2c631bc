"""Read run folders: how a run started and ended, its result, its detections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from ssdnorm.coco_format import load_detections
from ssdnorm.compare.plan import Job
from ssdnorm.compare.results import Matched, Run, Status
from ssdnorm.files import FAILURE_FILE, START_FILE, refuse_damage, whole_rows
from ssdnorm.metrics.coco import CocoResult, evaluate_coco
from ssdnorm.tables import GroundTruth
from ssdnorm.validation import validate

REPEAT = "delete the run folder to repeat the run"

_Content = TypeVar("_Content", bound="_FileContent")


class _FileContent(BaseModel):
    """What the reports need of a run's file; it may hold more."""

    model_config = ConfigDict(extra="allow")


class _Result(_FileContent):
    metrics: dict[str, float]
    metrics_validation: dict[str, float] = {}
    metrics_population: dict[str, float] = {}
    per_class: dict[str, dict[str, float]]
    seconds: float
    parameters: int
    peak_memory_mib: int
    device: str
    threads: int
    world_size: int
    commit: str | None
    versions: dict[str, str]


class _Start(_FileContent):
    weights: dict[str, str]
    batches: list[str]
    parameter_groups: list[dict[str, Any]]
    batch_norm_images: int | None


class _Failure(_FileContent):
    status: Literal["diverged", "failed"]
    reason: str


class _Paired(_FileContent):
    values: list[float]


class _Difference(_FileContent):
    paired: _Paired
    images_std: float | None = None


class _Arm(_FileContent):
    verdict: str
    differences: dict[str, _Difference] = {}


class _Provenance(_FileContent):
    num_finished: int
    training_images: int | None = None  # reports without it have numbers of steps and images for all arms
    steps: int | list[int] = 0
    batch_size: int | list[int] = 0
    seconds: float


class _Report(_FileContent):
    seeds: list[int]
    arms: list[_Arm]
    config: dict[str, Any]
    provenance: _Provenance


def state_of(job: Job, root: Path) -> Status:
    """How the run ended, from the files in its folder."""
    folder = root / job.folder
    if (folder / "result.json").exists():
        return "finished"
    if (folder / FAILURE_FILE).exists():
        return read_failure(folder).status
    return "missing"


def read_run(job: Job, root: Path, target_ap50: float) -> Run:
    """Everything that a run left, finished or not."""
    folder, status = root / job.folder, state_of(job, root)
    return Run(
        arm=job.arm,
        seed=job.seed,
        lr=job.lr,
        folder=job.folder,
        status=status,
        reason=read_failure(folder).reason if status in ("diverged", "failed") else "",
        result=_read(_Result, folder / "result.json").model_dump(exclude_unset=True) if status == "finished" else {},
        seconds_to_target=_seconds_to(folder, target_ap50),
    )


def first_with(name: str, runs: Iterable[Run], root: Path) -> Run | None:
    """The first of the runs whose folder holds a file."""
    return next((run for run in runs if (root / run.folder / name).is_file()), None)


def images_per_second(folder: Path) -> float | None:
    """Training speed: median over the readings of a run without the first, which includes start-up."""
    path = folder / "metrics.csv"
    with refuse_damage(path, REPEAT):
        rows = whole_rows(path)[1:]
        readings = [float(row["images_per_second"]) for row in rows if row["images_per_second"]]
    return median(readings) if readings else None


def compare_starts(runs: Sequence[Run], baseline: Sequence[Run], root: Path) -> Matched | None:
    """What an arm and the baseline start from, with the first seed of which both recorded it; None if there is none."""
    folders = {run.seed: root / run.folder for run in runs if (root / run.folder / START_FILE).is_file()}
    run = first_with(START_FILE, [run for run in baseline if run.seed in folders], root)
    if run is None:
        return None
    ours, others = (_read(_Start, folder / START_FILE) for folder in (folders[run.seed], root / run.folder))
    weights, theirs = ours.weights, others.weights
    different = [name for name in weights if name in theirs and weights[name] != theirs[name]]
    added = [name for name in weights if name not in theirs]
    return Matched(
        identical=len(weights) - len(different) - len(added),
        different=different,
        added=added,
        removed=[name for name in theirs if name not in weights],
        same_batches=ours.batches == others.batches,
        parameter_groups=ours.parameter_groups,
        batch_norm_images=ours.batch_norm_images,
    )


def coco_result(run: Run, root: Path, truth: GroundTruth) -> CocoResult:
    """COCO's metric of a finished run with the matches that the bootstrap resamples."""
    path = root / run.folder / "detections.json"
    if not path.is_file():
        raise ValueError(
            f"{path}: missing; the interval over test images needs it. Delete the run folder to repeat the run"
        )
    return evaluate_coco(truth, load_detections(path, truth))


def read_failure(folder: Path) -> _Failure:
    """Why a run has no result: ``status`` and ``reason``."""
    return _read(_Failure, folder / FAILURE_FILE)


def read_report(path: Path) -> dict[str, Any]:
    """The ``results.json`` of an earlier report; ``ValueError`` names the file if it is none."""
    return _read(_Report, path, remedy="no report of this library").model_dump(exclude_unset=True)


def _read(kind: type[_Content], path: Path, *, remedy: str = REPEAT) -> _Content:
    text = path.read_text(encoding="utf-8", errors="replace")
    return validate(kind, text, lambda _: f"{path}: damaged; {remedy}")


def _seconds_to(folder: Path, target_ap50: float) -> float | None:
    """Training time until an evaluation during training reached the target, on the images evaluated first."""
    path = folder / "metrics.csv"
    with refuse_damage(path, REPEAT):
        rows = [row for row in whole_rows(path) if row["AP50"]]
        for row in rows:
            if row["evaluated_on"] == rows[0]["evaluated_on"] and float(row["AP50"]) >= target_ap50:
                return float(row["seconds"])
    return None
