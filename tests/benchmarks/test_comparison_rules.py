"""The simulation of comparison rules: each vectorised rule against the package or scipy, and the drawn scenarios."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.comparison_rules import (
    RULES,
    Scenario,
    coverage,
    dunnett_critical_value,
    false_positives,
    games_howell,
    render,
    simulate,
)
from ssdnorm.compare import rules
from ssdnorm.compare.rules import Estimate

PACKAGE = {"guarded t": rules.guarded_t, "paired t, Holm": rules.paired_t_holm}


@pytest.mark.parametrize("name", sorted(PACKAGE))
@pytest.mark.parametrize("failing", [False, True])
def test_a_vectorised_rule_gives_the_packages_intervals(name, failing):
    values = Scenario(5, 4, "skewed", "rising", 0.5, failing).draw(np.random.default_rng(0), 5)
    estimate, half = RULES[name](values, 0.05)
    for row in range(len(values)):
        paired = [d[~np.isnan(d)] for d in values[row, 1:] - values[row, :1]]
        decisions = PACKAGE[name]([Estimate(d.mean(), len(d), d.std(ddof=1)) for d in paired])
        assert estimate[row] - half[row] == pytest.approx([d.low for d in decisions])
        assert estimate[row] + half[row] == pytest.approx([d.high for d in decisions])


def test_dunnetts_critical_value_is_that_of_scipys_test():
    groups = np.random.default_rng(3).standard_normal((4, 6))
    groups[1] += 1.2
    result = stats.dunnett(*groups[1:], control=groups[0], random_state=np.random.default_rng(0))
    interval = result.confidence_interval(0.95)
    error = np.sqrt(2 * groups.var(axis=1, ddof=1).mean() / 6)
    assert (interval.high - interval.low) / 2 / error == pytest.approx(dunnett_critical_value(3, 20, 0.05), rel=0.01)


def test_games_howell_is_scipys():
    groups = np.random.default_rng(4).standard_normal((1, 3, 7)) * np.array([1.0, 2.0, 3.0])[:, None]
    estimate, half = games_howell(groups, 0.05)
    interval = stats.tukey_hsd(*groups[0], equal_var=False).confidence_interval(0.95)
    for arm in (1, 2):
        assert estimate[0, arm - 1] - half[0, arm - 1] == pytest.approx(interval.low[arm, 0], rel=0.01)


@pytest.mark.parametrize("correlation", [-0.5, 0.9])
def test_a_scenario_has_the_correlation_and_the_variances_that_it_names(correlation):
    values = Scenario(2, 4, "skewed", "one arm", correlation).draw(np.random.default_rng(0), 40_000)
    assert np.corrcoef(values[:, 0, 0], values[:, 1, 0])[0, 1] == pytest.approx(correlation, abs=0.03)
    assert values[:, :, 0].var(axis=0) == pytest.approx([1, 1, 1, 10], rel=0.1)
    assert stats.skew(values[:, 1, 0]) < -0.5


def test_dunnett_is_exact_for_equal_normal_arms_and_liberal_where_the_baseline_is_noisy():
    equal = false_positives(Scenario(5, 5), 2000, 0)["Dunnett, blocked"]
    noisy = false_positives(Scenario(5, 5, variances="baseline"), 2000, 0)
    assert equal == pytest.approx(0.05, abs=0.02)
    assert noisy["Dunnett, blocked"] > 0.1 > noisy["guarded t"]


def test_the_interval_over_seeds_and_images_holds_the_truth_in_most_simulations():
    assert coverage(3, 0.5, 600, 0) == pytest.approx(0.95, abs=0.03)


def test_the_table_has_a_row_for_each_rule_and_number_of_seeds():
    table = render(simulate(20, seeds=(3,), arms=(2, 3), processes=1))
    for name in RULES:
        assert sum(line.startswith(f"| {name} |") for line in table.splitlines()) == 3
