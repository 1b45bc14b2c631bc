"""Statistics over seeds: means with intervals, scatter, and how often runs fail."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from ssdnorm.compare.results import Mean

ROUNDING = 1e-12  # metrics in [0, 1] that differ by less are equal


def mean_with_interval(values: Sequence[float]) -> Mean:
    """Mean of one number per seed with Student's 95 % interval.

    Raises:
        ValueError: for no values.

    Example:
        >>> mean = mean_with_interval([0.4, 0.5, 0.6])
        >>> round(mean.mean, 3), round(mean.low, 3), round(mean.high, 3)
        (0.5, 0.252, 0.748)
    """
    if not values:
        raise ValueError("mean_with_interval: got no values; expected one at least")
    numbers = [float(value) for value in values]
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return Mean(numbers, mean, None, None, None)
    std = float(np.std(numbers, ddof=1))
    half = float(stats.t.ppf(0.975, len(numbers) - 1)) * std / math.sqrt(len(numbers))
    return Mean(numbers, mean, std, mean - half, mean + half)


def pooled_std(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups, pooled over those with two values or more; None if there are none.

    Example:
        >>> pooled_std([[1.0, 3.0], [5.0, 5.0], [9.0]])
        1.0
    """
    squares = sum(float(np.var(group) * len(group)) for group in groups if len(group) > 1)
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    return math.sqrt(squares / freedom) if freedom else None


def failure_p(failed: int, runs: int, baseline_failed: int, baseline_runs: int) -> float:
    """Barnard's exact two-sided test of two shares of failed runs: the unconditional one, for few runs the sharper.

    Sources:
        G. Barnard, Significance tests for 2×2 tables, Biometrika 34, 1947; ``scipy.stats.barnard_exact``.

    Example:
        >>> round(failure_p(3, 3, 0, 3), 3), failure_p(1, 3, 1, 3)
        (0.031, 1.0)
    """
    if failed * baseline_runs == baseline_failed * runs:
        return 1.0
    table = [[failed, baseline_failed], [runs - failed, baseline_runs - baseline_failed]]
    return float(stats.barnard_exact(table).pvalue)
