"""Say what a number of seeds can show: detectable differences, seeds needed, levels of repeated looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import stats

from ssdnorm.compare.rules import ALPHA, critical_value

POWER = 0.8
MOST_SEEDS = 200  # beyond, nobody trains them
_DRAWS = 10_000


def detectable_difference(
    std: float, num_seeds: int, num_comparisons: int, *, images_std: float = 0.0, alpha: float = ALPHA
) -> float:
    """The smallest true difference that the guarded rule calls better with a probability of 80 %.

    Arms are taken as normal with equal variances; the quantile comes from 10,000 simulated comparisons.

    Args:
        std: standard deviation of paired differences over seeds.
        num_seeds: 2 or more.
        num_comparisons: arms beside the baseline.
        images_std: standard error over test images, which more seeds do not reduce.

    Example:
        >>> 2.2 < detectable_difference(1.0, 5, 4) < 2.6
        True
    """
    half, noise = _simulated(std, num_seeds, num_comparisons, images_std, alpha)
    return float(np.quantile(half - noise, POWER))


def equivalence_margin(
    std: float,
    num_seeds: int,
    num_comparisons: int,
    *,
    value: float = 0.0,
    images_std: float = 0.0,
    alpha: float = ALPHA,
) -> float:
    """The smallest margin within which a true difference of ``value`` is called equivalent in 80 % of all cases."""
    half, noise = _simulated(std, num_seeds, num_comparisons, images_std, alpha)
    return float(np.quantile(half + np.abs(value + noise), POWER))


def seeds_to_decide(
    std: float,
    value: float,
    num_comparisons: int,
    *,
    margin: float | None = None,
    images_std: float = 0.0,
    alpha: float = ALPHA,
) -> int | None:
    """Seeds with which a true difference of ``value`` gets a verdict with a probability of 80 %.

    That is *better* or *worse*, or, if ``value`` lies within the margin, *equivalent*. None if more than 200 would be
    needed: the difference is then too small beside the scatter of seeds, or beside that of the test images.
    """

    def decides(num_seeds: int) -> bool:
        if detectable_difference(std, num_seeds, num_comparisons, images_std=images_std, alpha=alpha) <= abs(value):
            return True
        if margin is None or abs(value) >= margin:
            return False
        needed = equivalence_margin(std, num_seeds, num_comparisons, value=value, images_std=images_std, alpha=alpha)
        return needed <= margin

    if not decides(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # the answer lies in (low, high]; more seeds never decide less
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle > 1 and decides(middle) else (middle, high)
    return high


def spent_alpha(looks: Sequence[int], alpha: float = ALPHA) -> list[float]:
    r"""The level of each look at a growing number of seeds, so that all looks together make few false claims.

    Lan and DeMets' spending function of O'Brien and Fleming's kind gives
    :math:`2 - 2 \Phi(z_{\alpha/2} / \sqrt t)` until the share :math:`t` of the seeds; a look gets what was added since
    the last. The levels add up to alpha, which bounds the error whatever the correlation of the looks.

    Args:
        looks: rising numbers of seeds, declared before the first run.

    Sources:
        K. Lan, D. DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70, 1983.

    Example:
        >>> [round(level, 4) for level in spent_alpha([3, 5, 8])]
        [0.0014, 0.0118, 0.0368]
    """
    if not looks or list(looks) != sorted(set(looks)) or looks[0] < 2:
        raise ValueError(f"looks: expected rising numbers of seeds from 2; got {list(looks)}")
    z = stats.norm.isf(alpha / 2)
    spent = [2 * float(stats.norm.sf(z / math.sqrt(look / looks[-1]))) for look in looks]
    return [now - before for now, before in zip(spent, [0.0, *spent[:-1]], strict=True)]


def _simulated(
    std: float, num_seeds: int, num_comparisons: int, images_std: float, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Half widths of one comparison's interval and errors of its estimate, over simulated comparisons."""
    variances, z = _unit_draws(num_seeds, num_comparisons)
    seeds, images = std**2 * variances / num_seeds, images_std**2
    freedom = (num_seeds - 1) * float(np.median(((seeds + images) / seeds) ** 2)) if std else num_seeds - 1
    critical = critical_value(num_seeds, num_comparisons, alpha=alpha, freedom=freedom)
    return critical * np.sqrt(seeds + images), z * math.sqrt(std**2 / num_seeds + images_std**2)


@cache
def _unit_draws(num_seeds: int, num_comparisons: int) -> tuple[np.ndarray, np.ndarray]:
    """Guarded variances of one comparison whose paired differences have variance 1, and standard normal errors."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((_DRAWS, num_comparisons + 1, num_seeds)) / math.sqrt(2)
    variances = (values[:, 1:] - values[:, :1]).var(axis=2, ddof=1)
    return np.maximum(variances[:, 0], variances.mean(axis=1)), rng.standard_normal(_DRAWS)
