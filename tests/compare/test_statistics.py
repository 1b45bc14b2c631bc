"""Means, scatter and failures, against scipy, loops and cases that collapse to something known."""

import math

import numpy as np
import pytest
from scipy import stats

from ssdnorm.compare.statistics import failure_p, mean_with_interval, pooled_std


def test_the_interval_is_scipys():
    values = [0.31, 0.35, 0.30, 0.38]
    mean = mean_with_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert mean.mean == pytest.approx(np.mean(values))
    assert (mean.low, mean.high) == pytest.approx((low, high))


def test_one_value_has_no_interval():
    mean = mean_with_interval([0.5])
    assert (mean.mean, mean.std, mean.low, mean.high) == (0.5, None, None, None)
    with pytest.raises(ValueError, match="got no values"):
        mean_with_interval([])


@pytest.mark.parametrize(("failed", "runs", "theirs", "of"), [(3, 3, 0, 3), (2, 5, 0, 5), (1, 4, 3, 5)])
def test_the_failure_test_is_the_largest_p_over_the_unknown_share_of_a_loop_over_all_tables(failed, runs, theirs, of):
    def wald(a: int, b: int) -> float:
        pooled = (a + b) / (runs + of)
        error = math.sqrt(pooled * (1 - pooled) * (1 / runs + 1 / of))
        return abs(a / runs - b / of) / error if error else 0.0

    tables = [(a, b) for a in range(runs + 1) for b in range(of + 1)]
    extreme = [(a, b) for a, b in tables if wald(a, b) >= wald(failed, theirs) - 1e-12]
    shares = np.linspace(0.001, 0.999, 999)
    p = sum(stats.binom.pmf(a, runs, shares) * stats.binom.pmf(b, of, shares) for a, b in extreme).max()
    assert failure_p(failed, runs, theirs, of) == pytest.approx(p, abs=2e-4)


def test_equal_shares_of_failures_are_no_difference():
    assert failure_p(0, 3, 0, 5) == failure_p(3, 3, 2, 2) == failure_p(1, 2, 2, 4) == 1.0


def test_the_pooled_deviation_of_equal_groups_is_theirs():
    assert pooled_std([[1.0, 2.0, 4.0], [11.0, 12.0, 14.0]]) == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert pooled_std([[1.0], [2.0]]) is None
    assert pooled_std([[0.0, 2.0], [0.0, 0.0, 0.0]]) == pytest.approx(math.sqrt(2.0 / 3.0))  # weighted by freedom
