"""Say what a number of seeds can show: detectable differences, margins of equivalence, seeds needed."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from ssdnorm.compare.rules import ALPHA, RuleName, critical_value, shared_freedom

POWER = 0.8
MOST_SEEDS = 200  # more are impractical
_DRAWS = 10_000
_NUM_IMAGES = 1000  # of a test set; matters little
_MOST_DRAWN = 1_000_000  # numbers at once; with many seeds variances scatter less, and fewer of them do


@dataclass(frozen=True)
class Outlook:
    """What a rule finds among simulated comparisons of normal arms with equal variances.

    Example:
        >>> outlook = Outlook(1.0, 4)
        >>> 2.2 < outlook.detectable(5) < 2.6, 0.75 < outlook.power(outlook.detectable(5), 5) < 0.85
        (True, True)
    """

    std: float  # of paired differences over seeds
    num_comparisons: int  # arms beside the baseline, and contrasts
    images_std: float = 0.0  # standard error over test images, which more seeds do not reduce
    alpha: float = ALPHA  # family-wise
    rule: RuleName = "guarded_t"

    def detectable(self, num_seeds: int) -> float:
        """The smallest true difference that is called better with a probability of 80 %."""
        half, noise = self._simulated(num_seeds)
        return float(np.quantile(half - noise, POWER))

    def power(self, difference: float, num_seeds: int) -> float:
        """The probability with which a true difference is called better."""
        half, noise = self._simulated(num_seeds)
        return float(np.mean(half - noise < difference))

    def equivalence_margin(self, num_seeds: int, value: float = 0.0) -> float:
        """The smallest margin within which a true difference is called equivalent with a probability of 80 %."""
        half, noise = self._simulated(num_seeds)
        return float(np.quantile(half + np.abs(value + noise), POWER))

    def seeds_to_decide(self, value: float, margin: float | None = None) -> int | None:
        """Seeds with which a true difference gets a verdict with a probability of 80 %.

        That is *better* or *worse*, or, if ``value`` lies within the margin, *equivalent*. None if more than 200 would
        be needed: the difference is then too small beside the scatter of seeds, or beside that of the test images.
        """

        def decides(num_seeds: int) -> bool:
            if margin is not None and abs(value) < margin and self.equivalence_margin(num_seeds, value) <= margin:
                return True
            return self.detectable(num_seeds) <= abs(value)

        num_seeds = bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=decides)  # more seeds never decide less
        return num_seeds if num_seeds <= MOST_SEEDS else None

    def _simulated(self, num_seeds: int) -> tuple[np.ndarray, np.ndarray]:
        """Half widths of one comparison's interval and errors of its estimate, over simulated comparisons."""
        own, guarded, z = _unit_draws(num_seeds, self.num_comparisons)
        seeds = self.std**2 * (guarded if self.rule == "guarded_t" else own) / num_seeds
        square, images = seeds + self.images_std**2, self.images_std**2
        freedom = float(np.median(shared_freedom(seeds, images, num_seeds, _NUM_IMAGES))) if self.std else num_seeds - 1
        if self.rule == "guarded_t":
            critical = critical_value(num_seeds, self.num_comparisons, alpha=self.alpha, freedom=freedom)
        else:
            critical = float(stats.t.isf(self.alpha / 2 / self.num_comparisons, freedom))
        return critical * np.sqrt(square), z * math.sqrt(self.std**2 / num_seeds + self.images_std**2)


@cache
def _unit_draws(num_seeds: int, num_comparisons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own and guarded variances of a comparison whose paired differences have variance 1; standard normal errors."""
    rng = np.random.default_rng(0)
    size = min(_DRAWS, _MOST_DRAWN // (num_seeds * (num_comparisons + 1)))
    values = rng.standard_normal((size, num_comparisons + 1, num_seeds)) / math.sqrt(2)
    variances = (values[:, 1:] - values[:, :1]).var(axis=2, ddof=1)
    own, guarded = variances[:, 0], np.maximum(variances[:, 0], variances.mean(axis=1))
    return np.resize(own, _DRAWS), np.resize(guarded, _DRAWS), rng.standard_normal(_DRAWS)
