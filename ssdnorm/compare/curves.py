"""Read what a run logged while training: losses, evaluations and diagnostics as curves over steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from ssdnorm.compare.run_folders import REPEAT
from ssdnorm.files import refuse_damage, whole_rows

Curve = np.ndarray  # (N, 2) float64: rising steps, and finite values
EMPTY: Curve = np.empty((0, 2))
LOSS = ("loss", "")
Log = dict[tuple[str, str], Curve]  # LOSS, ("evaluation", images) or (statistic, tap, layer or block) → curve


def read_log(folder: Path, metric: str) -> Log:
    """The curves of a run's ``metrics.csv`` and ``diagnostics.csv``, without those that have no value."""
    measured: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)  # the last of equal steps counts

    def add(key: tuple[str, str], row: dict[str, str], column: str) -> None:
        if row.get(column):
            measured[key][int(row["step"])] = float(row[column])

    for path in (folder / "metrics.csv", folder / "diagnostics.csv"):
        with refuse_damage(path, REPEAT):
            for row in whole_rows(path):
                if path.stem == "diagnostics":
                    add((row["statistic"], row["name"]), row, "value")
                else:
                    add(LOSS, row, "loss")
                    add(("evaluation", row.get("evaluated_on") or ""), row, metric)
    curves = {key: np.array(sorted(points.items()), float) for key, points in measured.items()}
    finite = {key: curve[np.isfinite(curve[:, 1])] for key, curve in curves.items()}
    return {key: curve for key, curve in finite.items() if len(curve)}


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean at the steps that all curves have."""
    steps = reduce(np.intersect1d, [curve[:, 0] for curve in curves])
    return np.mean([curve[np.isin(curve[:, 0], steps)] for curve in curves], axis=0)


def mean_log(logs: Sequence[Log]) -> Log:
    """The mean of each curve over the runs that have it."""
    keys = dict.fromkeys(key for log in logs for key in log)
    return {key: mean_curve([log[key] for log in logs if key in log]) for key in keys}


def thinned(curve: Curve, most: int = 150) -> Curve:
    """At most ``most`` points, each the mean of as many neighbours."""
    if len(curve) <= most:
        return curve
    starts = np.unique(np.linspace(0, len(curve), most, endpoint=False).astype(int))
    return np.add.reduceat(curve, starts) / np.diff([*starts, len(curve)])[:, None]
