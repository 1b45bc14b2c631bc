"""Power: against simulation with the rule itself, and limits that can be worked out."""

import numpy as np
import pytest
from scipy import stats

from ssdnorm.compare.power import Outlook
from ssdnorm.compare.rules import Estimate, critical_value, guarded_t


@pytest.mark.parametrize(
    ("num_seeds", "num_comparisons", "difference", "verdict"),
    [(3, 2, "detectable", "better"), (5, 4, "detectable", "better"), (5, 4, 1.41, "better"), (6, 2, 0.0, "equivalent")],
)
def test_simulated_comparisons_reach_a_verdict_as_often_as_promised(num_seeds, num_comparisons, difference, verdict):
    outlook = Outlook(1.0, num_comparisons)
    margin = outlook.equivalence_margin(num_seeds) if verdict == "equivalent" else None
    promised = outlook.power(difference, num_seeds) if difference == 1.41 else 0.8
    if difference == "detectable":
        difference = outlook.detectable(num_seeds)
    rng, verdicts = np.random.default_rng(7), []
    for _ in range(600):
        values = rng.standard_normal((num_comparisons + 1, num_seeds)) / np.sqrt(2)
        values[1] += difference
        paired = values[1:] - values[:1]
        estimates = [Estimate(float(d.mean()), num_seeds, float(d.std(ddof=1))) for d in paired]
        verdicts.append(guarded_t(estimates, margin=margin)[0].verdict)
    assert 0.2 < promised < 0.9
    assert verdicts.count(verdict) / len(verdicts) == pytest.approx(promised, abs=0.05)


def test_with_many_seeds_the_detectable_difference_is_the_normal_approximations():
    expected = (critical_value(150, 1) + stats.norm.isf(0.2)) / np.sqrt(150)
    assert Outlook(1.0, 1).detectable(150) == pytest.approx(expected, rel=0.03)


def test_the_detectable_difference_scales_with_the_scatter():
    assert Outlook(3.0, 2).detectable(5) == pytest.approx(3 * Outlook(1.0, 2).detectable(5))


def test_the_scatter_of_test_images_bounds_what_any_number_of_seeds_can_see():
    assert Outlook(1.0, 1, images_std=2.0).detectable(150) > 2 * critical_value(150, 1)
    assert Outlook(1.0, 1, images_std=2.0).seeds_to_decide(2.0) is None


def test_seeds_to_decide_is_the_first_number_that_detects_the_difference():
    outlook = Outlook(1.0, 3)
    num_seeds = outlook.seeds_to_decide(1.5)
    assert outlook.detectable(num_seeds) <= 1.5 < outlook.detectable(num_seeds - 1)


def test_a_difference_within_the_margin_is_decided_by_equivalence():
    outlook = Outlook(1.0, 1)
    assert outlook.seeds_to_decide(0.0) is None
    num_seeds = outlook.seeds_to_decide(0.0, margin=1.0)
    assert outlook.equivalence_margin(num_seeds) <= 1.0 < outlook.equivalence_margin(num_seeds - 1)


def test_the_power_of_holms_rule_is_that_of_bonferronis_intervals():
    difference = Outlook(1.0, 3, rule="paired_t_holm").detectable(4)
    rng = np.random.default_rng(5)
    paired = difference + rng.standard_normal((4000, 4))
    half = stats.t.isf(0.05 / 6, 3) * paired.std(axis=1, ddof=1) / 2
    assert np.mean(paired.mean(axis=1) > half) == pytest.approx(0.8, abs=0.03)
    assert difference > Outlook(1.0, 3).detectable(4), "the guarded rule finds more with few seeds"
