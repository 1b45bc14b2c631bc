"""Say what a number of seeds can show: detectable differences, margins of equivalence, seeds needed."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import stats

from ssdnorm.compare.rules import ALPHA, RuleName, critical_value

POWER = 0.8
MOST_SEEDS = 200  # beyond, nobody trains them
_DRAWS = 10_000
_MOST_DRAWN = 1_000_000  # numbers at once; with many seeds variances scatter less, and fewer of them do


def detectable_difference(
    std: float,
    num_seeds: int,
    num_comparisons: int,
    *,
    images_std: float = 0.0,
    alpha: float = ALPHA,
    rule: RuleName = "guarded_t",
) -> float:
    """The smallest true difference that a rule calls better with a probability of 80 %.

    Arms are taken as normal with equal variances; the quantile comes from up to 10,000 simulated comparisons.

    Args:
        std: standard deviation of paired differences over seeds.
        num_seeds: 2 or more.
        num_comparisons: arms beside the baseline.
        images_std: standard error over test images, which more seeds do not reduce.

    Example:
        >>> 2.2 < detectable_difference(1.0, 5, 4) < 2.6
        True
    """
    half, noise = _simulated(std, num_seeds, num_comparisons, images_std, alpha, rule)
    return float(np.quantile(half - noise, POWER))


def power_of(
    difference: float,
    std: float,
    num_seeds: int,
    num_comparisons: int,
    *,
    images_std: float = 0.0,
    alpha: float = ALPHA,
    rule: RuleName = "guarded_t",
) -> float:
    """The probability with which a true difference is called better; 80 % at :func:`detectable_difference`.

    Example:
        >>> 0.75 < power_of(detectable_difference(1.0, 5, 4), 1.0, 5, 4) < 0.85
        True
    """
    half, noise = _simulated(std, num_seeds, num_comparisons, images_std, alpha, rule)
    return float(np.mean(half - noise < difference))


def equivalence_margin(
    std: float,
    num_seeds: int,
    num_comparisons: int,
    *,
    value: float = 0.0,
    images_std: float = 0.0,
    alpha: float = ALPHA,
    rule: RuleName = "guarded_t",
) -> float:
    """The smallest margin within which a true difference of ``value`` is called equivalent in 80 % of all cases."""
    half, noise = _simulated(std, num_seeds, num_comparisons, images_std, alpha, rule)
    return float(np.quantile(half + np.abs(value + noise), POWER))


def seeds_to_decide(
    std: float,
    value: float,
    num_comparisons: int,
    *,
    margin: float | None = None,
    images_std: float = 0.0,
    alpha: float = ALPHA,
    rule: RuleName = "guarded_t",
) -> int | None:
    """Seeds with which a true difference of ``value`` gets a verdict with a probability of 80 %.

    That is *better* or *worse*, or, if ``value`` lies within the margin, *equivalent*. None if more than 200 would be
    needed: the difference is then too small beside the scatter of seeds, or beside that of the test images.
    """

    def decides(num_seeds: int) -> bool:
        least = detectable_difference(std, num_seeds, num_comparisons, images_std=images_std, alpha=alpha, rule=rule)
        if least <= abs(value) or margin is None or abs(value) >= margin:
            return least <= abs(value)
        needed = equivalence_margin(
            std, num_seeds, num_comparisons, value=value, images_std=images_std, alpha=alpha, rule=rule
        )
        return needed <= margin

    if not decides(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # the answer lies in (low, high]; more seeds never decide less
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle > 1 and decides(middle) else (middle, high)
    return high


def _simulated(
    std: float, num_seeds: int, num_comparisons: int, images_std: float, alpha: float, rule: RuleName
) -> tuple[np.ndarray, np.ndarray]:
    """Half widths of one comparison's interval and errors of its estimate, over simulated comparisons."""
    own, guarded, z = _unit_draws(num_seeds, num_comparisons)
    seeds = std**2 * (guarded if rule == "guarded_t" else own) / num_seeds
    square, freedom = seeds + images_std**2, num_seeds - 1.0
    if std and images_std:
        freedom *= float(np.median((square / seeds) ** 2))
    if rule == "guarded_t":
        critical = critical_value(num_seeds, num_comparisons, alpha=alpha, freedom=freedom)
    else:
        critical = float(stats.t.isf(alpha / 2 / num_comparisons, freedom))
    return critical * np.sqrt(square), z * math.sqrt(std**2 / num_seeds + images_std**2)


@cache
def _unit_draws(num_seeds: int, num_comparisons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own and guarded variances of a comparison whose paired differences have variance 1; standard normal errors."""
    rng = np.random.default_rng(0)
    size = min(_DRAWS, _MOST_DRAWN // (num_seeds * (num_comparisons + 1)))
    values = rng.standard_normal((size, num_comparisons + 1, num_seeds)) / math.sqrt(2)
    variances = (values[:, 1:] - values[:, :1]).var(axis=2, ddof=1)
    own, guarded = variances[:, 0], np.maximum(variances[:, 0], variances.mean(axis=1))
    return np.resize(own, _DRAWS), np.resize(guarded, _DRAWS), rng.standard_normal(_DRAWS)
