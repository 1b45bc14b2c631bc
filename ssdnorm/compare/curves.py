"""Read what a run logged while training: losses, evaluations and diagnostics as curves over steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssdnorm.compare.results import Run, Status
from ssdnorm.compare.run_folders import REPEAT
from ssdnorm.files import refuse_damage, whole_rows


@dataclass(frozen=True)
class Curve:
    """Values by optimizer step.

    Shape:
        steps ``(N,)`` int64, rising; values ``(N,)`` float64, finite.
    """

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    def thinned(self, most: int = 150) -> Curve:
        """At most ``most`` points, each the mean of as many neighbours."""
        if len(self) <= most:
            return self
        starts = np.unique(np.linspace(0, len(self), most, endpoint=False).astype(int))
        counts = np.diff([*starts, len(self)])
        return Curve(np.add.reduceat(self.steps, starts) / counts, np.add.reduceat(self.values, starts) / counts)


EMPTY = Curve(np.empty(0, np.int64), np.empty(0))
Diagnostics = dict[str, dict[str, Curve]]  # statistic → tap, layer or block → curve


@dataclass(frozen=True)
class RunLog:
    """What one run logged; a curve is empty, or missing, if its file is.

    Attributes:
        evaluations: images evaluated on ("test", "validation") → the metric's curve.
    """

    seed: int
    status: Status
    loss: Curve
    evaluations: dict[str, Curve]
    diagnostics: Diagnostics


def read_run_log(run: Run, root: Path, metric: str) -> RunLog:
    """The curves of a run's ``metrics.csv`` and ``diagnostics.csv``."""
    path = root / run.folder / "metrics.csv"
    rows = whole_rows(path)
    by_images: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row.get(metric):
            by_images.setdefault(row.get("evaluated_on") or "", []).append(row)
    with refuse_damage(path, REPEAT):
        loss = _curve(rows, "loss")
        evaluations = {images: _curve(evaluated, metric) for images, evaluated in sorted(by_images.items())}
    return RunLog(run.seed, run.status, loss, evaluations, _read_diagnostics(root / run.folder / "diagnostics.csv"))


def _read_diagnostics(path: Path) -> Diagnostics:
    measured: dict[tuple[str, str], list[dict[str, str]]] = {}
    diagnostics: Diagnostics = {}
    with refuse_damage(path, REPEAT):
        for row in whole_rows(path):
            measured.setdefault((row["statistic"], row["name"]), []).append(row)
        for (statistic, name), rows in measured.items():
            diagnostics.setdefault(statistic, {})[name] = _curve(rows, "value")
    return diagnostics


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean at the steps that all curves have."""
    filled = [curve for curve in curves if len(curve)]
    if not filled:
        return EMPTY
    steps = filled[0].steps
    for curve in filled[1:]:
        steps = np.intersect1d(steps, curve.steps)
    values = [curve.values[np.searchsorted(curve.steps, steps)] for curve in filled]
    return Curve(steps, np.mean(values, axis=0))


def mean_diagnostics(logs: Sequence[Diagnostics]) -> Diagnostics:
    """The mean curves over the runs that have them."""
    means: Diagnostics = {}
    for statistic, name in dict.fromkeys((kind, name) for log in logs for kind in log for name in log[kind]):
        curves = [log.get(statistic, {}).get(name, EMPTY) for log in logs]
        means.setdefault(statistic, {})[name] = mean_curve(curves)
    return means


def _curve(rows: Sequence[dict[str, str]], column: str) -> Curve:
    pairs = {int(row["step"]): float(row[column]) for row in rows if row.get(column)}  # the last of equal steps
    steps = np.array(sorted(step for step, value in pairs.items() if np.isfinite(value)), np.int64)
    return Curve(steps, np.array([pairs[int(step)] for step in steps], np.float64))
