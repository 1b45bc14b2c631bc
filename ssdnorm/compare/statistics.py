"""Statistics over seeds: means and paired differences with intervals, corrected p-values, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ssdnorm.compare.results import Difference, Mean, Verdict

LEVEL = 0.95  # of intervals
ALPHA = 0.05  # significance level of corrected p-values
_ROUNDING = 1e-12  # metrics in [0, 1] that differ by less are equal


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
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(numbers) - 1)) * std / math.sqrt(len(numbers))
    return Mean(numbers, mean, std, mean - half, mean + half)


def paired_difference(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """An arm minus the baseline over their common seeds; None if there are none.

    Args:
        ours, baseline: seed → number.

    Sources:
        Student's paired t-test, two-sided, as in ``scipy.stats.ttest_rel``.
    """
    seeds = [seed for seed in baseline if seed in ours]
    if not seeds:
        return None
    paired = mean_with_interval([ours[seed] - baseline[seed] for seed in seeds])
    if paired.std is None:
        return Difference(paired, None)
    if paired.std < _ROUNDING:  # the t-test divides by it
        return Difference(paired, 1.0 if abs(paired.mean) < _ROUNDING else 0.0)
    return Difference(paired, float(stats.ttest_1samp(paired.values, 0.0).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests: the k-th smallest of m times m − k + 1, never falling, at most 1.

    Rejecting where the corrected value is below α keeps the probability of any false rejection below α.

    Sources:
        S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def verdict_of(difference: Difference) -> Verdict:
    """The verdict on an arm from its difference to the baseline.

    Better or worse requires that the interval over seeds and the bootstrap interval over test images exclude zero on
    the same side, and that p after Holm's correction is below 5 %. One seed allows no verdict.
    """
    paired = difference.paired
    if paired.low is None or paired.high is None:
        return "one seed"
    low, high = difference.images or (paired.low, paired.high)
    sure = difference.p_holm is not None and difference.p_holm < ALPHA
    if sure and paired.low > 0 and low > 0:
        return "better"
    if sure and paired.high < 0 and high < 0:
        return "worse"
    return "no evidence of a difference"


def pooled_std(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups, pooled over those with two values or more; None if there are none.

    Example:
        >>> pooled_std([[1.0, 3.0], [5.0, 5.0], [9.0]])
        1.0
    """
    squares = sum(float(np.var(group) * len(group)) for group in groups if len(group) > 1)
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    return math.sqrt(squares / freedom) if freedom else None
