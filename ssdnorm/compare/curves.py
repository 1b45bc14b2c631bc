"""Read what a run logged while training: losses, evaluations and diagnostics as curves over steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssdnorm.files import whole_rows

_MOST_POINTS = 150  # of a curve in a figure; more cannot be seen


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

    def thinned(self, most: int = _MOST_POINTS) -> Curve:
        """At most ``most`` points, each the mean of as many neighbours."""
        if len(self) <= most:
            return self
        starts = np.unique(np.linspace(0, len(self), most, endpoint=False).astype(int))
        counts = np.diff([*starts, len(self)])
        steps = np.add.reduceat(self.steps, starts) / counts
        return Curve(steps, np.add.reduceat(self.values, starts) / counts)


EMPTY = Curve(np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True)
class RunLog:
    """The curves of one run.

    Attributes:
        evaluations: images evaluated on ("test", "validation") → the metric's curve.
        diagnostics: statistic → tap, layer or block → curve.
    """

    loss: Curve
    evaluations: dict[str, Curve] = field(default_factory=dict)
    diagnostics: dict[str, dict[str, Curve]] = field(default_factory=dict)


def read_run_log(folder: Path, metric: str) -> RunLog:
    """The curves of a run's ``metrics.csv`` and ``diagnostics.csv``; empty for missing files."""
    rows = whole_rows(folder / "metrics.csv")
    names = sorted({row.get("evaluated_on") or "" for row in rows if row.get(metric)})
    return RunLog(
        loss=_curve(rows, "loss"),
        evaluations={
            name: _curve([row for row in rows if (row.get("evaluated_on") or "") == name], metric) for name in names
        },
        diagnostics=read_diagnostics(folder),
    )


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


def read_diagnostics(folder: Path) -> dict[str, dict[str, Curve]]:
    """Statistic → tap, layer or block → curve, from a run's ``diagnostics.csv``; empty if there is none."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in whole_rows(folder / "diagnostics.csv"):
        found.setdefault(row["statistic"], {}).setdefault(row["name"], []).append(row)
    return {
        statistic: {name: _curve(rows, "value") for name, rows in names.items()} for statistic, names in found.items()
    }


def _curve(rows: Sequence[dict[str, str]], column: str) -> Curve:
    pairs = {int(row["step"]): float(row[column]) for row in rows if row.get(column)}  # the last of equal steps
    steps = np.array(sorted(step for step, value in pairs.items() if np.isfinite(value)), np.int64)
    return Curve(steps, np.array([pairs[int(step)] for step in steps], np.float64))
