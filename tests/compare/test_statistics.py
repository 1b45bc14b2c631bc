"""Means, differences and verdicts, against scipy, tables and cases that collapse to something known."""

import math

import numpy as np
import pytest
from scipy import stats

from ssdnorm.compare.results import Difference
from ssdnorm.compare.statistics import holm, mean_with_interval, paired_difference, pooled_std, verdict_of


def test_the_interval_is_scipys():
    values = [0.31, 0.35, 0.30, 0.38]
    mean = mean_with_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert mean.mean == pytest.approx(np.mean(values))
    assert (mean.low, mean.high) == pytest.approx((low, high))


def test_two_values_have_the_interval_of_one_degree_of_freedom_and_one_value_has_none():
    assert mean_with_interval([1.0, 3.0]).high - 2.0 == pytest.approx(12.706, abs=1e-3)  # t(0.975, 1), from any table
    mean = mean_with_interval([0.5])
    assert (mean.mean, mean.std, mean.low, mean.high) == (0.5, None, None, None)
    with pytest.raises(ValueError, match="got no values"):
        mean_with_interval([])


def test_the_difference_is_paired_by_seed_whatever_the_order():
    ours, baseline = {2: 0.40, 0: 0.31, 1: 0.33}, {0: 0.30, 1: 0.31, 2: 0.37}
    difference = paired_difference(ours, baseline)
    assert difference.paired.values == pytest.approx([0.01, 0.02, 0.03])
    expected = stats.ttest_rel([0.31, 0.33, 0.40], [0.30, 0.31, 0.37])
    assert difference.p == pytest.approx(expected.pvalue)
    # seeds that one side lacks are left out
    assert paired_difference({0: 0.5, 3: 0.9}, {0: 0.4, 1: 0.2}).paired.values == pytest.approx([0.1])
    assert paired_difference({3: 0.9}, {0: 0.4}) is None


def test_equal_arms_have_no_difference_and_p_1():
    difference = paired_difference({0: 0.3, 1: 0.4}, {0: 0.3, 1: 0.4})
    assert (difference.paired.low, difference.paired.high, difference.p) == (0.0, 0.0, 1.0)
    assert paired_difference({0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.25}).p == 0.0


def test_holm_is_the_sequential_test():
    p_values = [0.001, 0.04, 0.03, 0.2]
    corrected = holm(p_values)
    rejected, alpha = set(), 0.05
    for rank, place in enumerate(np.argsort(p_values)):  # the procedure as Holm states it
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        rejected.add(int(place))
    assert {i for i, p in enumerate(corrected) if p <= alpha} == rejected == {0}
    assert corrected == pytest.approx([0.004, 0.09, 0.09, 0.2])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("values", "p_holm", "images", "verdict"),
    [
        ([0.10, 0.11, 0.12], 0.01, (0.05, 0.15), "better"),
        ([-0.10, -0.11, -0.12], 0.01, (-0.15, -0.05), "worse"),
        ([0.10, 0.11, 0.12], 0.06, (0.05, 0.15), "no evidence of a difference"),  # lost by the correction
        ([0.10, 0.11, 0.12], 0.01, (-0.01, 0.15), "no evidence of a difference"),  # lost on other images
        ([-0.10, 0.11, 0.12], 0.01, (0.05, 0.15), "no evidence of a difference"),  # lost on other seeds
        ([0.10, 0.11, 0.12], 0.01, (-0.15, -0.05), "no evidence of a difference"),  # seeds and images disagree
        ([0.10, 0.11, 0.12], 0.01, None, "better"),
        ([0.10], None, (0.05, 0.15), "one seed"),
        ([0.0, 0.0], 1.0, (0.0, 0.0), "no evidence of a difference"),
    ],
)
def test_a_verdict_takes_seeds_and_images_and_the_correction(values, p_holm, images, verdict):
    assert verdict_of(Difference(mean_with_interval(values), 0.0, p_holm, images)) == verdict


def test_differences_that_are_equal_but_for_rounding_have_no_scatter(recwarn):
    difference = paired_difference({0: 0.3, 1: 0.4, 2: 0.5}, {0: 0.2, 1: 0.3, 2: 0.4})
    assert difference.p == 0.0
    assert paired_difference({0: 0.3, 1: 0.1 + 0.2}, {0: 0.1 + 0.2, 1: 0.3}).p == 1.0
    assert not recwarn.list, "scipy warns of lost precision"


def test_the_pooled_deviation_of_equal_groups_is_theirs():
    assert pooled_std([[1.0, 2.0, 4.0], [11.0, 12.0, 14.0]]) == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert pooled_std([[1.0], [2.0]]) is None
    assert pooled_std([[0.0, 2.0], [0.0, 0.0, 0.0]]) == pytest.approx(math.sqrt(2.0 / 3.0))  # weighted by freedom


def test_the_interval_holds_the_mean_of_the_population_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        mean = mean_with_interval(rng.normal(0.3, 0.01, 3).tolist())
        hits += mean.low <= 0.3 <= mean.high
    assert 0.935 < hits / 2000 < 0.965
