"""Rules of many comparisons: closed forms, special cases, and what verdicts follow from intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssdnorm.compare.rules import (
    RULES,
    Estimate,
    critical_value,
    guarded_t,
    paired_t_holm,
    standard_error,
)

NAMES = sorted(RULES)


def estimate_of(values, images_std=0.0):
    return Estimate(float(np.mean(values)), len(values), float(np.std(values, ddof=1)), images_std)


def test_one_comparison_under_holm_is_scipys_paired_t_test():
    ours, baseline = np.array([0.41, 0.45, 0.40, 0.47]), np.array([0.38, 0.44, 0.41, 0.40])
    (decision,) = paired_t_holm([estimate_of(ours - baseline)])
    expected = stats.ttest_rel(ours, baseline)
    interval = expected.confidence_interval(0.95)
    assert decision.p == pytest.approx(expected.pvalue)
    assert (decision.low, decision.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_the_guard_replaces_a_small_deviation_by_the_pooled_one_at_its_scale_and_keeps_a_large_one():
    estimates = Estimate(1.0, 5, 0.1), Estimate(1.0, 5, 2.0), Estimate(1.0, 5, 0.3, scale=2.0)
    pooled = math.sqrt((0.1**2 + 2.0**2 + 0.3**2 / 2) / 3)
    for decision, std in zip(guarded_t(estimates), (pooled, 2.0, math.sqrt(2) * pooled), strict=True):
        assert decision.high - decision.low == pytest.approx(2 * critical_value(5, 3) * std / math.sqrt(5))


def test_pooling_weighs_arms_by_their_degrees_of_freedom():
    many, few = Estimate(0.0, 9, 1.0), Estimate(0.0, 3, 0.1)
    _, second = guarded_t([many, few])
    pooled = (8 * 1.0 + 2 * 0.1**2) / 10
    assert second.high == pytest.approx(critical_value(3, 2) * math.sqrt(pooled / 3))


def test_the_standard_error_adds_seeds_and_images_and_few_seeds_count_as_more_of_it_in_the_degrees_of_freedom():
    error, freedom = standard_error(Estimate(0.0, 4, 6.0, images_std=4.0, num_images=51))
    assert error == pytest.approx(5.0)  # 36 / 4 + 16
    assert freedom == pytest.approx((21 + 16) ** 2 / (21**2 / 3 + 16**2 / 50))  # 9 · 7 / 3 = 21


@pytest.mark.parametrize("name", NAMES)
def test_a_scatter_over_images_alone_gives_nearly_the_normal_interval(name):
    (decision,) = RULES[name]([Estimate(0.0, 3, 1e-9, images_std=1.0, num_images=10_000)])
    assert 1.9 < decision.high < 2.4  # 1.96 but for the guard


@pytest.mark.parametrize("name", NAMES)
def test_two_identical_arms_are_equivalent_beside_noisy_ones(name):
    same, other = RULES[name]([Estimate(0.0, 3, 0.0), Estimate(0.05, 3, 0.2)], margin=0.01)
    assert (same.low, same.high, same.p, same.verdict) == (0.0, 0.0, 1.0, "equivalent")
    assert other.verdict == "undecided"


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_follows_from_interval_and_margin(name):
    cases = {(9.0, 1.0): "better", (-9.0, 1.0): "worse", (0.1, 1.0): "equivalent"}
    cases |= {(0.1, None): "undecided", (0.3, 0.6): "undecided"}
    for (value, margin), verdict in cases.items():
        assert RULES[name]([Estimate(value, 8, 0.4)], margin=margin)[0].verdict == verdict, (value, margin)


@given(
    value=st.floats(-5, 5),
    std=st.floats(0.01, 3),
    num_seeds=st.integers(2, 12),
    others=st.lists(st.floats(0.01, 3), max_size=4),
)
def test_p_is_below_alpha_exactly_where_the_guarded_interval_excludes_zero(value, std, num_seeds, others):
    estimates = [Estimate(value, num_seeds, std), *(Estimate(0.0, num_seeds, other) for other in others)]
    decision = guarded_t(estimates)[0]
    if abs(decision.p - 0.05) > 1e-9:
        assert (decision.p < 0.05) == (decision.low > 0 or decision.high < 0)
    assert decision.smallest_margin == pytest.approx(max(abs(decision.low), abs(decision.high)))


def test_more_seeds_and_fewer_arms_lower_the_critical_value():
    assert critical_value(8, 4) < critical_value(5, 4) < critical_value(3, 4)
    assert critical_value(5, 1) <= critical_value(5, 4) < critical_value(5, 14)


def test_a_stricter_level_widens_the_interval():
    wide, narrow = (guarded_t([Estimate(0.0, 5, 1.0)], alpha=alpha)[0].high for alpha in (0.01, 0.05))
    assert wide > narrow


def test_one_seed_has_no_critical_value():
    with pytest.raises(ValueError, match="needs 2 seeds or more; got 1"):
        critical_value(1, 3)
